"""Outputs: files appear whole and keep what they were; pipes, devices and standard output are written to as they are."""

import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ngram.container import atomic_write, check_writable, read_bytes
from ngram.errors import SeedgramError
from tests.support.paths import ROOT


def python(code: str, *arguments: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, **options)  # type: ignore[call-overload]


WRITE = "import sys; from ngram.container import atomic_write; atomic_write(sys.argv[1], b'data')"


def test_a_pipe_s_reader_gets_the_bytes_and_the_pipe_stays_one(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    atomic_write(pipe, b"data")
    reader.join(30)
    assert got == [b"data"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_stays_a_device() -> None:
    before = os.stat(os.devnull)
    atomic_write(os.devnull, b"data")
    check_writable(os.devnull)
    after = os.stat(os.devnull)
    assert stat.S_ISCHR(after.st_mode) and (after.st_rdev, after.st_ino) == (before.st_rdev, before.st_ino)


def test_process_substitution_receives_the_output(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{WRITE}" >(cat >got); sleep 0.1; for _ in $(seq 50); do [ -s got ] && break; sleep 0.1; done'],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == b"data"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_a_dash_is_standard_output(tmp_path: Path, name: str) -> None:
    done = python("print('before', flush=True)\n" + WRITE, name, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"before\ndata"), done.stderr
    assert os.listdir(tmp_path) == []


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00data")))
    assert read_bytes("-") == b"\xff\x00data"


@pytest.mark.parametrize("chain", [1, 2])
def test_symbolic_links_are_followed_and_stay(tmp_path: Path, chain: int) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "link0", tmp_path / "there/file"
    for number in range(chain):
        (tmp_path / f"link{number}").symlink_to(f"link{number + 1}" if number + 1 < chain else "there/file")
    for content in (b"through a link to nothing yet", b"over what is there"):
        atomic_write(link, content)
        assert link.is_symlink() and not target.is_symlink()
        assert target.read_bytes() == content
    assert os.listdir(tmp_path / "there") == ["file"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_s_mode_is_what_the_umask_says(tmp_path: Path, umask: int, mode: int) -> None:
    done = python(f"import os; os.umask({umask})\n" + WRITE, str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444])
def test_a_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    target.chmod(mode)
    atomic_write(target, b"new")
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", mode)


@pytest.mark.parametrize("name", ["", "folder", "x" * 300, "file/below"])
def test_an_impossible_name_is_refused_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for write in (check_writable, lambda path: atomic_write(path, b"data")):
        with pytest.raises(SeedgramError, match="cannot write") as caught:
            write(name)
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("x" * 255), b"data")
    assert os.listdir(tmp_path) == ["x" * 255]


def test_asking_whether_a_file_can_be_written_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"old")
    for name in ("there", "new", "folder/new", "a/b/c"):
        check_writable(tmp_path / name)
    assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_bytes() == b"old"


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_that_cannot_show_a_character_gets_an_escape(settings: dict[str, str]) -> None:
    code = "from ngram.errors import SeedgramError, run_cli\ndef main():\n    print('\\u4e2d')\n    raise SeedgramError('\\u4e2d: no')\nrun_cli(main)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"\\u4e2d\n", b"SeedgramError: \\u4e2d: no\n")
