"""The files of a submission's folder: README.md and submission.json from what was read, checked and proved."""

import datetime
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hybrid.scoring.printed import flags_of
from hybrid.submitting.archive import ARCHIVE
from hybrid.submitting.checks import Check, why_no_record
from hybrid.submitting.prove import Proof
from hybrid.submitting.runs import ARTIFACT, Run, train_flags


@dataclass(frozen=True)
class Identity:
    """Who submits what, in the challenge's words: the author's name and GitHub account, the submission's name and one sentence on it."""

    author: str
    github_id: str
    name: str
    blurb: str


@dataclass(frozen=True)
class Findings:
    """Everything that the folder states.  books: see checks.ledger; data: figures of the shards; machines: {which: fingerprint}."""

    runs: Sequence[Run]
    books: dict[str, dict[str, int]]
    checks: Sequence[Check]
    data: dict[str, Any]
    proof: Proof
    machines: dict[str, dict[str, Any]]
    requirements: Sequence[str]

    @property
    def bpb(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(run.bpb for run in self.runs)

    @property
    def spread(self) -> float:
        """Standard deviation of one seed, 0 for a single one."""
        return statistics.stdev([run.bpb for run in self.runs]) if len(self.runs) > 1 else 0.0


def submission(who: Identity, found: Findings) -> dict[str, Any]:
    """submission.json: the challenge's keys first, then what else a reviewer asks."""
    return {
        **asdict(who),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "val_loss": statistics.fmean(run.loss_nats for run in found.runs),
        "val_bpb": found.bpb,
        "val_bpb_std": found.spread,
        "bytes_total": found.books["shipped"]["total"],
        "bytes_code": found.books["shipped"]["code"],
        "no_record_because": why_no_record(found.runs),
        "ledger": found.books,
        "seeds": {
            str(run.seed): {
                "val_bpb": run.bpb,
                "val_loss": run.loss_nats,
                "val_bpb_alone": found.proof.bpb[run.seed],
                "artifact_bytes": run.size_bytes,
                "steps": run.summary["steps"],
                "train_s": run.summary["wall_s"],
                "training_s": run.training_s,
                "eval_s": run.claim["wall_s"],
                "packing_s": run.phases,
            }
            for run in found.runs
        },
        "checks": {check.name: check.found for check in found.checks},
        "proof": {"small_training": found.proof.trained},
        "data": found.data,
        "eval_options": asdict(found.runs[0].options()),
        "commit": found.runs[0].header.get("commit"),
        "machines": found.machines,
        "requirements": list(found.requirements),
    }


def _commands(first: Run) -> list[str]:
    """How to run the archive: training with the run's own settings, and its score."""
    train = ["python", ARCHIVE, "train", *train_flags(first.settings), "--data DATA --tokenizer DATA/tokenizer.model --out RUN"]
    return [
        "    pip install -r requirements.txt",
        f"    {' '.join(train)}",
        f"    python {ARCHIVE} eval --artifact {ARTIFACT} --data DATA {' '.join(flags_of(first.options()))}",
        "",
        f"On several GPUs: `torchrun --standalone --nproc_per_node=8 {ARCHIVE} train …`. {ARTIFACT} is that of seed {first.seed}; its `eval` reads",
        f"nothing but it and the validation shards. The sources: `unzip -p {ARCHIVE} code.tar.xz | tar xJ`.",
    ]


def readme(who: Identity, found: Findings) -> str:
    """README.md of the folder."""
    first, books = found.runs[0], found.books
    mean = f"**{found.bpb:.4f} bits per byte**" + (f" (mean of {len(found.runs)} seeds, standard deviation {found.spread:.4f})" if found.spread else "")
    lines = [f"# {who.name}", "", who.blurb, "", f"{mean}, {books['shipped']['total']:,} bytes.", ""]
    if reasons := why_no_record(found.runs):
        lines += [f"Not for the record track: {'; '.join(reasons)}.", ""]
    columns = ["seed", "bits per byte", "the archive alone says", "artifact, bytes", "steps"]
    columns += ["training, s", "with the packing that reads training text, s", "evaluation, s"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for run in found.runs:
        times = f"{run.summary['wall_s']:.1f} | {run.training_s:.1f} | {run.claim['wall_s']:.1f}"
        lines.append(f"| {run.seed} | {run.bpb:.4f} | {found.proof.bpb[run.seed]:.4f} | {run.size_bytes:,} | {run.summary['steps']} | {times} |")
    lines += ["", f"Trained on {first.summary['world']} x {first.header['device']}, torch {first.header['torch']}, commit {first.header['commit']}.", ""]
    lines += ["## Bytes", "", "| the code counted as | code | largest artifact | together |", "|---|---|---|---|"]
    named = {"shipped": f"shipped: {ARCHIVE}, which Python runs as it is", "files": "its files, uncompressed, with every comment"}
    lines += [f"| {named[name]} | {sizes['code']:,} | {sizes['artifact']:,} | {sizes['total']:,} |" for name, sizes in books.items()]
    lines += ["", "## Checks", "", *(f"- {check.name}: {check.found}" for check in found.checks)]
    lines += [
        f"- alone: {ARCHIVE}, run from an empty folder with an empty home, printed the figures above, and trained, packed and scored a small model "
        f"({found.proof.trained['steps']} steps)",
    ]
    lines += ["", "## To run it", "", *_commands(first), "", "The machines' fingerprints, by which runs can be compared, are in submission.json.", ""]
    return "\n".join(lines)
