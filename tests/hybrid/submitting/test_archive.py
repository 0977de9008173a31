"""The archive of a submission: the counted code and nothing else, the same bytes again, and its size is what counts as code."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hybrid.storing import counted_code
from hybrid.storing.counted_code import SHIPPED, code_bytes, counted_files
from hybrid.submitting.archive import archive_bytes, requirements
from ngram.errors import SeedgramError
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def archive() -> bytes:
    return archive_bytes()


def test_it_holds_the_counted_code_as_it_stands_and_a_main(archive: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        assert whole.namelist() == ["__main__.py", "code.tar.xz"]
        code = tarfile.open(fileobj=io.BytesIO(whole.read("code.tar.xz")))
    held = {member.name: code.extractfile(member).read() for member in code}
    assert held == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in counted_files()}
    assert len(archive) < code_bytes() / 3


def test_the_same_code_gives_the_same_bytes(archive: bytes) -> None:
    assert archive_bytes() == archive


def test_where_it_was_unpacked_its_own_size_is_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted_code, "ROOT", tmp_path)
    (tmp_path / SHIPPED).write_bytes(bytes(1234))
    assert counted_code.code_bytes() == 1234


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "usage: python"), (["audit"], "usage: python"), (["eval", "certify"], "is no part of a submission; use `seedgram certify`")],
)
def test_what_it_cannot_do_is_said_in_one_line(archive: bytes, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "s.zip").write_bytes(archive)
    done = subprocess.run([sys.executable, "-I", "s.zip", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.zip"]


def test_requirements_are_the_versions_that_are_installed() -> None:
    import torch

    found = requirements()
    assert f"torch=={torch.__version__.partition('+')[0]}" in found and any(line.startswith("numba==") for line in found)
    assert not [line for line in found if line.startswith(("pytest", "pyarrow", "matplotlib", "huggingface"))]


def test_code_that_reaches_a_network_is_refused(tmp_path: Path) -> None:
    for name, text in {"train_gpt.py": "import hybrid.a\n", "eval.py": "", "hybrid/__init__.py": "", "hybrid/a.py": "import urllib.request\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(SeedgramError, match="imports urllib, which reach a network"):
        requirements(tmp_path)
