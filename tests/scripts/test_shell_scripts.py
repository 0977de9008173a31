"""The two commands: pinned installation, one line when it cannot go on, nothing done twice."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["scripts/environment.sh", "scripts/quickstart.sh", "scripts/test.sh", "scripts/checks/long_checks.sh", ".ci/run"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonical(name): pinned for name, pinned in (line.split("==") for line in lines if line and not line.startswith("#"))}


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {canonical(re.split(r"[\[<>=]", requirement)[0]) for requirement in wanted} - {"seedgram"}
    assert names <= pins().keys()
    assert pins()["torch"] == "2.13.0"
    assert "torch>=2.7" in project["optional-dependencies"]["hybrid"]


def test_the_hashed_requirements_are_the_pins_and_nothing_is_without_a_hash() -> None:
    """All but torch, of which one version has other files on each of its indexes."""
    entries = re.findall(r"^(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", (ROOT / "requirements-test.txt").read_text(), re.MULTILINE)
    hashed = {canonical(name): pinned for name, pinned, _ in entries}
    assert hashed == {name: pinned for name, pinned in pins().items() if name != "torch"}
    lines = [line for line in (ROOT / "requirements-test.txt").read_text().splitlines() if line and not line.startswith(("#", "    --hash"))]
    assert len(lines) == len(entries)


def test_the_licence_of_every_dependency_is_listed() -> None:
    rows = re.findall(r"^\| (\S+) \| (?:run|extra|build|tests) \| (.{3,}) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert {canonical(name) for name, _ in rows} == pins().keys()


@pytest.mark.skipif(not (ROOT / ".venv/.installed[dev]").exists(), reason="not the environment that test.sh makes")
def test_the_installed_versions_are_the_pinned_ones() -> None:
    """What only an extra outside `dev` brings may be missing: `lm-eval` and some fifty packages that it requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    needed = {canonical(re.split(r"[\[<>=]", requirement)[0]) for requirement in wanted if "kenlm" not in requirement}
    installed = {canonical(one.name): one.version.split("+")[0] for one in distributions()}
    assert needed <= installed.keys()
    pinned = pins()
    assert {name: installed[name] for name in pinned.keys() & installed.keys()} == {name: pinned[name] for name in pinned.keys() & installed.keys()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_valid_bash_and_executable(script: str) -> None:
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0
    assert os.access(ROOT / script, os.X_OK) or script.endswith("environment.sh")


def bare_checkout(folder: Path) -> Path:
    """The scripts and settings alone, with no .venv."""
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def quickstart(checkout: Path, python: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHON": python}
    return subprocess.run([str(checkout / "scripts/quickstart.sh")], capture_output=True, text=True, cwd="/", env=environment, check=False)


def fake_python(path: Path, body: str) -> str:
    path.write_text(f'#!/usr/bin/env bash\ncase "$*" in\n--version) echo "Python 3.x"; exit 0 ;;\n{body}\nesac\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "body, said",
    [
        (None, "no /nowhere/python here; install Python 3.11 or newer"),
        ("*sys.version_info*) exit 1 ;;", "Python 3.x is too old"),
        ("*sys.version_info*) exit 0 ;;\n*venv*) exit 1 ;;", "cannot make a virtual environment; install its venv module"),
    ],
)
def test_an_installation_that_cannot_go_on_is_one_line(tmp_path: Path, body: str | None, said: str) -> None:
    checkout = bare_checkout(tmp_path / "a checkout")
    done = quickstart(checkout, "/nowhere/python" if body is None else fake_python(tmp_path / "python", body))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (checkout / ".venv").exists()


def test_finished_steps_are_skipped_and_a_failing_one_keeps_its_own_line(tmp_path: Path) -> None:
    """The whole script with a stand-in for Python that notes what it is asked to do."""
    checkout = bare_checkout(tmp_path / "a checkout")
    for folder in ("ngram", "hybrid"):
        (checkout / folder).mkdir()
        (checkout / folder / "x.py").touch()
    (checkout / "train_gpt.py").touch()
    (checkout / "eval.py").touch()
    (checkout / ".venv/bin").mkdir(parents=True)
    calls = tmp_path / "calls"
    body = f'''*"-m pip"*) echo pip >>"{calls}" ;;
*sys.version_info*) exit 0 ;;
scripts/prepare_data.py*) echo data >>"{calls}"; mkdir -p runs/quickstart/data; echo "$DATA" >runs/quickstart/data/manifest.json ;;
train_gpt.py*) echo train >>"{calls}"; [ -z "${{BAD:-}}" ] || {{ echo "ConfigError: bad" >&2; exit 2; }}; touch runs/quickstart/artifact.bin ;;
eval.py*) echo score >>"{calls}"; touch runs/quickstart/eval.json ;;
*hybrid.cli.beside_compressors*) echo report >>"{calls}" ;;'''
    fake_python(checkout / ".venv/bin/python", body)

    def run(**environment: str) -> tuple[list[str], "subprocess.CompletedProcess[str]"]:
        calls.write_text("")
        command = [str(checkout / "scripts/quickstart.sh")]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, "DATA": "1", **environment}, check=False)
        return calls.read_text().split(), done

    assert run()[0] == ["pip", "data", "train", "score", "report"]
    assert run()[0] == ["data", "report"]
    asked, done = run(DATA="2", BAD="1")
    assert asked == ["data", "train"]
    assert (done.returncode, done.stderr) == (2, "ConfigError: bad\n")
    assert run(DATA="2")[0] == ["data", "train", "score", "report"]
    (checkout / "runs/quickstart/eval.json").unlink()
    assert run(DATA="2")[0] == ["data", "score", "report"]
    (checkout / "hybrid/x.py").write_text("changed = True\n")
    assert run(DATA="2")[0] == ["data", "train", "score", "report"]
