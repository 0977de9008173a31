"""What ranks leave behind when they close."""

import json
import os
import platform
import socket
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

# The compiler is imported once the groups exist, as an optimiser's first step does
RANK = """
import json, os
import torch
from hybrid.parallel import failures, ranks
def threads():
    return sorted(open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task"))
mine = ranks.start("cpu")
total = torch.ones(3)
with failures.together(mine):
    mine.sum_(total)
    assert mine.agree(0.5, False) == (0.5, False)
    mine.barrier()
    import torch._dynamo
    before = threads()
mine.close()
print(json.dumps([total.tolist(), before, threads()]))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are listed by Linux")
def test_no_thread_of_a_process_group_is_left_after_closing() -> None:
    """Such a thread is still at work while Python takes itself apart, which once ended a rank by SIGABRT."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(s.getsockname()[1]), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **address, "RANK": str(rank), "LOCAL_RANK": "0"}
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for line in said:
        total, before, after = json.loads(line)
        assert total == [2.0, 2.0, 2.0]
        ours = {"gloo", "pt_g", "pt_t"}
        assert ours & {name[:4] for name in before}  # the names are still those that we look for
        assert not ours & {name[:4] for name in after}, after


FREED = """
import resource
import numpy as np
from hybrid.parallel import ranks
ranks.start("cpu").keep_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def taken():
    before = faults()
    np.full(1 << 25, 7, np.uint8).sum()
    return faults() - before
first, later = taken(), [taken() for _ in range(3)]
print(first, *later)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_a_program_on_a_cpu_frees_is_not_given_back_and_cleared_again():
    """The kernel clears 8,192 pages of 4 KiB the first time, or 16 of 2 MiB."""
    first, *later = map(int, subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    assert first > 10 and max(later) < first / 2
