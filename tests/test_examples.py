"""The examples do what their docstrings say."""

import runpy
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("loaded_processes")  # of the audit; that a scorer starts afresh is asked in tests/hybrid/auditing


def exit_code(name: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    path = str(ROOT / "examples" / name)
    monkeypatch.setattr(sys, "argv", [path, *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(("flags", "code", "word"), [([], 0, "PASSED"), (["--leak"], 1, "FAILED")])
def test_a_foreign_model_with_a_home_made_cache_is_audited(
    flags: list[str], code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("audit_your_cache.py", flags, monkeypatch) == code
    assert f"model with cache: {word}" in capsys.readouterr().out


def test_of_each_condition_one_scorer_keeps_it_and_one_breaks_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("four_conditions.py", [], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines] == ["C1", "C1", "C2", "C2", "C3", "C3", "C4", "C4"]
    for condition, kept, broken in zip(("C1", "C2", "C3", "C4"), lines[::2], lines[1::2], strict=True):
        assert kept.endswith("passed") and f"'{condition}'" in broken.split("FAILED")[1]
