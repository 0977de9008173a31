"""What is installed: both packages with their types and the command `seedgram`, and no module that could shadow another project's."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import hybrid
import seedgram
from hybrid.storing.counted_code import code_bytes
from tests.support.paths import ROOT

PAGE = {f"hybrid/reporting/page.{kind}" for kind in ("html", "css", "js")}
NEEDED = {"numpy", "numba", "sentencepiece", "zstandard", "constriction", "xxhash", "rich"}  # by n-gram models and the preparation of data
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "train_gpt.py", "eval.py", "seedgram.py"):
        shutil.copy(ROOT / name, source)
    for name in ("hybrid", "ngram"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command of the installed wheel, in a folder that is not the checkout."""
    prefix = tmp_path_factory.mktemp("prefix")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
    subprocess.run([*pip, "--prefix", str(prefix), str(wheel)], check=True, capture_output=True)
    (packages,) = (path.parent for path in prefix.glob("**/hybrid") if path.is_dir())

    (command_file,) = (path for path in prefix.glob("*/seedgram") if path.is_file())

    def run(*command: str, cwd: Path = prefix) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(packages), "PATH": f"{command_file.parent}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)

    return run


def test_the_wheel_holds_two_packages_the_command_and_copies_of_the_counted_scripts(wheel: Path) -> None:
    """Nothing else at the top: a module called `eval` could shadow another project's."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(ROOT).as_posix() for package in ("hybrid", "ngram") for path in (ROOT / package).rglob("*.py")}
    assert len(sources) >= 100
    data = f"seedgram-{hybrid.__version__}.data/data/share/seedgram"
    sources |= {path.relative_to(ROOT).as_posix() for package in ("hybrid", "ngram") for path in (ROOT / package).rglob("*.pyi")}
    assert names == {*sources, *PAGE, "hybrid/py.typed", "ngram/py.typed", "seedgram.py", f"{data}/train_gpt.py", f"{data}/eval.py"}


def test_the_metadata_name_the_version_the_licence_and_where_it_runs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert f"Version: {hybrid.__version__}" in metadata and "License-Expression: MIT" in metadata
    assert "Classifier: Typing :: Typed" in metadata and "Project-URL: " in metadata
    always = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert {line.split()[1].partition(">")[0] for line in always} == NEEDED
    assert 'Requires-Dist: torch>=2.7; extra == "hybrid"' in metadata and 'Requires-Dist: matplotlib>=3.9; extra == "plots"' in metadata


def test_the_commands_work_outside_of_the_checkout(installed: Run) -> None:
    version = installed("seedgram", "--version")
    assert (version.returncode, version.stdout) == (0, f"seedgram {hybrid.__version__}\n"), version.stderr
    for command in (("seedgram",), (sys.executable, "-m", "seedgram"), (sys.executable, "-m", "ngram")):
        done = installed(*command, "--help")
        assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
    done = installed(sys.executable, "-c", "import hybrid, ngram; print(hybrid.__file__, ngram.NgramCache, hybrid.audit_scorer)")
    assert done.returncode == 0 and str(ROOT) not in done.stdout, done.stderr


def test_an_error_of_the_installed_command_is_one_line(installed: Run) -> None:
    done = installed("seedgram", "score", "missing.txt", "--artifact", "missing.bin")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "missing.txt" in done.stderr, done.stderr


def test_an_installed_package_counts_the_same_code_as_the_checkout(installed: Run) -> None:
    done = installed(sys.executable, "-c", "from hybrid.storing import counted_code; print(counted_code.ROOT, counted_code.code_bytes())")
    assert done.stdout.split()[1:] == [str(code_bytes())] and str(ROOT) not in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["hybrid.py", "ngram.py", "ngram/__init__.py"])
def test_a_file_of_the_user_that_takes_a_package_s_place_is_named(installed: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit(77)\n")
    done = installed(sys.executable, "-m", "seedgram", "--version", cwd=tmp_path)
    package = name.partition(".")[0].partition("/")[0]
    said = f"ImportError: {tmp_path / name} stands where seedgram's own package {package!r} should be; rename it"
    assert done.returncode == 2 and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1, done.stderr


def test_python_m_hybrid_names_the_file_too(installed: Run, tmp_path: Path) -> None:
    (tmp_path / "ngram.py").write_text("")
    done = installed(sys.executable, "-m", "hybrid", "--version", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"ImportError: {tmp_path / 'ngram.py'} stands where"), done.stderr


def test_the_command_does_not_look_into_the_current_folder(installed: Run, tmp_path: Path) -> None:
    (tmp_path / "ngram.py").write_text("raise SystemExit(77)\n")
    assert installed("seedgram", "--version", cwd=tmp_path).returncode == 0


def test_a_foreign_package_over_ours_is_named() -> None:
    """Two wheels that bring the same folder: the second one's __init__.py lies over the first one's."""
    for package in ("hybrid", "ngram"):
        assert "_HOMES" in (ROOT / package / "__init__.py").read_text()  # by this seedgram.py knows its own
    assert seedgram.in_the_way("ngram") is None is seedgram.in_the_way("hybrid")
    assert seedgram.remedy(str(ROOT / "hybrid/__init__.py")).startswith("pip uninstall hybrid ngram")
