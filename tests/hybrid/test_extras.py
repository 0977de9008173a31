"""What `pip install seedgram` alone can do, and what is said where an extra is missing."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hybrid.extras import EXTRAS, MissingPackageError, explained, missing
from ngram.errors import SeedgramError
from tests.support.paths import ROOT

BLOCKED = f"""
import sys
for name in {sorted(EXTRAS)}: sys.modules[name] = None
"""


def light(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs code as in an installation without any extra: importing their packages fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=folder, capture_output=True, text=True, env=environment)


def command(*words: str) -> str:
    return f"sys.argv = {['seedgram', *words]}\nfrom hybrid.__main__ import main\nmain()\n"


def test_the_table_of_extras_is_that_of_the_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brings = {name: "".join(wanted).lower().replace("-", "_") for name, wanted in project["optional-dependencies"].items()}
    homes = packages_distributions()
    for package, extra in EXTRAS.items():
        assert any(home.lower().replace("-", "_") in brings[extra] for home in homes.get(package, [package])), (package, extra)
    assert not {"torch", "matplotlib", "brotli"} & {wanted.split(">")[0] for wanted in project["dependencies"]}


def test_without_extras_data_are_prepared_and_ngrams_trained_scored_and_written(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the cat sat on the mat\nthe dog sat on the log\n" * 40)
    for words in (
        ["prepare", "notes.txt", "--out", "data", "--vocab-size", "280"],
        ["ngram", "train", "--train", "notes.txt", "--tokenizer", "data/tokenizer.model", "--orders", "2-3", "--out", "m.ngram"],
        ["ngram", "score", "--model", "m.ngram", "--test", "notes.txt"],
        ["ngram", "arpa", "m.ngram", "--out", "m.arpa"],
    ):
        done = light(command(*words), tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "m.arpa").stat().st_size > 1000


EVAL = command("eval", "--artifact", "a.bin", "--data", ".")


@pytest.mark.parametrize("code", ["import hybrid; hybrid.load", "from hybrid import train", "import hybrid.hf", EVAL])
def test_what_needs_torch_says_in_one_line_how_to_install_it(tmp_path: Path, code: str) -> None:
    done = light(code, tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.splitlines()[-1].endswith("this needs the package torch, which is not installed; pip install 'seedgram[hybrid]'")
    assert done.returncode == 1 or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["train_gpt.py", "--describe"], ["eval.py", "--artifact", "a.bin", "--data", "."]])
def test_the_scripts_say_so_too(tmp_path: Path, words: list[str]) -> None:
    done = light(f"import runpy\nsys.argv = {words}\nrunpy.run_path({str(ROOT / words[0])!r}, run_name='__main__')\n", tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ModuleNotFoundError: ") and done.stderr.endswith("; pip install 'seedgram[hybrid]', in a checkout '.[hybrid]'\n")


def test_a_picture_without_its_package_is_refused_before_any_work(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['matplotlib'] = None\n" + command("audit", "--control", "--png", "z.png")],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "MissingPackageError: this needs the package matplotlib, which is not installed; pip install 'seedgram[plots]'\n"


def test_a_missing_package_is_an_import_error_and_one_of_ours() -> None:
    error = missing("wandb")
    assert isinstance(error, SeedgramError) and isinstance(error, ImportError) and str(error).endswith("pip install wandb")


def test_a_missing_module_of_our_own_stays_a_fault_of_the_program() -> None:
    fault = ModuleNotFoundError("No module named 'ngram.nothing'", name="ngram.nothing")
    assert explained(fault) is fault
    assert isinstance(explained(ModuleNotFoundError("…", name="torch.nn")), MissingPackageError)
