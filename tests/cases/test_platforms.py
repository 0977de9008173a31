"""What is not there on every system: modules of POSIX, Apple's GPUs, terminals that show every character."""

import argparse
import subprocess
import sys

import pytest

from hybrid.cli import audit, bench, certify, compress, evaluate, report, sample, score, submit, train
from hybrid.parallel import ranks
from ngram.terminal import OneLineParser, UsageError
from tests.support.paths import ROOT
from tests.support.training import environment

WITHOUT_POSIX = """
import importlib, os, pkgutil, sys
import asyncio, multiprocessing.util, numba, numpy, rich.progress, subprocess, torch, torch.distributed.nn.functional, torch.utils._pytree
for optional in ("triton", "scipy"):
    try:
        importlib.import_module(optional)
    except ImportError:
        pass
for name in ("fcntl", "resource", "termios", "tty", "pwd", "grp", "syslog"):
    sys.modules[name] = None
for name in ("geteuid", "getuid", "fork", "mkfifo", "sched_getaffinity", "getloadavg"):
    delattr(os, name)
import hybrid, ngram
names = [module.name for package in (ngram, hybrid) for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
if "triton" not in sys.modules:  # which PyTorch for CUDA brings along; no CPU asks for its kernels
    names = [name for name in names if name not in ("hybrid.scoring.gpu_rows", "hybrid.model.window_attention")]
for name in [*names, "train_gpt", "eval"]:
    if not name.endswith(("__main__", "hf.harness")):  # the model for lm-evaluation-harness wants that installed, and is its caller's
        importlib.import_module(name)
from ngram.private_files import *
print(len(names))
"""


def test_everything_can_be_imported_where_there_are_no_modules_of_posix() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("command", [audit, bench, certify, compress, evaluate, report, sample, score, submit, train])
def test_every_command_refuses_apples_gpus_by_name_while_it_reads_flags(command: argparse.Namespace) -> None:
    parser = OneLineParser()
    command.add_flags(parser)
    with pytest.raises(UsageError, match="--device mps: Apple's GPUs are not supported; give one of auto, cuda, cpu$"):
        parser.parse_args(["--device", "mps"])


@pytest.mark.parametrize("device, said", [("mps", "Apple's GPUs"), ("cuda:1", "CUDA_VISIBLE_DEVICES"), ("gpu", "no such device"), ("", "no such device")])
def test_a_program_that_asks_for_another_device_is_not_given_the_cpu(device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ranks.start(device)
