"""What the fingerprint of a coded file can tell apart."""

import os
import subprocess
import sys

import pytest
import torch

from hybrid.coding import fingerprint
from hybrid.storing.counted_code import counted_files
from tests.support.paths import ROOT

CPU = torch.device("cpu")


def arithmetic_of(**variables: str) -> str:
    """The fingerprint's arithmetic in a process of its own, with these variables in its environment."""
    code = "import torch; from hybrid.coding import fingerprint; print(fingerprint.arithmetic(torch.device('cpu')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_the_same_machine_calculates_the_same_in_another_process() -> None:
    assert arithmetic_of() == fingerprint.arithmetic(CPU) == fingerprint.arithmetic(CPU)


def test_other_instructions_in_the_libraries_show_although_every_version_is_the_same() -> None:
    plainest = arithmetic_of(MKL_CBWR="COMPATIBLE", ATEN_CPU_CAPABILITY="default")
    assert (plainest == fingerprint.arithmetic(CPU)) == (torch.backends.cpu.get_cpu_capability() == "DEFAULT")


def test_a_difference_is_named_with_both_values() -> None:
    stored = {**fingerprint.fingerprint(CPU), "a": "another"}
    with pytest.raises(fingerprint.FingerprintError, match="arithmetic 'another' there"):
        fingerprint.check(stored, CPU, "file.sg")


def test_the_code_digest_covers_the_files_that_the_size_counts() -> None:
    """A digest that passed over a folder would let two programs decode each other's files wrongly."""
    entries = {ROOT / name for name in ("train_gpt.py", "eval.py")}
    assert set(counted_files()) - entries <= set(fingerprint.code_files())
    assert len(fingerprint.code_files()) >= 88
