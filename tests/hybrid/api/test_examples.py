"""The examples of docs/library.md, run as they stand."""

import doctest
from pathlib import Path

import pytest

import hybrid
from tests.support import tiny
from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs/library.md"


def test_every_example_says_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("runs/mine", "data/mine"):
        (tmp_path / folder).mkdir(parents=True)
    tiny.write_artifact(tmp_path / "runs/mine/artifact.bin")
    tiny.write_data(tmp_path / "data/mine")
    (tmp_path / "README.md").write_text("# no artifact\n" * 20)
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert found.failed == 0 and found.attempted >= 18


def test_the_table_names_everything_that_the_library_has() -> None:
    text = DOCUMENT.read_text()
    assert all(f"| `hybrid.{name}" in text for name in hybrid.__all__)
