"""The documentation: it builds without a warning, its commands are those of the program, and what it says to run runs."""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.cli import seedgram, train
from ngram.cli import commands as ngram_commands
from ngram.cli import parser as ngram_parser
from tests.support import loaded, tiny, training
from tests.support.paths import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"(<!-- run -->\n)?```(bash|python)\n(.*?)```", re.DOTALL)
INDENTED = re.compile(r"^    ((?:seedgram|python|torchrun) (?:.*\\\n)*.*)", re.MULTILINE)
# The tutorial trains for two minutes; here the same commands make a smaller model in a few steps.
SMALLER = {**training.SHAPE, **training.STEPS, **training.WITHOUT, "ngram_order": 4, "steps": 6, "seconds": 0, "device": "cpu"}
INSTEAD = {
    "prepare": ["--vocab-size", str(tiny.VOCAB)],
    "train": [word for name, value in SMALLER.items() for word in ("--" + name.replace("_", "-"), str(value))],
    "report": ["--calibrated", "10"],
}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, language: str, *, run: bool) -> list[str]:
    """The code of a page in a language; run: only what is marked to be run."""
    return [code for mark, kind, code in FENCE.findall(page.read_text()) if kind == language and (mark or not run)]


def command_lines(page: Path, *, run: bool) -> list[list[str]]:
    """The words of every command in the Bash blocks of a page, and with run=False of the indented ones, what is optional there included."""
    code = blocks(page, "bash", run=run) + ([] if run else [re.sub(r"[][]", "", found) for found in INDENTED.findall(page.read_text())])
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line.split(" >")[0], comments=True) for line in lines) if words and "…" not in words]


def read(words: list[str]) -> bool:
    """Lets the program's own parser read a command; False for a program of somebody else.  Raises UsageError for a flag that is not there."""
    if words[0] in ("torchrun", "python") and words[1:2] != ["-m"]:
        words = words[next((place for place, word in enumerate(words) if word.endswith((".py", ".zip"))), 0) :]
    if words[0] == "submission.zip":
        words = ["train_gpt.py" if words[1] == "train" else "eval.py", *words[2:]]
    if words[0] == "scripts/prepare_data.py":
        words = ["seedgram", "prepare", *words[1:]]
    if words[0] == "train_gpt.py":
        train.settings_of(train.make_parser().parse_args(words[1:]), {})
    elif words[0] == "eval.py":
        seedgram.parse(words[1:] if words[1] in ("audit", "certify") else ["eval", *words[1:]])
    elif words[0] == "seedgram":
        seedgram.parse(words[1:])
    elif words[:3] == ["python", "-m", "ngram"]:
        ngram_parser.build_parser().parse_args(words[3:])
    else:
        return False
    return True


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=label)
def test_the_commands_of_a_page_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = [read(words) for words in command_lines(page, run=False)]
    least = {"tutorial.md": 5, "scale.md": 5, "report.md": 5, "README.md": 14, "submit.md": 4, "data.md": 4}
    assert sum(known) >= least.get(page.name, 0)


def test_a_flag_that_is_not_there_is_found() -> None:
    for program in ("seedgram eval", "python eval.py", "torchrun --standalone eval.py", "python submission.zip eval"):
        with pytest.raises(Exception, match="no-such-flag"):
            read(shlex.split(f"{program} --artifact a --data d --no-such-flag"))


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the tutorial that is marked was run, in order."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "texts").mkdir()
    for number, document in enumerate(tiny.documents(60)):
        (folder / "texts" / f"{number}.txt").write_text(document)
    shutil.copy(folder / "texts" / "0.txt", folder / "notes.txt")
    lines = command_lines(ROOT / "docs" / "tutorial.md", run=True)
    assert [words[1] for words in lines] == ["prepare", "train", "eval", "report", "compress", "decompress", "score"]
    with contextlib.chdir(folder):
        for words in lines:
            assert started(seedgram, [*words[1:], *INSTEAD.get(words[1], [])]) == 0, words
    return folder


def started(module: object, words: list[str]) -> int:
    """The exit code of a command in this process."""
    return int(tiny.exit_code(module, *words))


def test_the_tutorial_leads_where_it_says(followed: Path) -> None:
    assert (followed / "report.html").stat().st_size > 100_000 and "Seedgram" in (followed / "report.html").read_text()
    assert (followed / "runs/mine/eval.json").exists() and (followed / "notes.sg").exists()
    assert (followed / "notes.again.txt").read_bytes() == (followed / "notes.txt").read_bytes()


def test_the_n_grams_of_the_filter_page_are_trained_and_score(followed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = command_lines(ROOT / "docs" / "howto" / "filter.md", run=True)
    assert len(lines) == 3
    with contextlib.chdir(followed):
        for words in lines:
            ngram_commands.carry_out(ngram_parser.options_of(ngram_parser.build_parser().parse_args(words[3:])))
    assert '"bpb"' in capsys.readouterr().out


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=label)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    for code in blocks(page, "python", run=True):
        (tmp_path / "script.py").write_text(code)
        done = subprocess.run([loaded.python(), "-W", "error", "script.py"], cwd=tmp_path, env=training.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_log_is_found_by_its_index() -> None:
    text = (ROOT / "LOG.md").read_text()
    topics, named = re.findall(r"^## (.+)$", text, re.MULTILINE), re.findall(r"^- \[(.+)\]\(#(.+)\)", text, re.MULTILINE)
    assert [name for name, _ in named] == topics and len(topics) > 5
    assert [anchor for _, anchor in named] == [re.sub(r"[^a-z0-9 -]", "", topic.lower()).replace(" ", "-") for topic in topics]


def test_the_readme_can_be_read_in_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env={**training.environment(), "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    reference = (site / "reference/commands/index.html").read_text()
    assert all(f"seedgram {name}" in reference for name in seedgram.COMMANDS) and "--tensorboard" in reference
    assert "OnlineCache" in (site / "reference/api/index.html").read_text()
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]* (?:src|href)="(https?:[^"]*)"', (site / "index.html").read_text())
    assert not [address for address in loaded if "canonical" not in address], "the pages load nothing from elsewhere"
