"""Faults in the lines between artifact and printed figure are still where the script looks for them, and a few are tried in full."""

import pytest

from scripts.checks import mutants
from tests.support.paths import ROOT


@pytest.mark.parametrize("fault", mutants.FAULTS, ids=lambda fault: fault.name)
def test_every_fault_changes_a_line_that_is_there(fault):
    text = (ROOT / fault.file).read_text()
    assert fault.old in text and fault.old != fault.new
    compile(text.replace(fault.old, fault.new, 1), fault.file, "exec")


def test_names_of_faults_are_unique_and_there_are_more_than_a_score():
    assert len({fault.name for fault in mutants.FAULTS}) == len(mutants.FAULTS) >= 24


@pytest.mark.parametrize("name", ["each token counts two bytes more", "best expert of each token instead of the mixture"])
def test_a_fault_in_the_printing_path_is_caught_by_a_command_that_users_run(name, tmp_path, monkeypatch):
    """On a fifth of the text that the script takes, which is enough for these two."""
    monkeypatch.setattr(mutants, "AUDIT", ["--max-tokens", "300", "--positions", "20"])
    mutants.inputs(tmp_path)
    caught, why = mutants.verdict(next(fault for fault in mutants.FAULTS if fault.name == name), tmp_path)
    assert caught == "audit"
    assert "bytes, the text has" in why or "the distribution says" in why
