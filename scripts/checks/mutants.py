"""Breaks one line between artifact and printed figure at a time, and asks `eval.py audit` and `eval.py certify`, as a user would.

    python scripts/checks/mutants.py [--only NAME …] [--jobs 2] [--markdown F]       # a row is printed, and written to F, as soon as it is known

Each fault goes into a temporary copy of the sources; the audit comes first, the certificate where the audit passed.  A fault is caught
when one of them ends with another exit code than 0.  Exit code 1 when one survives.  The artifact is the tests' tiny one.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np

from hybrid.data import tokenizer
from hybrid.data.write_shards import write_shard
from ngram.errors import SeedgramError, run_cli
from tests.support import tiny

AUDIT = ["--max-tokens", "1500", "--positions", "64"]
CERTIFY = ["--bytes", "1200", "--order-bytes", "400", "--streams", "4"]
TTT = ("--ttt", "--ttt-rate", "0.01", "--stride", "8")
TWO_RANKS = ("--ranks", "2")


@dataclass(frozen=True)
class Fault:
    """`old` becomes `new` in `file`; flags: of audit and certify, where the line matters only then."""

    name: str
    file: str
    old: str
    new: str
    flags: tuple[str, ...] = ()


PREDICTOR, MIXTURE, PRODUCT = (f"hybrid/scoring/{name}.py" for name in ("predictor", "mixture", "product"))
WINDOWS, LEARNED, EVALUATE = (f"hybrid/scoring/{name}.py" for name in ("windows", "test_time_training", "evaluate"))
BYTES, REPORT, KERNELS, MATCH, GATE = (
    "hybrid/data/token_bytes.py",
    "hybrid/scoring/report.py",
    "ngram/online/kernels.py",
    "ngram/online/match.py",
    "ngram/blending/gate.py",
)
COUNT = "            scores = step(tokens, one.start, one.stop)\n"
AHEAD = "expert.update(tokens, one.start, one.stop)"
MIXED = "        mixed_n = mix(weights_nK[:, self.present], probs_nK[:, self.present])\n"
WEIGHTS = "                out.weights[here], noted.weights_WK[some] = np.split(weights, [b - a])\n"
GATED = "                weights = self.mixture.weights(np.concatenate([features_nF[here], noted.features_WF[some]]))\n"
COUNTED = "        return self.base[targets] + (self.space[targets] & ~self.silent[previous])"
PRINTED = '        table.add_row(name, f"{result[key]:.4f}" if'
SUMMED = "    ngram, mixed = (bits_per_byte(float(-np.log(p).sum()), total_bytes)"
FEATURES = "            places = np.flatnonzero(np.isin(one.asked.begins, where))\n"
INPUTS = "        inputs_BL[row, : end - begin] = tokens[begin:end]"
LOG = "        return torch.exp(-(whole_S - mixed_SV.gather(1, targets_S[:, None])[:, 0]).double())"
NATS = "    nll_S = -logp_SV.gather(1, targets_S[:, None])[:, 0]\n"
LOADED = "    return stream.read(0, usable)"
SIZES = "        size = np.array([len(piece) for piece in pieces.piece_bytes])\n"
OTHERS_NATS = "        dist.all_reduce(torch.from_numpy(out), group=ranks.patient_group)"
ROWS = "        rows = [(at, min(at + self.seq_len, stop - 1)) for at in range(start - 1, stop - 1, self.seq_len)]\n"

FAULTS = (
    Fault(
        "cache learns a block before it is scored",
        PREDICTOR,
        COUNT,
        COUNT.replace("step(", f"({AHEAD} or partial(expert.score, block=one.block, asked=one.asked) if expert is one.block.cache else step)("),
    ),
    Fault("best expert of each token instead of the mixture", MIXTURE, MIXED, "        mixed_n = probs_nK[:, self.present].max(axis=1)\n"),
    Fault("gate learns first", PREDICTOR, GATED, "                self.mixture.gate.update(features_nF[here], out.probs[here])\n" + GATED),
    Fault("each token counts two bytes more", BYTES, COUNTED, COUNTED.replace("return ", "return 2 + ")),
    Fault("match model learns a block before it is scored", PREDICTOR, COUNT, f"            expert is self.match and {AHEAD}\n" + COUNT),
    Fault("better of mixture and network", MIXTURE, MIXED, MIXED + "        mixed_n = np.maximum(mixed_n, probs_nK[:, NEURAL])\n"),
    Fault(
        "weights follow the target's probabilities",
        PREDICTOR,
        WEIGHTS,
        WEIGHTS + "                w = out.weights[here] * out.probs[here]\n                out.weights[here] = w / w.sum(axis=1, keepdims=True)\n",
    ),
    Fault(
        "features know the target", PREDICTOR, FEATURES, FEATURES + "            features_nF = features_nF + probs_nK[:, NGRAM, None].astype(np.float32)\n"
    ),
    Fault(
        "weights sum to 1.01",
        MIXTURE,
        "        weights_nK = self.gate.weights(features_nF)\n",
        "        weights_nK = 1.01 * self.gate.weights(features_nF)\n",
    ),
    Fault(
        "absent experts keep their weight",
        MIXTURE,
        "            weights_nK /= weights_nK.sum(axis=1, keepdims=True)\n",
        "            weights_nK[:, NGRAM] += 0.1\n",
        ("--no-match",),
    ),
    Fault("gate learns at every call instead of every chunk", MIXTURE, "if self._fill >= self.chunk_tokens", "if self._fill >= 1"),
    Fault(
        "mixture counts the network twice",
        GATE,
        "    return reduce(np.add, (weights_NK * probs_NK).T)",
        "    return reduce(np.add, (weights_NK * probs_NK).T, weights_NK[:, 0] * probs_NK[:, 0])",
    ),
    Fault("gate's floor is added and not shared", GATE, "(1.0 - FLOOR) * out_NK + FLOOR", "out_NK + FLOOR"),
    Fault("product is not divided by its sum", PRODUCT, LOG, LOG.replace("whole_S - ", "0.9 * whole_S - ")),
    Fault(
        "product's best token instead of the target",
        PRODUCT,
        LOG,
        LOG.replace("mixed_SV.gather(1, targets_S[:, None])[:, 0]", "mixed_SV.amax(1)"),
    ),
    Fault(
        "product's row is read with the target in its history",
        PRODUCT,
        "fill_from_parts(parts,",
        "fill_from_parts(parts._replace(lists=np.roll(parts.lists, -1, axis=1)),",
    ),
    Fault(
        "cache's discounts are forgotten for the target",
        KERNELS,
        "                p += kept_mass(state, k + 1, np.int64(state.pool[place[k], COUNT])) * scale",
        "                p += np.int64(state.pool[place[k], COUNT]) * scale",
    ),
    Fault(
        "cache counts the token before it looks",
        KERNELS,
        "        if len(prob):\n            prob[t - start]",
        "        count_token(state, cursor, place, token)\n        if len(prob):\n            prob[t - start]",
    ),
    Fault(
        "a row's order-1 mass is too large",
        KERNELS,
        "backoff(state, state.root, 1, 0) * scale * row[w]",
        "1.1 * backoff(state, state.root, 1, 0) * scale * row[w]",
    ),
    Fault(
        "match model is surer of the target",
        MATCH,
        "(sure if candidate == tokens[t] else 0.0)",
        "(1.5 * sure if candidate == tokens[t] else 0.0)",
    ),
    Fault(
        "network's inputs are shifted onto its targets",
        WINDOWS,
        INPUTS,
        "        inputs_BL[row, : end - begin] = tokens[begin + 1 : end + 1]",
    ),
    Fault("network's likeliest token instead of the target", WINDOWS, NATS, "    nll_S = -logp_SV.amax(-1)\n"),
    Fault("network's nats are a tenth less", WINDOWS, NATS, "    nll_S = -0.9 * logp_SV.gather(1, targets_S[:, None])[:, 0]\n"),
    Fault(
        "network's rows sum to more than 1",
        WINDOWS,
        "    logp_SV = logits_SV - logits_SV.exp().sum(-1, keepdim=True, dtype=torch.float64).log().to(logits_SV)",
        "    logp_SV = 0.05 + logits_SV - logits_SV.exp().sum(-1, keepdim=True, dtype=torch.float64).log().to(logits_SV)",
    ),
    Fault("attention looks ahead", "hybrid/model/attention.py", "is_causal=True, enable_gqa", "is_causal=False, enable_gqa"),
    Fault(
        "network learns a chunk before it is scored",
        LEARNED,
        "        todo = windows.windows_of(",
        "        self.update(tokens, start, stop)\n        todo = windows.windows_of(",
        TTT,
    ),
    Fault(
        "network's update reads beyond its chunk",
        LEARNED,
        ROWS,
        ROWS.replace("stop - 1))", "len(tokens) - 1))").replace(
            "range(start - 1, stop - 1,", "range(start - 1, min(stop + 31, len(tokens) - 1),"
        ),
        TTT,
    ),
    Fault(
        "the hardest targets are left out of the sum", EVALUATE, SUMMED, SUMMED.replace("-np.log(p).sum()", "-np.log(p[p > 0.01]).sum()")
    ),
    Fault(
        "no target costs more than four bits",
        EVALUATE,
        "            getattr(out, name)[start - 1 : stop - 1] = piece\n",
        "            getattr(out, name)[start - 1 : stop - 1] = np.maximum(piece, 1 / 16)\n",
    ),
    Fault(
        "bits are counted with another logarithm",
        BYTES,
        "    return nats / math.log(2) / total_bytes",
        "    return nats / math.log(2.2) / total_bytes",
    ),
    Fault("the table shows a twentieth less", REPORT, PRINTED, PRINTED.replace("result[key]:.4f", "0.95 * result[key]:.4f")),
    Fault("the table shows the n-grams' figure as blended", REPORT, '("blended", "blended_bpb")', '("blended", "ngram_bpb")'),
    Fault("the table claims twice the bytes", REPORT, "{result['bytes']:,} bytes, protocol", "{2 * result['bytes']:,} bytes, protocol"),
    Fault(
        "eval.py rounds down before it prints",
        "hybrid/cli/evaluate.py",
        "            report.show(result)\n",
        '            result["blended_bpb"] = int(10 * result["blended_bpb"]) / 10\n            report.show(result)\n',
    ),
    Fault("BOS counts as a byte", BYTES, SIZES, SIZES.replace("[len(piece) for", "[max(len(piece), 1) for")),
    Fault(
        "a space at a document's beginning counts where the challenge leaves it out",
        BYTES,
        "spaces_after_bos=encoding in (LOSSLESS, LOSSY)",
        "spaces_after_bos=True",
    ),
    Fault(
        "pieces say one byte more than they do",
        "ngram/pieces.py",
        'piece.replace(SPACE, " ").encode()',
        'piece.replace(SPACE, "  ").encode()',
    ),
    Fault(
        "the sum is divided by one byte in a hundred more than is printed",
        BYTES,
        "    return nats / math.log(2) / total_bytes",
        "    return nats / math.log(2) / (1.01 * total_bytes)",
    ),
    Fault("the figure is of the text behind its first hundred tokens", EVALUATE, LOADED, "    return stream.read(100, usable + 100)"),
    Fault(
        "the first shard is left out",
        "hybrid/data/shards.py",
        "    return found\n\n\nclass Stream",
        "    return found[1:] or found\n\n\nclass Stream",
    ),
    Fault("nothing is paid for what another rank has scored", WINDOWS, OTHERS_NATS, OTHERS_NATS.replace("out)", "out.copy())"), TWO_RANKS),
    Fault(
        "the product's share comes from every rank, once more for each",
        PREDICTOR,
        "dist.all_reduce(product_n, group=self.ranks.patient_group)",
        "dist.all_reduce(product_n, group=self.ranks.patient_group); product_n = product_n * self.ranks.world",
        TWO_RANKS,
    ),
    Fault(
        "the challenge's protocol drops a window more",
        EVALUATE,
        "(usable - 1) // seq_len * seq_len + 1",
        "((usable - 1) // seq_len - 1) * seq_len + 1",
        ("--protocol", "challenge"),
    ),
    Fault("the artifact is printed as half as large", EVALUATE, '        "artifact_bytes": art.size_bytes', '        "artifact_bytes": art.size_bytes // 2'),
    Fault(
        "the bits that are written are not those that are summed",
        EVALUATE,
        "        return -np.log2(self.blend.mixed) if",
        "        return -np.log2(self.blend.probs.max(axis=1)) if",
    ),
)


def inputs(folder: Path) -> None:
    """An artifact and two validation shards, for which no manifest vouches: what that would find is not asked here."""
    tiny.write_artifact(folder / "a.bin")
    codec = tokenizer.load(tiny.tokenizer_bytes())
    for shard, seed in enumerate((2, 5)):
        texts = [" " * (number % 2) + text for number, text in enumerate(tiny.documents(40, seed))]  # the challenge leaves such a space out
        write_shard(folder / f"x_val_{shard:06}.bin", np.concatenate(list(codec.encode_documents(texts))))


def asked(sources: Path, folder: Path, command: str, flags: list[str]) -> tuple[int, str]:
    """Exit code of a command of eval.py, and the line that says why it failed."""
    words = [
        sys.executable,
        str(sources / "eval.py"),
        command,
        "--artifact",
        str(folder / "a.bin"),
        "--data",
        str(folder),
        "--device",
        "cpu",
        *flags,
    ]
    environment = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=sources, env=environment, capture_output=True, text=True, check=False)
    if not done.returncode:
        return 0, ""
    lines = [line.strip() for line in done.stdout.splitlines() if "FAIL" in line or "promised" in line] + done.stderr.strip().splitlines()[
        -1:
    ]
    telling = [line for line in lines if not line.startswith(("eval.py: FAILED", "certificate FAILED"))]
    return done.returncode, (telling or lines or ["no reason given"])[0]


def verdict(fault: Fault | None, folder: Path) -> tuple[str, str]:
    """("audit", "certify" or "SURVIVED", reason); None: the sources as they are, ("passed", "") or what fails."""
    with tempfile.TemporaryDirectory() as place:
        sources = Path(place) / "sources"
        shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(".*", "runs", "build", "tests", "shared", "docs"))
        flags: list[str] = []
        if fault is not None:
            path = sources / fault.file
            text = path.read_text()
            if fault.old not in text:
                raise SeedgramError(f"{fault.file}: has no line {fault.old.strip()!r}; bring the fault {fault.name!r} up to date")
            path.write_text(text.replace(fault.old, fault.new, 1))
            for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):  # the others' bytecode is as good as it was
                compiled.unlink()
            flags = list(fault.flags)
        for command, own in (("audit", AUDIT), ("certify", [*CERTIFY, "--out", str(Path(place) / "F")])):
            code, why = asked(sources, folder, command, [*own, *flags])
            if code:
                return command, why
    return ("SURVIVED" if fault is not None else "passed"), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose names contain one of these words")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time [2]")
    parser.add_argument("--markdown", metavar="F", help="write the table there")
    flags = parser.parse_args()
    chosen = [fault for fault in FAULTS if not flags.only or any(word in fault.name for word in flags.only)]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(flags.jobs) as pool:
        folder = Path(place)
        inputs(folder)
        honest = verdict(None, folder)
        if honest[0] != "passed":
            raise SeedgramError(f"without any fault {honest[0]} fails: {honest[1]}")
        rows, survived = {-1: "| fault | line in | caught by | what it says |\n|---|---|---|---|"}, 0
        running = {pool.submit(verdict, fault, folder): number for number, fault in enumerate(chosen)}
        for ended in as_completed(running):
            fault, (caught, why) = chosen[running[ended]], ended.result()
            survived += caught == "SURVIVED"
            said = textwrap.shorten(why.replace(place, "").replace("|", "/"), 160, placeholder=" …")
            rows[running[ended]] = f"| {fault.name} | `{fault.file}` | {caught} | {said} |"
            print(rows[running[ended]], flush=True)
            if flags.markdown:
                Path(flags.markdown).write_text("\n".join(row for _, row in sorted(rows.items())) + "\n")
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    run_cli(main)
