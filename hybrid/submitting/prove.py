"""The proof that a submission stands alone: its archive, run by Python from an empty folder with an empty home.

Nothing of this checkout is in reach there: no PYTHONPATH, Python's isolated mode, no variables but those in KEPT, the archive and the
artifacts as copies.  For each run, `eval` has to print the figure that is claimed; then `train` trains, packs and scores a model of
two small layers on the beginning of the same shards, which loads everything that training loads.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.data.load_stream import load_stream
from hybrid.data.write_shards import write_shard
from hybrid.scoring.printed import flags_of
from hybrid.submitting.archive import ARCHIVE
from hybrid.submitting.checks import SubmissionError
from hybrid.submitting.runs import ARTIFACT, Run, train_flags

KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LANG", "SYSTEMROOT", "NUMBA_DISABLE_JIT")
SAME_BPB = 1e-4  # the last digit that eval.py prints
TIMEOUT_S = 7200
TINY_TOKENS = {"train": 20_000, "val": 2_000}  # of the beginning of each side
TINY: dict[str, dict[str, Any]] = {  # what the run's own settings become, so that two steps take seconds on any device
    "model": {"layers": 2, "d_model": 64, "heads": 2, "kv_heads": 1, "mlp_mult": 2.0, "rope_dims": 8, "freeze_layers": -1, "rank_attention": 4,
              "rank_mlp": 4, "bigram_buckets": 0, "value_embed_dim": 0, "value_embed_layers": 0, "value_tables": 0, "xsa_layers": 0,
              "whole_layers": 0},
    "train": {"seconds": 0.0, "steps": 2, "seq_len": 64, "batch_tokens": 256, "microbatch_tokens": 256, "warmup_steps": 1},
    "quant": {"gptq_tokens": 64},
}  # fmt: skip


@dataclass(frozen=True)
class Proof:
    """bpb: {seed: what the archive's `eval` says}; trained: {"steps", "bpb"} of the small model that the archive's `train` made."""

    bpb: dict[int, float]
    trained: dict[str, float]


def prove(archive: bytes, runs: Sequence[Run], data: str, device: str) -> Proof:
    """Runs the archive by itself.  data: folder with shards of both sides; device: "cuda" or "cpu".

    Raises SubmissionError when a command fails, when the code it ran is not the archive's, or when a figure is another than was claimed."""
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        place = Path(folder)
        for name in ("work", "home", "tmp"):
            (place / name).mkdir()
        (place / "work" / ARCHIVE).write_bytes(archive)
        bpb = {run.seed: _evaluate(place, run, str(Path(data).resolve()), device, len(archive)) for run in runs}
        return Proof(bpb, _train(place, runs[0], data, device))


def alone(place: Path, words: Sequence[str]) -> None:
    """`python submission.zip WORDS` in place/work, with place/home as home and nothing else.  Raises SubmissionError with its last line."""
    done = subprocess.run(
        [sys.executable, "-I", ARCHIVE, *words],
        cwd=place / "work",
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        reason = ([line for line in done.stderr.splitlines() if line.strip()] or ["it gives no reason"])[-1]
        raise SubmissionError(f"no submission was written: alone, `{ARCHIVE} {words[0]}` ends with code {done.returncode}: {reason}")


def environment(place: Path, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    kept = {name: variables[name] for name in KEPT if name in variables}
    return {**kept, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}


def _evaluate(place: Path, run: Run, data: str, device: str, archive_bytes: int) -> float:
    shutil.copyfile(run.folder / ARTIFACT, place / "work" / ARTIFACT)
    alone(place, ["eval", "--artifact", ARTIFACT, "--data", data, "--device", device, "--json", "result.json", *flags_of(run.options())])
    result = json.loads((place / "work" / "result.json").read_text())
    if result["code_bytes"] != archive_bytes:
        raise SubmissionError(f"no submission was written: `{ARCHIVE} eval` ran other code than the archive's; report this")
    if not abs(result["blended_bpb"] - run.bpb) <= SAME_BPB:
        raise SubmissionError(
            f"no submission was written: seed {run.seed} claims {run.bpb:.6f} bits per byte, alone the archive says {result['blended_bpb']:.6f}"
        )
    return float(result["blended_bpb"])


def _train(place: Path, run: Run, data: str, device: str) -> dict[str, float]:
    shards = place / "work" / "small"
    shards.mkdir()
    for split, size in TINY_TOKENS.items():
        write_shard(shards / f"small_{split}_000000.bin", load_stream(data, split)[:size])
    (shards / "tokenizer.model").write_bytes(run.tokenizer)
    settings = {**run.settings, **{group: {**run.settings[group], **values} for group, values in TINY.items()}}
    settings["train"]["holdout_tokens"] = len(load_stream(shards, "train")) // 8
    places = ["--data", "small", "--tokenizer", "small/tokenizer.model", "--out", "small/run", "--device", device, "--allow-overlap"]
    alone(place, ["train", *train_flags(settings), *places])
    summary = json.loads((shards / "run" / "summary.json").read_text())
    return {"steps": summary["steps"], "bpb": summary["scores"]["blended_bpb"]}
