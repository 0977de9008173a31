"""Kernels are compiled once a user and machine: the cache never changes a result, whatever state its folder is in."""

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core import compiler

from ngram import compiled, container, private_files
from ngram.private_files import VARIABLE, Store, user_folder
from tests.support.paths import ROOT

needs_compiler = pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="nothing is compiled")
needs_owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")

KERNELS = """
import numpy as np
from numba.core import event
from ngram.compiled import njit

@njit
def square(x):
    return x * x{more}

@njit(fastmath=False)
def total(values):
    found = 0
    for value in values:
        found += square(value)
    return found
"""
WORK = """
import sys
import numpy as np
from numba.core import event
from ngram import compiled, private_files
from ngram.private_files import VARIABLE, Store, user_folder
from kernels import square, total
class Names(event.Listener):
    def on_start(self, one): print("compiled", one.data["dispatcher"].py_func.__name__)
    def on_end(self, one): pass
event.register("numba:compile", Names())
print("total", total(np.arange(int(sys.argv[1]))), total(np.arange(3.0)))
"""


def command(folder: Path, n: int = 4) -> tuple[list[str], dict[str, str]]:
    """A process that runs the kernels of `folder` with the cache in `folder`/cache."""
    path = os.pathsep.join((str(ROOT), str(folder)))
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    return [sys.executable, "-c", WORK, str(n)], environment


def run(folder: Path, **environment: str) -> list[str]:
    """The lines a process prints; it must end well and say nothing on stderr."""
    line, own = command(folder)
    done = subprocess.run(line, env={**own, **environment}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def write_kernels(folder: Path, more: str = "") -> None:
    (folder / "kernels.py").write_text(KERNELS.format(more=more))


@pytest.fixture(scope="module")
def once_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose kernels a process has compiled and kept."""
    folder = tmp_path_factory.mktemp("once_run")
    write_kernels(folder)
    assert run(folder) == BOTH
    return folder


@pytest.fixture
def filled(once_run: Path, tmp_path: Path) -> Path:
    """A test's own copy of it: where the folder lies is no part of what a kernel is kept under."""
    return shutil.copytree(once_run, tmp_path / "filled")


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


BOTH = ["compiled total", "compiled square", "compiled total", "compiled square", "total 14 5.0"]
NONE = ["total 14 5.0"]


@needs_compiler
def test_a_second_process_compiles_nothing(filled):
    assert len(kept(filled / "cache")) == 4
    assert run(filled) == NONE
    assert {(path.stat().st_mode & 0o777) for path in (filled / "cache").rglob("*") if path.is_dir()} == {0o700}


@needs_compiler
def test_a_change_of_any_source_compiles_anew(filled):
    write_kernels(filled, more=" + 1")
    assert run(filled) == [*BOTH[:-1], "total 18 8.0"]


@needs_compiler
def test_a_callee_that_changed_in_another_file_is_seen(tmp_path):
    """numba's own stamp is the kernel's own file alone."""
    package = tmp_path / "kernels"
    package.mkdir()
    head, own = KERNELS.format(more="").split('@njit(fastmath=False)')
    (package / "__init__.py").write_text("from kernels.callee import square\nfrom kernels.caller import total\n")
    caller = f'from ngram.compiled import njit\nfrom kernels.callee import square\n@njit(fastmath=False){own}'
    (package / "callee.py").write_text(head)
    (package / "caller.py").write_text(caller)
    assert run(tmp_path)[-1] == "total 14 5.0"
    (package / "callee.py").write_text(head.replace("x * x", "x + x"))
    assert run(tmp_path)[-1] == "total 12 6.0"


@needs_compiler
def test_damaged_files_are_compiled_and_written_again(filled):
    """Each of the four in another way: emptied, too short for its digest, one bit, cut off."""
    files = kept(filled / "cache")
    data, middle = files[2].read_bytes(), files[2].stat().st_size // 2
    damaged = [b"", b"\0" * 7, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], files[3].read_bytes()[:-1]]
    for path, content in zip(files, damaged, strict=True):
        path.write_bytes(content)
    assert run(filled) == BOTH
    assert run(filled) == NONE


@needs_compiler
def test_a_file_that_is_whole_but_means_something_else_is_not_believed(filled):
    files = kept(filled / "cache")
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    assert run(filled) == BOTH


@needs_compiler
def test_four_processes_on_an_empty_folder_end_with_right_results(tmp_path):
    write_kernels(tmp_path)
    line, environment = command(tmp_path)
    running = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for one in running:
        out, err = one.communicate()
        assert (one.returncode, err, out.splitlines()[-1]) == (0, "", "total 14 5.0")
    assert len(kept(tmp_path / "cache")) == 4  # nothing half-written stays
    assert run(tmp_path) == NONE


@needs_compiler
def test_an_empty_variable_switches_the_cache_off(tmp_path):
    write_kernels(tmp_path)
    assert run(tmp_path, **{VARIABLE: "", "XDG_CACHE_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}) == BOTH
    assert kept(tmp_path) == [tmp_path / "kernels.py"]


@needs_compiler
@needs_owners
def test_a_folder_that_others_can_use_is_not_used(filled):
    """The files are pickles: whoever can write one runs code."""
    (filled / "cache" / "kernels").chmod(0o755)
    assert run(filled) == BOTH


@needs_owners
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o701])
@pytest.mark.parametrize("place", ["kernels", "kernels/key"])
def test_no_file_is_found_in_a_folder_that_others_can_use(tmp_path, place, mode):
    store = Store(tmp_path / "kernels" / "key")
    assert store.save("a", b"abc") and store.load("a") == b"abc"
    (tmp_path / place).chmod(mode)
    assert store.load("a") is None and not store.save("b", b"abc")
    (tmp_path / place).chmod(0o700)
    assert store.load("a") == b"abc" and store.load("b") is None


@needs_compiler
def test_a_folder_that_cannot_be_made_costs_only_time(tmp_path):
    """Also for root, whom a read-only folder does not stop: a file stands where the folder would be."""
    write_kernels(tmp_path)
    (tmp_path / "cache").write_bytes(b"")
    assert run(tmp_path) == BOTH


def test_without_a_compiler_kernels_are_plain_functions(tmp_path):
    write_kernels(tmp_path)
    assert run(tmp_path, NUMBA_DISABLE_JIT="1") == NONE
    assert kept(tmp_path) == [tmp_path / "kernels.py"]


def test_what_was_saved_is_found_whole(tmp_path):
    store = Store(tmp_path / "kernels" / "key")
    assert store.load("a") is None
    assert store.save("a", b"abc") and store.save("a", b"abcd") and store.save("b", b"")
    assert (store.load("a"), store.load("b"), store.load("c")) == (b"abcd", b"", None)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "replace", "mkdir"])
def test_a_full_or_read_only_disk_is_no_error_and_leaves_nothing(tmp_path, monkeypatch, reason, call):
    store = Store(tmp_path / "kernels" / "key")
    if call != "mkdir":
        store.save("a", b"abc")

    def fail(*_, **__):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(container if call == "open" else os, call, fail, raising=False)
    assert not store.save("b", b"abc")
    assert store.load("b") is None
    assert store.load("a") == (None if call == "mkdir" else b"abc")
    assert [path.name for path in kept(tmp_path)] == ([] if call == "mkdir" else ["a"])


def test_a_disk_that_fills_up_while_a_file_is_written_leaves_no_half_file(tmp_path, monkeypatch):
    store = Store(tmp_path / "kernels" / "key")
    store.save("a", b"abc")

    class Full(io.FileIO):
        def write(self, content):
            super().write(content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(container, "open", Full, raising=False)
    assert not store.save("a", b"abcd")
    monkeypatch.undo()
    assert store.load("a") == b"abc"
    assert len(kept(tmp_path)) == 1


@needs_owners
def test_folders_of_others_are_not_read(tmp_path, monkeypatch):
    store = Store(tmp_path / "kernels" / "key")
    store.save("a", b"abc")
    assert store.load("a") == b"abc"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert store.load("a") is None
    assert not store.save("b", b"abc")


def old_folders(place, count):
    """So many folders key0, key1, …, used at 1000, 1001, … s."""
    for age in range(count):
        Store(place / f"key{age}").save("a", b"abc")
        os.utime(place / f"key{age}", (1000 + age, 1000 + age))


def test_a_new_key_removes_all_but_the_newest_old_ones(tmp_path):
    old_folders(tmp_path / "kernels", private_files.FOLDERS_KEPT + 3)
    assert Store(tmp_path / "kernels" / "new").save("a", b"abc")
    ages = range(3, private_files.FOLDERS_KEPT + 3)
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {"new", *(f"key{age}" for age in ages)}


def test_a_folder_that_is_read_is_not_old_however_long_ago_it_was_made(tmp_path):
    old_folders(tmp_path / "kernels", private_files.FOLDERS_KEPT + 1)
    assert Store(tmp_path / "kernels" / "key0").load("a") == b"abc"
    assert Store(tmp_path / "kernels" / "new").save("a", b"abc")
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {"new", "key0", *(f"key{age}" for age in range(2, private_files.FOLDERS_KEPT + 1))}


def test_no_folder_goes_that_a_process_has_just_used_however_many_there_are(tmp_path):
    for number in range(private_files.FOLDERS_KEPT + 3):
        assert Store(tmp_path / "kernels" / f"key{number}").save("a", b"abc")
    assert len(list((tmp_path / "kernels").iterdir())) == private_files.FOLDERS_KEPT + 3


@needs_owners
def test_a_folder_whose_time_cannot_be_set_is_read(tmp_path, monkeypatch):
    store = Store(tmp_path / "kernels" / "key")
    store.save("a", b"abc")

    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert store.load("a") == b"abc"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG names")
def test_where_the_folder_lies():
    home = Path.home()
    assert user_folder({}) == home / ".cache/seedgram"
    assert user_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/seedgram")
    assert user_folder({"XDG_CACHE_HOME": "relative"}) == home / ".cache/seedgram"
    assert user_folder({"XDG_CACHE_HOME": "/x", "SEEDGRAM_CACHE_DIR": "/y"}) == Path("/y")
    assert user_folder({"XDG_CACHE_HOME": "/x", "SEEDGRAM_CACHE_DIR": ""}) is None


@needs_compiler
def test_internals_of_another_numba_cost_only_the_cache(monkeypatch, tmp_path):
    """What the cache takes from numba may be gone or different in its next version."""
    monkeypatch.setattr(compiled, "store", lambda: Store(tmp_path / "kernels" / "key"))
    monkeypatch.delattr(compiler.CompileResult, "_reduce")
    monkeypatch.delattr(compiler.CompileResult, "_rebuild")

    @compiled.njit
    def double(x):
        return x + x

    assert double(np.int64(4)) == 8
    assert kept(tmp_path) == []


@needs_compiler
def test_a_command_says_once_that_it_compiles_a_library_never(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "ANNOUNCE_AFTER_S", -1.0)
    for wanted, lines in ((False, 0), (True, 1)):
        monkeypatch.setattr(compiled, "store", lambda key=str(wanted): Store(tmp_path / "kernels" / key))
        monkeypatch.setattr(compiled.KernelCache, "announces", wanted)
        kernel = compiled.njit(lambda x: x + 1)
        kernel(1), kernel(1.0)
        said = capsys.readouterr()
        assert (said.out, said.err.count("compiling kernels"), said.err.count("\n")) == ("", lines, lines)
