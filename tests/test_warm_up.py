"""After the warm-up nothing waits for a compiler, and an error does not wait for the warm-up."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny

from hybrid.data import write_shard
from ngram import warm_up
from ngram.errors import SeedgramError

pytestmark = pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="nothing is compiled")
ROOT = Path(__file__).resolve().parent.parent

# In a process of its own: kernels stay compiled.  The names of kernels compiled between the warm-up and the end are printed.
SCORE = """
from hybrid import artifact, evaluate
from hybrid.data import find_shards
from hybrid.distributed import Ranks
import torch
work = lambda: evaluate.score(art, find_shards(folder, "val"), Ranks(0, 1, torch.device("cpu")))
sets = (warm_up.SCORING,)
"""
CODE = """
from hybrid import artifact, stream_coder
from hybrid.data import load_stream
import torch
settings = stream_coder.Settings(400, 5, 0, True, 64, "text")
work = lambda: stream_coder.encode(art, "0" * 64, load_stream(folder, "val")[:400].copy(), settings, torch.device("cpu"))
sets = (warm_up.CODING,)
"""
FRAME = """
import sys
from numba.core import event
from ngram import warm_up
folder = sys.argv[1]
{setup}
art = artifact.load(folder + "/a.bin")
with warm_up.WarmUp(*sets):
    pass
assert warm_up.CLOCK.seconds > 0
class Names(event.Listener):
    def on_start(self, one): print("compiled", one.data["dispatcher"].py_func.__module__)
    def on_end(self, one): pass
event.register("numba:compile", Names())
work()
"""


@pytest.mark.parametrize("setup", [SCORE, CODE], ids=["score", "code"])
def test_no_kernel_of_ngrams_is_compiled_after_the_warm_up(setup, tmp_path):
    tiny.write_artifact(tmp_path / "a.bin")
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=30))
    command = [sys.executable, "-c", FRAME.format(setup=setup), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("compiled ngram")] == []


def test_an_error_ends_the_warm_up_after_the_kernel_at_hand():
    begun, go, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(10)

    def fail(running):
        begun.wait(10)
        running._stop.set = lambda inner=running._stop.set: (inner(), go.set())
        raise SeedgramError("no such file")

    with pytest.raises(SeedgramError), warm_up.WarmUp((first, lambda: done.append(1))) as running:
        fail(running)
    assert done == []


def test_what_two_sets_share_is_done_once():
    done = []
    work = [lambda i=i: done.append(i) for i in range(3)]
    with warm_up.WarmUp(work[:2], work[1:]):
        pass
    assert done == [0, 1, 2]
