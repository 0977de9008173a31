"""The command line of prepare_data: what it prints, what it reads from pipes, and no odd value of any flag that ends in a traceback."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hybrid.cli import prepare as cli
from hybrid.cli import seedgram
from ngram.errors import run_cli
from tests.support import loaded
from tests.support.folders import jsonl, prepare_into, read_back, write
from tests.support.paths import ROOT
from tests.support.tokenizers import kinds, without_bytes

TEXTS = [f"Document {i}: the cat sat on mat {i * i} and was déjà vu.\n" * 3 for i in range(60)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a text, a tokenizer of it and nothing else."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", jsonl(TEXTS))
    write(tmp_path / "m.model", kinds()["public"])
    return tmp_path


def run(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """(exit code, output, errors) of the command in this process."""
    streams = [sys.argv, sys.stdin, sys.stdout, sys.stderr]
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    sys.argv, sys.stdin = ["prepare_data.py", *arguments], io.TextIOWrapper(io.BytesIO(stdin))
    sys.stdout, sys.stderr = out, err
    try:
        with pytest.raises(SystemExit) as ended:
            run_cli(cli.main)
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return int(ended.value.code or 0), texts[0], texts[1]


ODD = ["-1", "0", "1", "99999999999999999999", "9" * 5000, "1e999", "nan", "-inf", "1.5", "", " ", "x" * 300, "~", "~/x", "../x", "a/b", "-", "--", ".",
       "..", "/", "\udcff", "\u4e2d", "None", "0x10", "\u0661", "[", "a\nb", "m.model", "a.jsonl", "nowhere/at/all", "/dev/null", "/proc/self/mem"]  # fmt: skip
FLAGS = [
    "--out",
    "--tokenizer",
    "--vocab-size",
    "--val",
    "--val-fraction",
    "--seed",
    "--name",
    "--field",
    "--kind",
    "--overlap",
    "--nonsense",
    "",
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flag=st.sampled_from(FLAGS), value=st.sampled_from(ODD))
@example(flag="--seed", value="-1")
@example(flag="--seed", value="99999999999999999999")
@example(flag="--out", value="")
@example(flag="--out", value="x" * 300)
@example(flag="--out", value="-")
@example(flag="--vocab-size", value="-1")
@example(flag="--vocab-size", value="99999999999999999999")
@example(flag="--val-fraction", value="nan")
@example(flag="--name", value="../x")
@example(flag="--name", value="x" * 300)
@example(flag="", value="x" * 300)
@example(flag="", value="-")
def test_an_odd_value_of_any_flag_is_carried_out_or_refused_in_one_line(place: Path, flag: str, value: str) -> None:
    arguments = ["a.jsonl", "--out", "out"] + ([] if flag == "--vocab-size" else ["--tokenizer", "m.model"])
    if flag == "--out" and (os.path.isdir(value) or value == "../x"):
        return  # would write outside of this test's folder, as it was told to
    outside = os.listdir(place.parent)
    code, _, errors = run(*arguments, *([f"{flag}={value}"] if flag else ["--", value]))
    assert code in (0, 2), (flag, value, errors)
    said = [line for line in errors.splitlines() if "held what was prepared from other text" not in line]  # by the example before
    assert "Traceback" not in errors and len(said) == (1 if code else 0), (flag, value, errors)
    assert os.listdir(place.parent) == outside and (place / "a.jsonl").read_bytes() == jsonl(TEXTS)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--out=~/x"], "--out '~/x': the shell leaves ~ as it is here; write the folder in full"),
        (["--out="], "--out '': no folder is named"),
        (["--out=a.jsonl"], "a.jsonl is no folder that can be written to"),
        (["--out=a.jsonl/deeper"], "a.jsonl is no folder that can be written to"),
        (["--out=out", "--name=../x"], "--name '../x': shards are called after it; use letters"),
        (["--out=out", "--seed=-1"], "--seed -1: must be at least 0 and below 2^64"),
        (["--out=out", "--vocab-size=300000"], "--vocab-size 300000: must be 1 to 262,144"),
        (["--out=out", "--val-fraction=nan"], "--val-fraction nan: must be at least 0 and below 1"),
    ],
)
def test_settings_are_refused_before_anything_is_read(place: Path, arguments: list[str], said: str) -> None:
    (place / "a.jsonl").write_bytes(b"{ this would be an error if it were read")
    code, out, errors = run("a.jsonl", *arguments)
    assert (code, out) == (2, "") and said in errors
    assert sorted(os.listdir(place)) == ["a.jsonl", "m.model"]


def test_it_says_what_was_left_out(place: Path) -> None:
    write(place / "in/a.jsonl", jsonl([*TEXTS, *TEXTS[:7], ""]) + b'{"text": null}\n')
    write(place / "in/notes.pdf", b"x")
    write(place / "in/._a.jsonl", b"x")
    code, out, errors = run("in", "--out", "out", "--tokenizer", "m.model", "--val-fraction", "0.2")
    assert (code, errors) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith("train ") and lines[1].startswith("val ")
    for said in ("7 documents that were there before, left out", "1 rows without a text, left out", "1 empty documents, left out"):
        assert said in lines
    assert "2 files not read: ._a.jsonl, notes.pdf" in lines
    assert lines[-1].startswith("out: written")
    assert run("in", "--out", "out", "--tokenizer", "m.model", "--val-fraction", "0.2")[1].splitlines()[-1].startswith("out: already there")


def test_a_folder_of_logs_is_read_when_any_name_will_do(place: Path) -> None:
    write(place / "in/a.log", "\n".join(TEXTS).encode())
    code, out, errors = run("in", "--out", "out", "--tokenizer", "m.model")
    assert code == 2 and "in: no text in this folder" in errors and "--any-name reads other files as plain text" in errors
    code, out, errors = run("in", "--out", "out", "--tokenizer", "m.model", "--any-name", "--val-fraction", "0.2")
    assert (code, errors) == (0, "") and b"".join(read_back(place / "out", "train") + read_back(place / "out", "val")) == "\n".join(TEXTS).encode()
    assert "tokens to validate on are few, figures will be rough; --val-fraction holds out more" in out


def test_a_held_out_end_that_is_blank_is_said_as_what_it_is(place: Path) -> None:
    write(place / "a.txt", b"one two three four five six seven eight " * 9 + b"\n" * 60)
    code, _, errors = run("a.txt", "--out", "out", "--tokenizer", "m.model")
    assert code == 2 and "what --val-fraction 0.01 holds out for validation is nothing but white space; give more text, a larger fraction" in errors


def test_it_says_that_bytes_are_the_challenge_s_that_text_is_lost_and_that_sides_overlap(place: Path) -> None:
    write(place / "v.jsonl", jsonl(TEXTS[:3]))
    write(place / "b.model", without_bytes())
    assert "bytes as the challenge counts them" in run("a.jsonl", "--out", "c", "--tokenizer", "m.model", "--challenge-encoding")[1]
    code, _, errors = run("a.jsonl", "--out", "l", "--tokenizer", "b.model")
    assert code == 2 and "no byte pieces" in errors
    code, _, errors = run("a.jsonl", "--out", "l", "--tokenizer", "b.model", "--allow-loss")
    assert code == 0 and "the tokenizer has no byte pieces and lost " in errors and len(errors.splitlines()) == 1
    code, _, errors = run("a.jsonl", "--val", "v.jsonl", "--out", "o", "--tokenizer", "m.model", "--overlap", "keep")
    assert code == 0 and "3 validation documents are training documents too, trained on all the same" in errors


@pytest.mark.parametrize("kind, content", [("txt", "".join(TEXTS).encode()), ("jsonl", jsonl(TEXTS))])
@pytest.mark.parametrize("packed", [False, True])
def test_standard_input_and_pipes_are_read(place: Path, kind: str, content: bytes, packed: bool) -> None:
    import gzip

    data = gzip.compress(content) if packed else content
    code, _, errors = run("-", "--kind", kind, "--out", "stdin", "--tokenizer", "m.model", stdin=data)
    assert (code, errors) == (0, "")
    os.mkfifo(place / "pipe")
    writer = threading.Thread(target=lambda: (place / "pipe").write_bytes(data))
    writer.start()
    code, _, errors = run("pipe", "--kind", kind, "--out", "pipe-out", "--tokenizer", "m.model")
    writer.join(30)
    assert (code, errors) == (0, "")
    prepare_into(place / "file", write(place / f"whole.{kind}", content), tokenizer="m.model")
    for out in ("stdin", "pipe-out"):
        for split in ("train", "val"):
            assert read_back(place / out, split) == read_back(place / "file", split)


def test_seedgram_prepare_is_this_command(place: Path) -> None:
    code, _, errors = run("a.jsonl", "--tokenizer", "m.model", "--out", "one")
    assert (code, errors) == (0, "")
    flags = seedgram.parse(["prepare", "a.jsonl", "--tokenizer", "m.model", "--out", "two"])
    assert cli.run(flags) == 0
    for name in os.listdir("one"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()


def test_the_script_is_this_command(place: Path) -> None:
    def script(*arguments: str, **more: str) -> "subprocess.CompletedProcess[bytes]":
        command = [loaded.python(), "-W", "error", str(ROOT / "scripts/prepare_data.py"), *arguments]
        return subprocess.run(command, capture_output=True, check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT), **more})

    done = script("a.jsonl", "--tokenizer", "m.model", "--val-fraction", "0.2", "--out", "\u4e2d", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split()[0] for line in done.stdout.splitlines()[:2]] == [b"train", b"val"]
    assert done.stdout.splitlines()[-1].startswith(b"\\u4e2d: written")
    for arguments in (["none.txt", "--out", "x"], ["a.jsonl", "--no-such-flag"], []):
        failed = script(*arguments)
        assert failed.returncode == 2 and failed.stdout == b"" and len(failed.stderr.splitlines()) == 1, failed
    assert not (place / "x").exists()


def test_a_folder_of_another_text_is_not_replaced_without_a_word(place: Path) -> None:
    write(place / "b.jsonl", jsonl(TEXTS[:40]))
    gone = "out: held what was prepared from other text or with other settings; that is gone\n"
    for text, said in (("a", ""), ("b", gone), ("b", ""), ("a", gone)):
        assert run(f"{text}.jsonl", "--tokenizer", "m.model", "--out", "out")[::2] == (0, said)
