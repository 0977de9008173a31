"""`seedgram`: a table of commands whose modules load when they run; its help, its exit codes, and what standard output holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train_gpt
from hybrid.cli import completion, seedgram, train
from hybrid.coding.compress import store
from ngram.errors import run_cli
from ngram.terminal import UsageError
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.training import command

DOCUMENT = (ROOT / "docs/commands.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny.write_data(folder)
    tiny.write_artifact(folder / "artifact.bin")
    (folder / "text").write_text(tiny.documents(2, 9)[0])
    return folder


def test_help_and_version_load_neither_torch_nor_the_commands() -> None:
    code = "import sys; from hybrid.cli import seedgram\ntry: seedgram.parse(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in sys.modules if m in ('torch', 'numba', 'numpy') or m in {c.module for c in seedgram.COMMANDS.values()}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"\n  {name} " in done.stdout for name in seedgram.COMMANDS)


LIGHT = ("eval", "certify", "score", "compress", "decompress", "sample", "inspect", "report", "train", "ngram")  # whose --help is there at once


def test_help_of_the_commands_that_use_an_artifact_loads_no_torch() -> None:
    code = "import contextlib, io, sys, eval\nfrom hybrid.cli import seedgram\n"
    code += "def ask(read, *words):\n  with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): read([*words, '--help'])\n"
    code += f"ask(eval.parse)\nfor name in {LIGHT}: ask(seedgram.parse, name)\n"
    code += "print([m for m in sys.modules if m in ('torch', 'numba', 'rich', 'matplotlib')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_scoring_and_coding_load_no_compiler_of_torch_and_what_was_stored_comes_back_without_torch(place: Path) -> None:
    code = "import sys\nfrom hybrid.cli import seedgram\ndef run(*words):\n  flags = seedgram.parse(list(words)); flags._run(flags)\n"
    code += "place, artifact = sys.argv[1], ['--artifact', sys.argv[1] + '/artifact.bin']\n"
    code += "def loaded(*names): print([name for name in names if name in sys.modules])\n"
    code += "run('decompress', place + '/stored', '-o', place + '/back', *artifact); loaded('torch', 'numba')\n"
    code += "run('score', place + '/text', *artifact); run('compress', place + '/text', '-o', place + '/coded', *artifact)\n"
    code += "loaded('torch._dynamo', 'torch._inductor', 'sympy', 'rich', 'matplotlib', 'scipy')"
    (place / "stored").write_bytes(store(b"some bytes"))
    done = subprocess.run([sys.executable, "-c", code, str(place)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == ["[]", "[]"], done.stdout
    assert (place / "back").read_bytes() == b"some bytes"


@pytest.mark.parametrize("name", seedgram.COMMANDS)
def test_every_command_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seedgram.parse([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and out.startswith(f"usage: seedgram {name} [-h]")
    said = seedgram.COMMANDS[name].help
    assert " ".join(out.split()).count(said[1:]) == 1 and not said.endswith(".")
    assert callable(seedgram.module_of(name).run)


def test_the_document_names_the_commands_and_exit_codes_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", DOCUMENT, re.M)
    assert [name.split()[0] for row in rows for name in re.findall(r"`([^`]+)`", row)] == list(seedgram.COMMANDS)
    codes = dict(re.findall(r"^\| (\d+) \| (.+) \|$", DOCUMENT, re.M))
    assert {int(code): text.replace("`", "") for code, text in codes.items()} == seedgram.EXIT_CODES
    assert train_interrupted() in seedgram.EXIT_CODES


def train_interrupted() -> int:
    from hybrid.training.checkpoint import INTERRUPTED

    return INTERRUPTED


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "a command is missing; see seedgram --help"),
        (["trian"], "'trian' is no command, did you mean train?; see seedgram --help"),
        (["--verbose"], "unrecognized arguments: --verbose; see seedgram --help"),
        (["score"], "the following arguments are required: FILE, --artifact; see seedgram score --help"),
        (["ngram", "info"], "the following arguments are required: C; see seedgram ngram info --help"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        seedgram.parse(argv)
    assert str(error.value) == said


def test_train_says_whose_help_to_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    for argv, name in ((["seedgram", "train"], "seedgram train"), (["train_gpt.py"], "train_gpt.py")):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            run_cli(seedgram.main if len(argv) > 1 else train.main)
        assert (ended.value.code, capsys.readouterr().err) == (2, f"UsageError: --data --tokenizer --out missing; see {name} --help\n")


@pytest.mark.parametrize("name", ["eval", "score"])
def test_with_json_on_standard_output_nothing_else_is_there(place: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = {"eval": ("--data", place, "--device", "cpu"), "score": (place / "text", "--per-token")}[name]
    assert tiny.exit_code(seedgram, name, "--artifact", place / "artifact.bin", "--json", "-", *argv) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["bytes"] > 0
    assert "bits per byte" in said.err and "{" not in said.err


def test_two_outputs_do_not_share_standard_output(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("compress", place / "text", "-o", "-", "--json", "-", "--artifact", place / "artifact.bin")
    assert tiny.exit_code(seedgram, *argv) == 2
    said = capsys.readouterr()
    assert said.err == "UsageError: --out and --json: only one of them can be written to standard output; give the other a file\n"
    assert not said.out


def test_training_as_a_command_writes_what_the_script_does(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command(place, tmp_path / "script", "--steps", "3")[2:]
    assert tiny.exit_code(train_gpt, *words) == 0
    words[words.index(str(tmp_path / "script"))] = str(tmp_path / "command")
    capsys.readouterr()
    assert tiny.exit_code(seedgram, "train", *words, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 3
    assert (tmp_path / "script/artifact.bin").read_bytes() == (tmp_path / "command/artifact.bin").read_bytes()


def test_completion_knows_every_command_and_flag() -> None:
    shtab = pytest.importorskip("shtab")
    parser = completion.whole_parser()
    completion.mark_files(parser, shtab.FILE)
    for shell in completion.SHELLS:
        script = shtab.complete(parser, shell)
        assert all(name in script for name in seedgram.COMMANDS) and "weight-bits" in script and "best16mb" in script
    bash = shtab.complete(parser, "bash")
    assert subprocess.run(["bash", "-n"], input=bash, text=True, capture_output=True, check=False).returncode == 0
    assert re.search(r"_shtab_seedgram_score\w*artifact_COMPGEN=_shtab_compgen_files", bash)


def test_ctrl_c_ends_with_one_word_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(flags: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(seedgram.module_of("completion"), "run", stopped)
    assert tiny.exit_code(seedgram, "completion", "bash") == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_package_that_is_not_installed_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert tiny.exit_code(seedgram, "completion", "bash") == 2
    assert capsys.readouterr().err == (
        "MissingPackageError: this needs the package shtab, which is not installed; pip install 'seedgram[completion]'\n"
    )
