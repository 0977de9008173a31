"""Ranks of a test: processes that run side by side."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence

from tests.support import loaded
from tests.support.paths import ROOT


def run_together(commands: Sequence[Sequence[str]], timeout: float, **environment: str) -> None:
    """Runs a command for each rank, with the project on the path.  Fails with what the ranks say when one of them fails."""
    ranks = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        said = [rank.communicate(timeout=timeout)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), "\n".join(said)


def spawn(function: Callable[..., None], args: tuple[object, ...], nprocs: int) -> None:
    """Runs `function(rank, *args)` in a process for each rank, forked with torch loaded; args: what JSON can say.  Fails with what a rank says that fails."""
    code = f"import json, sys; from {function.__module__} import {function.__name__} as run; run(*json.loads(sys.argv[1]))"
    run_together([[loaded.python(), "-c", code, json.dumps([rank, *args])] for rank in range(nprocs)], timeout=300)
