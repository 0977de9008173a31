"""Which records of a log belong to the run that the artifact is from, and what is read of the files beside it."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hybrid.reporting.run_folder import artifact_sections, clock_of, of_last_run, read_log, read_run, thinned
from ngram.errors import FileFormatError, SeedgramError
from tests.support import tiny


def start(seed: int) -> dict[str, Any]:
    return {"event": "start", "seed": seed}


def step(number: int, loss: float = 1.0) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss_nats": loss}


def resume(number: int) -> dict[str, Any]:
    return {"event": "resume", "step": number}


def test_a_resumed_run_keeps_what_was_trained_before_and_drops_what_was_trained_again() -> None:
    records = [start(1), step(20, 1.5), step(40, 1.4), step(60, 9.0), start(1), resume(40), step(60, 1.3), {"event": "trained", "steps": 60}]
    assert of_last_run(records) == [start(1), step(20, 1.5), step(40, 1.4), resume(40), step(60, 1.3), records[-1]]


def test_a_second_run_into_the_same_folder_replaces_the_first() -> None:
    assert of_last_run([start(1), step(20), step(40), start(2), step(20, 0.5)]) == [start(2), step(20, 0.5)]


def test_a_start_after_which_nothing_came_leaves_the_run_before_it() -> None:
    assert of_last_run([start(1), step(20), start(2)]) == [start(1), step(20)]
    assert of_last_run([start(1)]) == [start(1)]


def test_a_line_cut_off_at_the_end_of_a_run_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "train.jsonl"
    lines = [json.dumps(record) for record in (start(1), step(20), step(40))]
    log.write_text("\n".join([*lines[:2], lines[2][:17]]))
    assert list(read_log(log)) == [start(1), step(20)]
    log.write_text("\n".join([*lines[:2], lines[2][:17], *lines]) + "\n")  # and the run was resumed
    assert list(read_log(log)) == [start(1), step(20), start(1), step(20), step(40)]


@pytest.mark.parametrize("line", ["no JSON", "[1]", "7", '{"at_s": 3}', '{"event": 5}'])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    log = tmp_path / "train.jsonl"
    log.write_text("\n".join([json.dumps(start(1)), line, json.dumps(step(1))]))
    with pytest.raises(FileFormatError, match=r"train\.jsonl: line 2 is no record"):
        list(read_log(log))


def test_the_clock_has_each_phase_once_and_nothing_that_is_no_number() -> None:
    events = {"trained": {"warmup_s": 1.5, "wall_s": 60.0}, "merged": {"seconds": 0.25, "ngrams": 7}, "gate": {"seconds": float("nan")}, "cache": {}}
    assert clock_of(events) == {"warm-up": 1.5, "training": 60.0, "merged": 0.25}


def test_a_long_curve_is_thinned_evenly_and_keeps_its_end() -> None:
    points = [{"step": number} for number in range(1000)]
    found = [point["step"] for point in thinned(points, 300)]
    assert len(found) == 250 and found[-1] == 999 and {b - a for a, b in pairwise(found)} == {4}
    assert thinned(points[:5], 300) == points[:5]


def test_the_sections_of_an_artifact_sum_to_its_size(made: Path) -> None:
    config, sections = artifact_sections(made / "artifact.bin")
    assert sum(sections.values()) == (made / "artifact.bin").stat().st_size
    assert config["preset"] == "tiny" and sections["tokenizer"] > 0 and sections["ngram"] > 0


def test_an_artifact_alone_is_a_run_of_which_little_is_known(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "artifact.bin", tmp_path)
    found = read_run(tmp_path)
    assert (found.start, found.steps, found.clock, found.scores, found.beside) == ({}, [], {}, None, {})
    (tmp_path / "eval.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"eval\.json: no JSON"):
        read_run(tmp_path)


def test_a_folder_without_an_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeedgramError, match=r"artifact\.bin: cannot read"):
        read_run(tmp_path)
    tiny.write_artifact(tmp_path / "artifact.bin")
    data = bytearray((tmp_path / "artifact.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "artifact.bin").write_bytes(bytes(data))
    with pytest.raises(FileFormatError, match="digest"):
        read_run(tmp_path)
