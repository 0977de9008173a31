"""After the warm-up nothing waits for a compiler, and an error does not wait for the warm-up."""

import os
import subprocess
import threading

import pytest

from hybrid.data.write_shards import write_shard
from ngram.blending import warm_up
from ngram.errors import SeedgramError
from tests.support import loaded, tiny
from tests.support.paths import ROOT

# In a process of its own, forked before any kernel is loaded, because kernels stay loaded.
# Each kernel that the warm-up, and then the work, needs as machine code is printed.
SCORE = """
from hybrid.data.shards import find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.storing import artifact
import torch
work = lambda: evaluate.evaluate(art, find_shards(folder, "val"), Ranks(0, 1, torch.device("cpu")))[0]
sets = (warm_up.SCORING,)
"""
CODE = """
from hybrid.coding import stream_coder
from hybrid.data.load_stream import load_stream
from hybrid.storing import artifact
import torch
settings = stream_coder.Settings(400, 5, "text")
work = lambda: stream_coder.encode(art, "0" * 64, load_stream(folder, "val")[:400].copy(), settings, torch.device("cpu"), b"")
from ngram.blending.warm_up_columns import CODING
sets = (CODING,)
"""
FRAME = """
import sys
from ngram import compiled
from ngram.blending import warm_up
folder = sys.argv[1]
{setup}
art = artifact.load(folder + "/a.bin")
load, stage = compiled.KernelCache.load_overload, "warm-up"
def loading(self, signature, context):  # asked for by what needs the kernel as machine code, and then compiles it if nothing is kept
    print(stage, self._function.__module__, self._function.__qualname__)
    return load(self, signature, context)
compiled.KernelCache.load_overload = loading
with warm_up.WarmUp(*sets):
    pass
stage = "work"
work()
"""


@pytest.mark.parametrize("setup", [SCORE, CODE], ids=["score", "code"])
def test_no_kernel_of_ngrams_is_compiled_after_the_warm_up(setup, tmp_path):
    tiny.write_artifact(tmp_path / "a.bin")
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=30))
    command = [loaded.python(), "-c", FRAME.format(setup=setup), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warm-up ngram") >= 7  # or nothing is seen here at all
    assert [line for line in done.stdout.splitlines() if line.startswith("work ngram")] == []


def test_an_error_ends_the_warm_up_after_the_kernel_at_hand():
    begun, go, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(10)

    def fail():
        begun.wait(10)
        threading.Timer(0.2, go.set).start()  # by then the end of the `with` has dropped the rest
        raise SeedgramError("no such file")

    with pytest.raises(SeedgramError), warm_up.WarmUp((first, lambda: done.append(1))):
        fail()
    assert go.is_set() and done == []


def test_an_error_of_the_warm_up_is_raised_by_the_work_around_it():
    def fail():
        raise ValueError("a kernel that does not compile")

    done = list[str]()
    with pytest.raises(ValueError, match="does not compile"), warm_up.WarmUp((fail, lambda: done.append("kernel"))):
        done.append("body")
    assert done == ["body"]


def test_what_two_sets_share_is_done_once():
    done = []
    work = [lambda i=i: done.append(i) for i in range(3)]
    with warm_up.WarmUp(work[:2], work[1:]):
        pass
    assert done == [0, 1, 2]
