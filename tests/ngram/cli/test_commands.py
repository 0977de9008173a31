"""`python -m ngram`: what it scores is what the oracle scores, budgets hold, and bad input is one line and exit code 2."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm

from ngram.__main__ import main
from ngram.counting.counter import NgramCache
from ngram.errors import run_cli
from ngram.mixture.context_sets import word_classes
from ngram.mixture.mixture import Mixture
from ngram.online.cache import OnlineCache
from ngram.storing.model_file import read_counts, read_model
from ngram.tokenizer import Tokenizer, TokenizerError
from tests.support import kn_oracle
from tests.support.paths import ROOT

WORDS = ["seed", "gram", "map", "the", "of", "a", "count", "token", "byte", "order"]
Cli = Callable[..., tuple[int, str, str]]


def make_text(seed: int, words: int = 250) -> str:
    random = np.random.default_rng(seed)
    text = " ".join(random.choice(WORDS, words, p=np.arange(10, 0, -1) / 55))
    return text.replace(" the ", ".\n the  ") + "\n"


def train_tokenizer(path: Path, **options: Any) -> Path:
    """A SentencePiece model of the texts' words; by default lossless."""
    (path.parent / "sp.txt").write_text(make_text(0, 600))
    lossless: dict[str, Any] = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False, "byte_fallback": True}
    spm.SentencePieceTrainer.train(
        input=str(path.parent / "sp.txt"),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        minloglevel=3,
        **{**lossless, **options},
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts a.txt, b.txt and test.txt, tokenizer t.model, model ab.c of both with all orders 2-4, counts a.r and b.r."""
    folder = tmp_path_factory.mktemp("cli")
    train_tokenizer(folder / "t.model", vocab_size=290, user_defined_symbols=["\n"])
    for seed, name in enumerate(("a", "b", "test"), 1):
        (folder / f"{name}.txt").write_text(make_text(seed, 80 if name == "test" else 250))
    sys_argv = sys.argv
    for names, outputs in ((["a", "b"], ["--out", "ab.c"]), (["a"], ["--counts-out", "a.r"]), (["b"], ["--counts-out", "b.r"])):
        texts = [str(folder / f"{name}.txt") for name in names]
        sys.argv = [
            "ngram",
            "train",
            "--train",
            *texts,
            "--tokenizer",
            str(folder / "t.model"),
            "--orders",
            "2-4",
            outputs[0],
            str(folder / outputs[1]),
        ]
        main()
    sys.argv = sys_argv
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Cli:
    """Runs a command line in `folder` → (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["ngram", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_cli(main)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def good(result: tuple[int, str, str]) -> dict:
    """The JSON that a command printed; fails unless it ended well and silently."""
    assert (result[0], result[2]) == (0, "")
    return json.loads(result[1])


def refused(result: tuple[int, str, str]) -> str:
    """The one line on stderr of a command that refused its input."""
    code, out, err = result
    assert (code, out, err.count("\n"), "Traceback" in err) == (2, "", 1, False), result
    return err


def stream_of(folder: Path, name: str) -> np.ndarray:
    return next(Tokenizer(folder / "t.model").encode_documents([(folder / name).read_text()]))


def test_the_static_score_is_the_brute_force_probability_of_every_token_but_bos(cli: Cli, folder: Path) -> None:
    report = good(cli("score", "--model", "ab.c", "--test", "test.txt", "--json", "score.json"))
    table, tokens = read_model(folder / "ab.c").table, stream_of(folder, "test.txt").tolist()
    bits = [-np.log2(kn_oracle.row(table, kn_oracle.history_of(tokens, t, table.order, table.bos))[tokens[t]]) for t in range(1, len(tokens))]
    size = len((folder / "test.txt").read_bytes())
    assert (report["tokens"], report["bytes"], report["lossless"], report["order"]) == (len(tokens) - 1, size, True, 4)
    assert report["bpb"] == pytest.approx(sum(bits) / size, rel=1e-12) and report["tokens_per_s"] > 0
    assert json.loads((folder / "score.json").read_text()) == report


@pytest.mark.parametrize("expert", ["kn", "mix"])
@pytest.mark.parametrize("chunk", [1, 7])
def test_the_online_score_is_a_loop_of_score_then_update(cli: Cli, folder: Path, chunk: int, expert: str) -> None:
    flags = ("--online", "kn") if expert == "kn" else ("--online",)  # the mixture is the default
    report = good(cli("score", "--model", "ab.c", "--test", "test.txt", *flags, "--chunk-tokens", chunk))
    model, tokens, bits = read_model(folder / "ab.c"), stream_of(folder, "test.txt"), 0.0
    cache = OnlineCache(model.table) if expert == "kn" else Mixture(model.table, word_classes(model.tokenizer.pieces()))
    for start in range(1, len(tokens), chunk):
        stop = min(start + chunk, len(tokens))
        bits -= np.log2(cache.score(tokens, start, stop).prob).sum()
        cache.update(tokens, start, stop)
    assert report["bpb"] == pytest.approx(bits / report["bytes"], rel=1e-12)


def test_a_chunk_as_long_as_the_text_scores_as_the_static_model(cli: Cli) -> None:
    static = good(cli("score", "--model", "ab.c", "--test", "test.txt"))
    chunked = good(cli("score", "--model", "ab.c", "--test", "test.txt", "--online", "kn", "--chunk-tokens", 10**9))
    assert chunked["bpb"] == static["bpb"]


def test_merged_counts_of_parts_give_the_very_file_of_training_on_all(cli: Cli, folder: Path) -> None:
    good(cli("merge", "a.r", "b.r", "--out", "merged.c", "--counts-out", "ab.r"))
    assert (folder / "merged.c").read_bytes() == (folder / "ab.c").read_bytes()
    total = read_counts(folder / "ab.r")
    assert total.positions == sum(len(stream_of(folder, f"{name}.txt")) - 1 for name in "ab") == total.run.total()


def test_a_model_of_lower_order_comes_from_the_same_counts(cli: Cli, folder: Path) -> None:
    good(cli("train", "--train", "a.txt", "--tokenizer", "t.model", "--orders", "1-3", "--out", "a3.c"))
    good(cli("merge", "a.r", "--orders", "2-3", "--out", "merged3.c"))
    assert (folder / "merged3.c").read_bytes() == (folder / "a3.c").read_bytes()


def test_min_count_keeps_exactly_the_n_grams_that_occur_as_often(cli: Cli, folder: Path) -> None:
    report = good(cli("merge", "a.r", "--min-count", "1,1,2,3", "--out", "min.c"))
    raw, _ = kn_oracle.raw_counts(stream_of(folder, "a.txt").tolist(), 4, 1)
    kept = sum(1 for gram, count in raw.items() if len(gram) > 1 and count >= (1, 1, 2, 3)[len(gram) - 1])
    assert report["ngrams"] == kept + read_model(folder / "min.c").table.vocab_size


@pytest.mark.parametrize(
    "command",
    [("merge", "a.r", "b.r"), ("prune", "ab.c"), ("train", "--train", "a.txt", "b.txt", "--tokenizer", "t.model", "--orders", "2-4")],
)
def test_max_bytes_holds_for_the_whole_file_and_the_smallest_is_named(cli: Cli, folder: Path, command: tuple[str, ...]) -> None:
    message = refused(cli(*command, "--out", "small.c", "--max-bytes", 100))
    minimum = int(message.split(" take ")[1].split(";")[0])
    assert "--max-bytes 100: too small" in message and not (folder / "small.c").exists()
    for budget in (minimum, minimum + 150, (folder / "ab.c").stat().st_size):
        report = good(cli(*command, "--out", "small.c", "--max-bytes", budget))
        assert report["file_bytes"] == (folder / "small.c").stat().st_size <= budget
        good(cli("score", "--model", "small.c", "--test", "test.txt"))
    (folder / "small.c").unlink()
    assert str(minimum) in refused(cli(*command, "--out", "small.c", "--max-bytes", minimum - 1))


def test_prune_keeps_at_most_the_n_grams_asked_for(cli: Cli, folder: Path) -> None:
    full = sum(read_model(folder / "ab.c").table.sizes())
    report = good(cli("prune", "ab.c", "--out", "few.c", "--max-ngrams", full - 100))
    assert full - 200 < report["ngrams"] <= full - 100
    assert "single tokens alone are 290" in refused(cli("prune", "ab.c", "--out", "few.c", "--max-ngrams", 5))


def test_info_says_what_is_in_the_file(cli: Cli, folder: Path) -> None:
    facts, model = good(cli("info", "ab.c", "--json")), read_model(folder / "ab.c")
    assert [o["ngrams"] for o in facts["orders"]] == model.table.sizes() and facts["file_bytes"] == (folder / "ab.c").stat().st_size
    assert facts["bits_per_ngram"] == pytest.approx(8 * facts["table_bytes"] / sum(model.table.sizes()), abs=1e-3)
    code, out, err = cli("info", "ab.c")
    assert (code, err) == (0, "") and f"{facts['ngrams']:,}" in out
    counts = good(cli("info", "a.r", "--json"))
    assert (counts["kind"], counts["tokens"]) == ("counts", len(stream_of(folder, "a.txt")) - 1)


def test_an_exported_model_scores_the_same_as_an_arpa_file(cli: Cli) -> None:
    good(cli("arpa", "ab.c", "--out", "ab.arpa"))
    static = good(cli("score", "--model", "ab.c", "--test", "test.txt"))
    exported = good(cli("score", "--model", "ab.arpa", "--tokenizer", "t.model", "--test", "test.txt"))
    assert exported["bpb"] == pytest.approx(static["bpb"], rel=1e-6)


def test_the_same_command_writes_the_same_bytes(cli: Cli, folder: Path) -> None:
    good(cli("train", "--train", "a.txt", "b.txt", "--tokenizer", "t.model", "--orders", "2-4", "--out", "again.c"))
    assert (folder / "again.c").read_bytes() == (folder / "ab.c").read_bytes()


def test_a_tokenizer_that_loses_text_says_so_and_is_scored_on_what_it_keeps(cli: Cli, folder: Path) -> None:
    train_tokenizer(folder / "lossy.model", normalization_rule_name="nmt_nfkc", byte_fallback=False, vocab_size=40)
    (folder / "foreign.txt").write_text((folder / "test.txt").read_text() + "\u4e2d\u6587" * 50)
    code, out, err = cli("train", "--train", "foreign.txt", "--tokenizer", "lossy.model", "--orders", "2-3", "--out", "lossy.c")
    assert code == 0 and err.count("\n") == 1 and "lossy.model: has no byte pieces and loses" in err
    code, out, err = cli("score", "--model", "lossy.c", "--test", "foreign.txt")
    assert code == 0 and err.count("\n") == 1 and "foreign.txt: the tokenizer has no byte pieces and loses" in err
    assert json.loads(out)["lossless"] is False and json.loads(out)["bytes"] <= len((folder / "test.txt").read_bytes())


def test_a_normalising_tokenizer_is_scored_on_every_byte_of_the_text(cli: Cli, folder: Path) -> None:
    """100,000 spaces and a letter once cost 0.0001 bits a byte: the tokenizer collapsed the spaces, and the bytes were all counted."""
    train_tokenizer(folder / "nfkc.model", normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True, vocab_size=330)
    (folder / "spaces.txt").write_text(" " * 2_000 + "x")
    good(cli("train", "--train", "a.txt", "--tokenizer", "nfkc.model", "--orders", "2-3", "--out", "nfkc.c"))
    report = good(cli("score", "--model", "nfkc.c", "--test", "spaces.txt"))
    assert (report["lossless"], report["bytes"]) == (True, 2_001)
    assert report["tokens"] > 100 and report["bpb"] > 0.1


def test_train_and_score_take_every_kind_of_text_that_prepare_takes(cli: Cli, folder: Path) -> None:
    import gzip

    (folder / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        text = (folder / name).read_text()
        (folder / "in" / f"{name[0]}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": text}).encode()))
    good(cli("train", "--train", "in", "--tokenizer", "t.model", "--orders", "2-4", "--out", "in.c"))
    assert (folder / "in.c").read_bytes() == (folder / "ab.c").read_bytes()
    (folder / "test.csv").write_text('text\n"' + (folder / "test.txt").read_text().replace('"', '""') + '"\n')
    assert good(cli("score", "--model", "in.c", "--test", "test.csv"))["bpb"] == good(cli("score", "--model", "ab.c", "--test", "test.txt"))["bpb"]


def test_a_tokenizer_without_bos_begins_documents_with_eos_and_one_with_neither_is_refused(folder: Path) -> None:
    path = train_tokenizer(folder / "eos.model", vocab_size=290, bos_id=-1)
    assert Tokenizer(path.read_bytes(), "t").bos == 2
    path = train_tokenizer(folder / "none.model", vocab_size=290, bos_id=-1, eos_id=-1)
    with pytest.raises(TokenizerError, match="neither a BOS nor an EOS"):
        Tokenizer(path.read_bytes(), "none.model")


TRAIN = ("train", "--train", "a.txt", "--tokenizer", "t.model", "--out", "new.c")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ((*TRAIN, "--orders", "3-7"), "--orders 3-7: the low order must be 1 or 2"),
        ((*TRAIN, "--orders", "0-7"), "--orders 0-7"),
        ((*TRAIN, "--orders", "2-9"), "--orders 2-9"),
        ((*TRAIN, "--orders", "2-1"), "--orders 2-1"),
        ((*TRAIN, "--orders", "7"), "--orders '7': expected LOW-HIGH"),
        ((*TRAIN, "--orders", "2-²"), "expected LOW-HIGH"),
        ((*TRAIN, "--max-bytes", "0"), "--max-bytes: '0' is not a positive whole number"),
        ((*TRAIN, "--max-bytes", "2MB"), "'2MB' is not a positive whole number"),
        ((*TRAIN, "--min-count", "1,3,2"), "never decrease"),
        ((*TRAIN, "--min-count", "2"), "must begin with 1"),
        ((*TRAIN, "--min-count", "1,x"), "write for example 1,1,1,2"),
        ((*TRAIN, "--frobnicate"), "unrecognized arguments: --frobnicate"),
        (("train", "--train", "a.txt", "--tokenizer", "t.model"), "nothing to write"),
        (("train", "--train", "a.txt", "--tokenizer", "t.model", "--counts-out", "x", "--max-bytes", "9"), "give --out"),
        (("train", "--train", "missing.txt", "--tokenizer", "t.model", "--out", "new.c"), "missing.txt: no such file"),
        (("train", "--train", "a.txt", "--tokenizer", "a.txt", "--out", "new.c"), "a.txt: not a SentencePiece model"),
        (("train", "--train", "t.model", "--tokenizer", "t.model", "--out", "new.c"), "is not UTF-8; convert the file"),
        (("train", "--train", "empty.txt", "--tokenizer", "t.model", "--out", "new.c"), "empty.txt: holds no text"),
        (("train", "--train", "a.txt", "--tokenizer", "t.model", "--out", "a.txt/new.c"), "cannot write"),
        (("score", "--model", "a.txt", "--test", "test.txt"), "a.txt: not a SGNGRAM file"),
        (("score", "--model", "a.r", "--test", "test.txt"), "a.r: not a SGNGRAM file"),
        (("score", "--model", "missing.c", "--test", "test.txt"), "missing.c: cannot read"),
        (("score", "--model", "ab.c", "--test", "empty.txt"), "empty.txt: holds no text"),
        (("score", "--model", "ab.c", "--test", "test.txt", "--tokenizer", "t.model"), "has its tokenizer inside"),
        (("score", "--model", "bare.arpa", "--test", "test.txt"), "bare.arpa: line 2: the file ends too early"),
        (("score", "--model", "bare.arpa", "--test", "test.txt", "--tokenizer", "t.model", "--online"), "leave --online out"),
        (("score", "--model", "bare.arpa", "--test", "test.txt", "--tokenizer", "t.model"), "bare.arpa: line 2: the file ends too early"),
        (("score", "--model", "ab.c", "--test", "test.txt", "--chunk-tokens", "0"), "'0' is not a positive whole number"),
        (("merge", "a.r", "ab.c", "--out", "new.c"), "ab.c: not a SGCOUNTS file"),
        (("merge", "a.r", "--orders", "2-5", "--out", "new.c"), "a.r was counted up to order 4"),
        (("prune", "ab.c", "--out", "new.c"), "give one of --max-bytes and --max-ngrams"),
        (("info", "t.model"), "t.model: not a SGNGRAM file"),
        (("explain",), "invalid choice: 'explain'"),
        ((), "required: train|score|merge|prune|info|arpa"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(cli: Cli, folder: Path, command: tuple[str, ...], complaint: str) -> None:
    (folder / "empty.txt").write_text("")
    (folder / "bare.arpa").write_text("\\data\\\n")
    before = sorted(entry.name for entry in folder.iterdir())
    assert complaint in refused(cli(*command))
    assert sorted(entry.name for entry in folder.iterdir()) == before


def test_counts_of_other_orders_or_tokenizers_are_refused(cli: Cli, folder: Path) -> None:
    train_tokenizer(folder / "other.model", vocab_size=300)
    good(cli("train", "--train", "a.txt", "--tokenizer", "t.model", "--orders", "2-3", "--counts-out", "a3.r"))
    assert "a3.r: has orders up to 3, a.r up to 4" in refused(cli("merge", "a.r", "a3.r", "--out", "new.c"))
    good(cli("train", "--train", "a.txt", "--tokenizer", "other.model", "--orders", "2-4", "--counts-out", "other.r"))
    assert "other.r: was counted with another tokenizer than a.r" in refused(cli("merge", "a.r", "other.r", "--out", "new.c"))


@pytest.mark.parametrize("name", ["ab.c", "a.r"])
def test_a_file_cut_or_altered_anywhere_is_refused_by_name(cli: Cli, folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    random = np.random.default_rng(0)
    altered = [data[: int(cut)] for cut in (0, 7, 15, *random.integers(16, len(data), 5))]
    for at in (0, 8, 12, 20, len(data) - 1, *random.integers(0, len(data), 10)):
        altered.append(data[:at] + bytes([data[at] ^ 1 << int(random.integers(8))]) + data[at + 1 :])
    for bad in altered:
        (folder / f"bad-{name}").write_bytes(bad)
        assert f"bad-{name}: " in refused(cli("info", f"bad-{name}"))


def test_the_command_works_as_a_module_and_imports_no_torch(folder: Path) -> None:
    code = "import sys, runpy; sys.argv = ['ngram', 'info', 'ab.c', '--json']\ntry: runpy.run_module('ngram', run_name='__main__')\n"
    code += "except SystemExit as end: assert not end.code and 'torch' not in sys.modules and 'hybrid' not in sys.modules"
    environment = {"PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "1"}  # a tiny file: compiling would take longer
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["kind"] == "model"


def test_the_reported_time_begins_before_anything_is_counted(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves only while texts are counted: all of it is in `wall_s`."""
    clock = [100.0]
    counted = NgramCache.count_stream

    def slowly(cache: NgramCache, tokens: np.ndarray) -> None:
        counted(cache, tokens)
        clock[0] += 7.0

    monkeypatch.setattr(NgramCache, "count_stream", slowly)
    monkeypatch.setattr("ngram.cli.commands.time.perf_counter", lambda: clock[0])
    report = good(cli("train", "--train", "a.txt", "b.txt", "--tokenizer", "t.model", "--orders", "2-3", "--out", "timed.c"))
    assert report["wall_s"] == 14.0
