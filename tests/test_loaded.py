"""A process forked with torch loaded does what a Python started from nothing does, and what it cannot do is given to such a one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import loaded
from tests.support.training import environment


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("print(sys.stdin.read()); import atexit; atexit.register(print, 'last')", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('what was wrong')", 1),
        ("import threading; threading.Timer(0.2, print, ['later']).start(); sys.exit()", 0),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("import signal, os; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)", -signal.SIGINT),
        ("import os; print(os.getcwd(), os.environ['WORD'], sys.argv, __name__)", 0),
        ("import warnings; warnings.warn('x')", 1),
    ],
)
def test_output_and_end_are_those_of_a_python_started_from_nothing(code: str, ended: int, tmp_path: Path) -> None:
    words, place = ["-W", "error", "-c", f"import sys; {code}", "a b", ""], {**environment(), "WORD": "ü"}
    mine, real = (
        subprocess.run([python, *words], cwd=tmp_path, env=place, input="read\n", capture_output=True, text=True)
        for python in (loaded.python(), sys.executable)
    )
    assert (mine.returncode, mine.stdout) == (real.returncode, real.stdout) and mine.returncode == ended
    assert mine.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_scripts_and_modules_find_what_lies_beside_them(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    (tmp_path / "script.py").write_text("import sys, beside; print(beside.WORD, sys.argv[1:], __name__)")
    for words, folder in ((["script.py"], tmp_path), ([str(tmp_path / "script.py")], Path("/")), (["-m", "script"], tmp_path)):
        said = subprocess.run([loaded.python(), *words, "x"], cwd=folder, env=environment(), capture_output=True, text=True)
        assert said.stdout == "found ['x'] __main__\n", said.stderr


def test_a_signal_reaches_it_and_killing_the_program_ends_it() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        running = subprocess.Popen([loaded.python(), "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        pid = int(running.stdout.readline())
        assert pid != running.pid
        running.send_signal(number)
        assert running.stdout.read() == "" and running.wait() == -number  # the end of its output is the end of the fork, too
        running.stdout.close()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="everything is a Python started from nothing here")
def test_other_flags_environments_and_projects_get_a_python_started_from_nothing(tmp_path: Path) -> None:
    kept = environment()
    for flags, place, forked in (
        ([], kept, True),
        (["-P"], kept, False),
        ([], {**kept, "NUMBA_DISABLE_JIT": "1"}, False),
        ([], {**kept, "HOME": str(tmp_path)}, False),
        ([], {**kept, "PYTHONPATH": str(tmp_path)}, False),
    ):
        said = subprocess.run([loaded.python(), *flags, "-c", "import sys; print('torch' in sys.modules)"], env=place, capture_output=True, text=True)
        assert said.stdout == f"{forked}\n", (flags, said)
