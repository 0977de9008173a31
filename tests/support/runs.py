"""A whole run folder for tests of reports: a tiny trained run with its log, and the JSON files that other commands leave beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.auditing.report import AuditReport, Verdict
from hybrid.parallel import ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from tests.support import training

ABLATION = {"val": {"network": {"bpb": 5.25, "tokens_per_s": 900.0}, "+ trained cache": {"bpb": 2.5, "tokens_per_s": 800.0}}}


def make_run(data: Path, folder: Path) -> dict[str, Any]:
    """Trains the small model on `data` into `folder`, scores it, and writes an audit and an ablation; the result of the evaluation."""
    training.finish_here(data, folder, "--steps", "8", "--log-every", "2", "--val-every", "4")
    result = evaluate.evaluate(artifact.load(folder / "artifact.bin"), [data / "tiny_val_000000.bin"], ranks.start("cpu"), EvalOptions())[0]
    sums = np.array([1.0, 1.0 + 1e-7, 1.0 - 1e-7, 3.5])
    audit = AuditReport("eval.py", {"C1": Verdict("C1"), "C2": Verdict("C2", passed=False)}, np.arange(4), sums)
    for name, values in {"eval": result, "audit": audit.to_json(), "ablation": ABLATION}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return result
