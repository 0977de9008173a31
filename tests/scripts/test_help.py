"""Every script says what it does and how it is called, wherever it is started from."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COMMANDS = [path for path in sorted((ROOT / "scripts").rglob("*.py")) if '__name__ == "__main__"' in path.read_text()]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_scripts_are_found() -> None:
    assert len(COMMANDS) >= 15 and ROOT / "scripts/prepare_data.py" in COMMANDS


@pytest.mark.parametrize("path", COMMANDS, ids=label)
def test_help_shows_the_usage_by_the_path_of_the_script(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process: starting Python and importing torch for each would take minutes."""
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python {label(path)} " in said and "usage: " in said
    assert str(ROOT) not in said


@pytest.mark.parametrize("name", ["prepare_data.py", "bench/draw_control.py"])
def test_a_checkout_that_is_not_installed_is_enough(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    # -S leaves out what an editable installation adds; the packages themselves are on the path that this process has
    code = f"import sys; sys.path += {[p for p in sys.path if 'site-packages' in p]}; import runpy; sys.argv = ['x', '--help']; "
    code += f"runpy.run_path({str(ROOT / 'scripts' / name)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr
