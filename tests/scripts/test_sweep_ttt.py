"""The sweep's rows are eval.py's figures, and its last line gives the best of them again."""

import importlib
import json

import pytest

from hybrid.data.write_shards import write_shard
from hybrid.scoring.options import AdaptConfig
from scripts.bench import sweep_ttt
from tests.support import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    tiny.write_artifact(folder / "a.bin", cache=False)
    write_shard(folder / "x_val_000000.bin", tiny.stream(seed=2, count=20))
    return folder


def call(module, made, *flags):
    """Exit code of a script on the artifact made here."""
    return tiny.exit_code(module, "--artifact", made / "a.bin", "--data", made, "--device", "cpu", *flags)


def test_rows_and_the_best_flags_are_what_eval_says(made, capsys):
    grid = ["--rates", "1e-3", "1e-2", "--chunks", "0", "64", "--stride", "16"]
    assert call(sweep_ttt, made, *grid, "--json", str(made / "s.json")) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    rows = json.loads((made / "s.json").read_text())["rows"]
    assert len(lines) == 2 + len(rows) == 2 + 5
    assert rows[0]["ttt"] is None and lines[2].startswith("| frozen | ")
    chosen = min(rows, key=lambda row: row["bpb"])
    assert last == f"--stride 16 --ttt --ttt-chunk {chosen['ttt']['chunk_tokens']} --ttt-rate {chosen['ttt']['rate']}"
    assert any(f"| {chosen['bpb']:.4f} | {chosen['bpb'] - rows[0]['bpb']:+.4f} |" in line for line in lines)
    for flags, row in ((last.split(), chosen), (["--stride", "16"], rows[0])):
        assert call(importlib.import_module("eval"), made, *flags, "--json", str(made / "e.json")) == 0
        found = json.loads((made / "e.json").read_text())
        assert (found["neural_bpb"], found["ttt"]) == (row["bpb"], row["ttt"])


def test_frozen_wins_a_tie_and_what_diverged_wins_nothing():
    frozen: sweep_ttt.Row = {"ttt": None, "bpb": 1.5, "tokens_per_s": 9.0}
    ttt = {"chunk_tokens": 0, "rate": 0.1}
    rows = [frozen, {**frozen, "ttt": ttt, "bpb": 1.5}, {**frozen, "ttt": ttt, "bpb": None}]
    assert sweep_ttt.best(rows) is None
    assert sweep_ttt.flags_of(None, 0) == ""
    assert sweep_ttt.best([*rows, {**frozen, "ttt": ttt, "bpb": 1.4}]) == AdaptConfig(0, 0.1)
    assert sweep_ttt.table(rows).splitlines()[-1] == "| a window | 0.1 | diverged | – | 9 |"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--chunks", "0", "33"], "--ttt-chunk 33 must be a whole number of windows of 32"),
        (["--rates", "2"], "AdaptConfig.rate: 2.0 is outside"),
        (["--stride", "99"], "strides of 99"),
        (["--tokens", "1"], "--tokens"),
    ],
)
def test_a_bad_grid_is_one_line_before_anything_is_scored(made, flags, said, capsys):
    assert call(sweep_ttt, made, *flags) == 2
    printed = capsys.readouterr()
    assert len(printed.err.strip().splitlines()) == 1
    assert said in printed.err and not printed.out
