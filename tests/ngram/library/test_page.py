"""docs/ngram.md does what it says."""

import doctest
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.compiled
def test_every_example_of_the_page_gives_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / "docs" / "ngram.md"), module_relative=False)
    assert tried > 30 and not failed
