"""The fingerprint of a machine names it and measures it."""

import json
from pathlib import Path

import pytest
import torch

from hybrid import __main__ as command
from hybrid.submitting import machine
from tests.support import tiny

SMALL = {"matrix": 16, "copy_bytes": 1 << 10, "batch": 2, "heads": 2, "length": 8, "head_width": 4, "step_batch": 1}


def test_bench_prints_and_writes_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(machine.SIZES, "cpu", SMALL)
    assert tiny.exit_code(command, "bench", "--device", "cpu", "--rounds", "2", "--json", tmp_path / "machine.json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "machine.json").read_text())
    for workload, rate in (("matrix_product", "tflop_per_s"), ("memory_copy", "gb_per_s"), ("attention", "tokens_per_s"), ("step", "tokens_per_s")):
        assert told[workload]["seconds"] > 0 and told[workload][rate] > 0
    assert told["versions"]["torch"] == torch.__version__ and told["cores"] >= 1 and told["processor"]
    assert tiny.exit_code(command, "bench", "--rounds", "0") == 2


def test_rates_follow_from_sizes_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.SIZES, "cpu", SMALL)
    monkeypatch.setattr(machine, "_median_s", lambda work, device, rounds: (work(), 2.0)[1])
    told = machine.measure(torch.device("cpu"), 1)
    assert told["matrix_product"]["tflop_per_s"] == 2 * 16**3 / 2.0 / 1e12
    assert told["memory_copy"]["gb_per_s"] == 2 * 1024 / 2.0 / 1e9
    assert told["attention"]["tokens_per_s"] == 2 * 8 / 2.0 and told["step"]["tokens_per_s"] == 8 / 2.0
