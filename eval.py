"""Scores an artifact on validation shards.

    python eval.py --artifact A --data DIR_OR_SHARD [--stride S] [--ttt] [--json F] [--bits F]
    torchrun --standalone --nproc_per_node=2 eval.py --artifact A --data DIR

Reads nothing but the artifact and the shards.  hybrid/cli/evaluate.py, which `seedgram eval` shares, reads the flags and shows the table;
hybrid/scoring/evaluate.py scores: docs/architecture.md says how.

`eval.py audit` and `eval.py certify` prove the figure that this prints: they are commands of `seedgram` and replace this process.
"""

import os
import sys
from pathlib import Path

from hybrid.cli.evaluate import parse, run
from ngram.errors import run_cli
from ngram.terminal import carry_out


def main() -> int:
    if sys.argv[1:2] in (["audit"], ["certify"]):  # of this checkout's packages; output, exit code and torchrun's ranks are theirs
        path = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-P", "-m", "hybrid", *sys.argv[1:]]  # -P: not what may lie in the current folder under the same name
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)})
    return carry_out(run, parse(sys.argv[1:]))


if __name__ == "__main__":
    run_cli(main)
