"""How often the auditor catches each of the tests' cheats, and how often it lets honest scorers pass: the table of docs/audit.md.

    python scripts/checks/cheats.py --record F [--seeds 20] [--honest 25] [--tokens 40000] [--jobs 1] [--only NAME …] [--table]

A seed chooses the text; what the auditor draws nobody can foresee.  Each audit is a line of F, written as soon as it ends, and what stands
there is not done again, so the work can be stopped and shared.  At the end, or at once with --table, the table of all that F holds: how
many bits fewer than the honest relative is claimed, mean over seeds, and how often the audit failed.  Exit code 1 where a cheat passed or
an honest scorer failed.
"""

import argparse
import functools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
for library in ("OMP", "OPENBLAS", "NUMBA"):  # the audits side by side are what the cores are for
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np

from hybrid.auditing.audit import audit_scorer
from tests.support import cheats, honest_scorers


def claimed_bits(scorer: honest_scorers.Counts, tokens: np.ndarray) -> float:
    """What a scorer says by itself over a stream, as its author would run it."""
    bits, stream = 0.0, tokens.copy()
    scorer.reset()
    for start in range(1, len(stream), 256):
        stop = min(start + 256, len(stream))
        bits -= float(np.log2(scorer.score(stream, start, stop)).sum())
        scorer.update(stream, start, stop)
    return bits


@functools.cache
def entitled_bits(size: int, seed: int) -> float:
    """What the honest relative says."""
    return claimed_bits(honest_scorers.Counts(), honest_scorers.text(size, seed))


def audited(kind: type[honest_scorers.Counts], seed: int, size: int) -> dict[str, Any]:
    """One line of the record."""
    tokens = honest_scorers.text(size, seed)
    cheats.RemembersItsAnswers.answers.clear()
    gain = 1 - claimed_bits(kind(), tokens) / entitled_bits(size, seed)
    report = audit_scorer(kind, tokens)
    broken = [name for name, verdict in report.verdicts.items() if not verdict.passed]
    return {"name": kind.__name__, "seed": seed, "tokens": size, "gain": gain, "broken": broken, "power": report.power, "tried": report.tried}


def table(record: list[dict[str, Any]]) -> bool:
    """Prints a row a scorer; whether all came out as they must."""
    as_expected = True
    for kind in (*honest_scorers.HONEST, *cheats.CHEATS):
        lines = [line for line in record if line["name"] == kind.__name__]
        if not lines:
            continue
        failed = [line for line in lines if line["broken"]]
        as_expected = as_expected and len(failed) == (0 if kind in honest_scorers.HONEST else len(lines))
        names = ", ".join(sorted({name for line in failed for name in line["broken"]})) or "–"
        gain = 100 * float(np.mean([line["gain"] for line in lines]))
        what = " ".join((kind.__doc__ or "").split())
        print(f"| `{kind.__name__}` | {what} | {gain:.1f} % | {len(failed)} of {len(lines)} | {names} |")
    return as_expected


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, metavar="F", help="a JSON line for each audit")
    parser.add_argument("--seeds", type=int, default=20, help="texts a cheat")
    parser.add_argument("--honest", type=int, default=25, help="texts an honest scorer")
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--jobs", type=int, default=1, help="audits at a time, each with two processes more that take turns with it [1]")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="class names of tests/support/cheats.py")
    parser.add_argument("--table", action="store_true", help="only show what the record holds")
    flags = parser.parse_args()
    wanted = [kind for kind in (*honest_scorers.HONEST, *cheats.CHEATS) if not flags.only or kind.__name__ in flags.only]
    done = {(line["name"], line["seed"], line["tokens"]) for line in read(flags.record)}
    todo = [
        (kind, seed)
        for seed in range(0 if flags.table else max(flags.seeds, flags.honest))
        for kind in wanted
        if seed < (flags.honest if kind in honest_scorers.HONEST else flags.seeds) and (kind.__name__, seed, flags.tokens) not in done
    ]
    # max_tasks_per_child: processes then start from nothing instead of as forks; and none may come to that number, after which Python 3.11 waits for ever
    with ProcessPoolExecutor(flags.jobs, max_tasks_per_child=len(todo) + 1) as pool, flags.record.open("a") as file:
        for ended in as_completed([pool.submit(audited, kind, seed, flags.tokens) for kind, seed in todo]):
            print(json.dumps(ended.result()), file=file, flush=True)
    return 0 if table(read(flags.record)) else 1


if __name__ == "__main__":
    sys.exit(main())
