"""What a submission has to keep before it is proved: bytes, times, seeds, data, and the audit of what its runs print."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.auditing.printed_run import MAX_TOKENS, POSITIONS, audit_artifact
from hybrid.data.manifest import check_shards
from hybrid.data.overlap import Shared, overlap
from hybrid.data.shards import Stream, find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.storing.counted_code import counted_files
from hybrid.submitting.runs import ARTIFACT, Run
from ngram.errors import SeedgramError
from ngram.pieces import Pieces

RECORD_SEEDS = 3  # runs that the challenge wants to see of a record
RECORD_DEVICES, RECORD_DEVICE = 8, "H100"


class SubmissionError(SeedgramError):
    """A submission that does not keep the rules, or that cannot prove what it claims."""


@dataclass(frozen=True)
class Limits:
    """cap_bytes: code and artifact together; train_s, eval_s: of any run, 0: unlimited; allow_overlap: of validation and training documents;
    audit_tokens: of the validation stream's beginning that each run's audit goes over; positions: of the network computed again there."""

    cap_bytes: int = 16_000_000
    train_s: float = 600.0
    eval_s: float = 600.0
    allow_overlap: bool = False
    audit_tokens: int = MAX_TOKENS
    positions: int = POSITIONS


@dataclass(frozen=True)
class Check:
    """One rule and what was found; a failed one ends the submission."""

    name: str
    passed: bool
    found: str


def ledger(runs: Sequence[Run], shipped_bytes: int) -> dict[str, dict[str, int]]:
    """{convention: bytes of code, of the largest artifact, of both}: "shipped": the code is the archive; "files": its files as they stand."""
    largest, files = max(run.size_bytes for run in runs), sum(path.stat().st_size for path in counted_files())
    conventions = {"shipped": shipped_bytes, "files": files}
    return {name: {"code": code, "artifact": largest, "total": code + largest} for name, code in conventions.items()}


def check_books(books: dict[str, dict[str, int]], limits: Limits) -> list[Check]:
    """The cap holds for what is shipped; the other convention is said, and decides nothing."""
    shipped, files = books["shipped"]["total"], books["files"]["total"]
    over = "" if files <= limits.cap_bytes else f", {files - limits.cap_bytes:,} over the cap: only the shipped form keeps it"
    found = f"{shipped:,} bytes as shipped, cap {limits.cap_bytes:,}; with the code as plain files {files:,}{over}"
    return [Check("size", shipped <= limits.cap_bytes, found)]


def check_times(runs: Sequence[Run], limits: Limits) -> list[Check]:
    """Training with what packing reads of the training text, and evaluation."""
    found = []
    for name, seconds, limit in (
        ("training time", max(run.training_s for run in runs), limits.train_s),
        ("evaluation time", max(float(run.claim["wall_s"]) for run in runs), limits.eval_s),
    ):
        words = f"limit {limit:g} s" if limit else "no limit"
        found.append(Check(name, not limit or seconds <= limit, f"{seconds:.1f} s at most, {words}"))
    return found


def check_data(runs: Sequence[Run], data: str, limits: Limits) -> tuple[list[Check], dict[str, Any]]:
    """Whether the shards in `data` are those that the runs were trained on and that their tokenizer made, and what sides share.

    Returns checks and figures.  Raises DataError for shards that are damaged or another tokenizer's."""
    model = runs[0].tokenizer
    train, val = Stream(find_shards(data, "train")), Stream(find_shards(data, "val"))
    check_shards(train, model)
    check_shards(val, model)
    trained_on = runs[0].header.get("data")
    same = trained_on == train.digests
    found = f"{len(train.paths)} shards, the digests in the runs' logs" if same else "not the shards that the runs' logs name"
    shared = overlap(train, val, Pieces(model).bos)
    told = f"{shared.documents:,} of {shared.of_documents:,} validation documents are training documents, {shared.share:.2%} of the tokens"
    checks = [
        Check("training data", same, found),
        Check("overlap", not shared.documents or limits.allow_overlap, told + ("; allowed by hand" if shared.documents and limits.allow_overlap else "")),
    ]
    return checks, _data_figures(train, val, shared)


def _data_figures(train: Stream, val: Stream, shared: Shared) -> dict[str, Any]:
    return {
        "train_shards": {path.name: digest for path, digest in zip(train.paths, train.digests, strict=True)},
        "val_shards": {path.name: digest for path, digest in zip(val.paths, val.digests, strict=True)},
        "train_tokens": len(train),
        "val_tokens": len(val),
        "shared_documents": shared.documents,
    }


def check_audits(runs: Sequence[Run], data: str, limits: Limits, ranks: Ranks) -> list[Check]:
    """The audit of every run, by the options of its score, over the beginning of the validation stream.

    eval.py is run with as many ranks as printed the claim, or as many as this machine has GPUs for, which is said."""
    found = []
    for run in runs:
        options, claimed = run.options(), int(run.claim.get("world", 1))
        world = max(1, min(claimed, torch.cuda.device_count())) if ranks.device.type == "cuda" else claimed
        several = f" by {world} of the {claimed} ranks that printed the claim" if claimed > 1 else ""
        tokens = min(limits.audit_tokens, options.max_tokens or limits.audit_tokens)
        stretch = dataclasses.replace(options, max_tokens=tokens)
        report = audit_artifact(str(run.folder / ARTIFACT), data, stretch, limits.positions, ranks, world)
        verdicts = ", ".join(f"{name} {'held' if verdict.passed else verdict.why}" for name, verdict in report.verdicts.items())
        found.append(Check(f"audit of seed {run.seed}", report.passed, f"{len(report.positions):,} distributions{several}: {verdicts}"))
    return found


def require(checks: Sequence[Check]) -> None:
    """Raises SubmissionError that lists every failed check."""
    if failed := [f"{check.name}: {check.found}" for check in checks if not check.passed]:
        raise SubmissionError(f"no submission was written: {'; '.join(failed)}")


def why_no_record(runs: Sequence[Run]) -> list[str]:
    """What keeps this from the track of records, in words; empty when nothing that can be seen here does."""
    first, reasons = runs[0], list[str]()
    if len(runs) < RECORD_SEEDS:
        reasons.append(f"{len(runs)} of {RECORD_SEEDS} seeds")
    world, device = first.summary.get("world"), str(first.header.get("device"))
    if world != RECORD_DEVICES or RECORD_DEVICE not in device:
        reasons.append(f"trained on {world} x {device}, not {RECORD_DEVICES} x {RECORD_DEVICE}")
    return reasons
