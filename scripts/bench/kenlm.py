"""The wheel `kenlm-ex` and `ngram` side by side on one ARPA file and the same sentences of words.

    python scripts/bench/kenlm.py --train train.txt --test test.txt [--order 5] [--words 200000] [--json out.json]

Trains a model of words with `ngram`, writes it as ARPA, and lets each side, in a process of its own, load that file and score every line of the test text.
Printed for each: seconds of processor time to load, tokens scored a second of processor time through whole sentences, and word by word
through states, the memory that loading took (resident size after it less that before; Linux), bits per byte, and the size of the file.  KenLM's own binary
format needs its program build_binary, which the wheel does not bring.  `ours, model file` loads the coded model instead of the ARPA file.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
# works from a checkout that is not installed; this file's own folder goes, where `import kenlm` would find this file
sys.path[:] = [str(HERE.parents[2]), *(place for place in sys.path if Path(place or ".").resolve() != HERE.parent)]

from ngram.errors import SeedgramError, run_cli
from ngram.library.model import NgramModel
from ngram.library.scores import State
from ngram.words import WordVocabulary
from scripts.bench.common import make_parser, markdown

SIDES = {"kenlm-ex, ARPA": "m.arpa", "ours, ARPA": "m.arpa", "ours, model file": "m.ngram"}
BY_WORD = 20_000  # words scored one by one


def lines_of(path: Path) -> list[str]:
    """The lines of a text that are not blank, without markers, which each side would take for something else."""
    return [line for line in path.read_text().splitlines() if line.split() and "<" not in line]


def seconds(task: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds, result) of a call."""
    begin = time.process_time()
    result = task()
    return time.process_time() - begin, result


def memory_bytes() -> int:
    """Resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def kenlm_side(path: Path, lines: list[str]) -> dict[str, Any]:
    import kenlm

    settings = kenlm.Config()
    settings.show_progress, settings.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    before = memory_bytes()
    load_s, model = seconds(lambda: kenlm.Model(str(path), settings))
    took = memory_bytes() - before
    sum(model.score(line) for line in lines)  # as the other side does
    score_s, total = seconds(lambda: sum(model.score(line) for line in lines))

    def by_word(words: list[str]) -> None:
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for word in words:
            model.BaseScore(state, word, after)
            state, after = after, state

    words = " ".join(lines).split()[:BY_WORD]
    return facts(load_s, took, score_s, total, lines, len(words), seconds(lambda: by_word(words))[0])


def our_side(path: Path, lines: list[str]) -> dict[str, Any]:
    warm = NgramModel.train(["a b c"], orders=3)  # compiles or loads the kernels
    warm.base_score(warm.begin_sentence(), "a")
    warm.score("a")
    with tempfile.TemporaryDirectory() as name:
        for kind in set(SIDES.values()):
            warm.save(Path(name) / kind)
            _opened(Path(name) / kind)
    before = memory_bytes()
    load_s, model = seconds(lambda: _opened(path))
    took = memory_bytes() - before

    def all_at_once() -> float:
        assert isinstance(model.vocabulary, WordVocabulary)
        tokens = model.vocabulary.encode_lines("\n".join(lines))
        log10_p = model.static.log10_scores(tokens, 0, len(tokens))[0]
        return float(log10_p[tokens != model.vocabulary.bos].sum())

    all_at_once()  # a vocabulary above 65,535 words has kernels of its own
    score_s, total = seconds(all_at_once)

    def by_word(words: list[str]) -> None:
        state, after = model.begin_sentence(), State()
        for word in words:
            model.base_score(state, word, after)
            state, after = after, state

    words = " ".join(lines).split()[:BY_WORD]
    return facts(load_s, took, score_s, total, lines, len(words), seconds(lambda: by_word(words))[0])


def _opened(path: Path) -> NgramModel:
    model = NgramModel.load(path)
    _ = model.static.index
    return model


def facts(load_s: float, took: int, score_s: float, log10_p: float, lines: list[str], words: int, words_s: float) -> dict[str, Any]:
    tokens, size_bytes = sum(len(line.split()) + 1 for line in lines), sum(len(line.encode()) + 1 for line in lines)
    return {
        "load_s": round(load_s, 3),
        "memory_bytes": took,
        "tokens": tokens,
        "tokens_per_s": round(tokens / max(score_s, 1e-9)),
        "words_per_s_by_state": round(words / max(words_s, 1e-9)),
        "bpb": -log10_p / 0.30102999566398120 / size_bytes,
    }


def compare(flags: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model = NgramModel.train([flags.train.read_text()], WordVocabulary.build([flags.train.read_text()], flags.words), flags.order)
    for name in set(SIDES.values()):
        model.save(folder / name)
    results = {}
    for side, name in SIDES.items():
        command = [sys.executable, __file__, "--side", side, "--model", str(folder / name), "--train", str(flags.train), "--test", str(flags.test)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SeedgramError(f"{side}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}; see above")
        results[side] = json.loads(done.stdout.splitlines()[-1]) | {"file_bytes": (folder / name).stat().st_size}
    return results


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="F", help="UTF-8 text to train on, a sentence a line")
    parser.add_argument("--test", type=Path, required=True, metavar="F", help="UTF-8 text to score")
    parser.add_argument("--order", type=int, default=5, metavar="N", help="of the model; the wheel reads up to 6 [5]")
    parser.add_argument("--words", type=int, default=200_000, metavar="N", help="types of the vocabulary [200000]")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures there, too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        side = kenlm_side if flags.side.startswith("kenlm") else our_side
        print(json.dumps(side(flags.model, lines_of(flags.test))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        results = compare(flags, Path(name))
    keys = list(next(iter(results.values())))
    print(markdown(["", *keys], [[side, *(f"{row[key]:,.4f}" if key == "bpb" else f"{row[key]:,}" for key in keys)] for side, row in results.items()]))
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_cli(main)
