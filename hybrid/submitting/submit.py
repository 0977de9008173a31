"""From run folders to the folder of a submission, or to the one line that says why there is none."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from hybrid.parallel.ranks import Ranks
from hybrid.submitting import archive, checks, machine, prove, records
from hybrid.submitting.checks import Limits, SubmissionError
from hybrid.submitting.records import Findings, Identity
from hybrid.submitting.runs import ARTIFACT, LOG, MACHINE, Run, read_runs
from ngram.container import atomic_write, read_bytes

Say = Callable[[str], None]


def submit(folders: Sequence[Path], data: str, out: Path, who: Identity, limits: Limits, ranks: Ranks, say: Say) -> Findings:
    """Writes the folder `out` and returns what it states.

    folders: of runs with different seeds; data: shards that they were trained on and scored on; say: hears what is being done.
    Raises SeedgramError, and writes nothing, when files are damaged, a check fails or the copy does not reproduce the claim."""
    check_place(out)
    runs = read_runs(folders)
    code, needed = archive.archive_bytes(), archive.requirements()
    books = checks.ledger(runs, len(code))
    found = [*checks.check_books(books, limits), *checks.check_times(runs, limits)]
    checks.require(found)
    say("comparing the documents of both sides")
    more, figures = checks.check_data(runs, data, limits)
    found += more
    checks.require(found)
    say("auditing what eval.py prints")
    found += checks.check_audits(runs, data, limits, ranks)
    checks.require(found)
    say("running the archive from an empty folder")
    proof = prove.prove(code, runs, data, ranks.device.type)
    say("measuring this machine")
    findings = Findings(runs, books, found, figures, proof, _machines(runs, ranks), needed)
    _write(out, code, who, findings)
    return findings


def check_place(out: Path) -> None:
    """Raises SubmissionError for a folder that holds something, or that cannot be made."""
    if len(os.fsencode(out.name)) > 255:
        raise SubmissionError(f"{out}: a name of more than 255 bytes; choose a shorter one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SubmissionError(f"{out}: is there already; a submission gets a new folder: choose another --out")
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise SubmissionError(f"{out}: {place} cannot be written to; choose another --out")


def _machines(runs: Sequence[Run], ranks: Ranks) -> dict[str, dict[str, object]]:
    """Fingerprints of where the runs were trained (RUN/machine.json of `seedgram bench`, where there is one) and of this machine."""
    found = {"proved": machine.measure(ranks.device)}
    for run in runs:
        if (run.folder / MACHINE).exists():
            found[f"trained, seed {run.seed}"] = json.loads(read_bytes(run.folder / MACHINE))
    return found


def _write(out: Path, code: bytes, who: Identity, findings: Findings) -> None:
    """All files appear together, by a rename, or none does."""
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name[:32]}.", dir=out.parent))
    try:
        building.chmod(0o755)
        atomic_write(building / archive.ARCHIVE, code)
        shutil.copyfile(findings.runs[0].folder / ARTIFACT, building / ARTIFACT)
        for run in findings.runs:
            shutil.copyfile(run.folder / LOG, building / f"train_seed{run.seed}.jsonl")
            atomic_write(building / f"eval_seed{run.seed}.json", (json.dumps(run.claim, indent=1) + "\n").encode())
        atomic_write(building / "requirements.txt", "".join(line + "\n" for line in findings.requirements).encode())
        atomic_write(building / "submission.json", (json.dumps(records.submission(who, findings), indent=1) + "\n").encode())
        atomic_write(building / "README.md", records.readme(who, findings).encode())
        with suppress(FileNotFoundError):
            out.rmdir()  # an empty one, see check_place
        building.rename(out)
    except OSError as error:
        raise SubmissionError(f"{out}: cannot write: {error.strerror}; free space or choose another --out") from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
