"""Every flag of every command with values that nobody means: refused in one line before any work, or work begins; never a traceback.

Commands and flags are found in the parsers themselves, so that a new one is covered without a line here.
"""

import argparse
import contextlib
import importlib
import io
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid.cli import seedgram
from hybrid.coding import compress
from hybrid.data.write_shards import write_shard
from ngram.__main__ import main as ngram
from ngram.errors import SeedgramError, run_cli
from ngram.terminal import output
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.training import command as training

Main = Callable[[], "int | None"]
HUGE = "99999999999999999999"
ODD: dict[object, list[str]] = {
    int: ["", "x", "1.5", "nan", "-5", HUGE, "1" * 300, "\u00e9\u4e2d"],
    float: ["", "x", "nan", "inf", "-inf", "1e400", "-5", "\u00e9\u4e2d"],
    str: ["", "x" * 300, "\u00e9\u4e2d", "\udcff", "~", "..", "a\nb"],
}
REFUSED = {int: {"", "x", "1.5", "nan", "-5", "\u00e9\u4e2d"}, float: set(ODD[float])}
UNWRITABLE = ["", ".", "x" * 300, "text.txt/x", "/proc/nowhere/x"]
OUTPUTS = {"out", "json", "bits", "png", "tokens", "counts_out"}  # flags of these names take a file to write
FOLDERS = {"train_gpt.py", "train", "prepare", "submit"}  # commands whose --out is a folder
# where the work of the commands begins
WORK = (
    "hybrid.scoring.evaluate:score_tokens", "hybrid.coding.stream_coder:encode", "hybrid.coding.stream_coder:decode", "hybrid.coding.certify:_code",
    "hybrid.auditing.printed_run:_Pass.run", "hybrid.auditing.printed_run:run_eval", "hybrid.data.prepare:_readers",
    "hybrid.training.trainer:Trainer.run", "ngram.counting.counter:NgramCache.count_stream", "ngram.cli.score:_score_model",
    "ngram.cli.commands:merge", "ngram.cli.commands:prune.prune", "ngram.cli.commands:fit_model", "ngram.cli.commands:export_arpa",
    "ngram.cli.commands:warm_up", "hybrid.submitting.submit:read_runs", "hybrid.submitting.machine:measure", "socket:getaddrinfo",
    "hybrid.cli.prepare_merge:assemble", "hybrid.reporting.build:build", "hybrid.reporting.follow:records",
)  # fmt: skip


class Began(BaseException):
    """The work of a command begins here."""


class Found(BaseException):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(start: Callable[[], object], *argv: str) -> argparse.ArgumentParser:
    """The parser that a program reads its arguments with."""

    def caught(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", caught)
        patch.setattr(sys, "argv", ["program", *argv])
        with pytest.raises(Found) as found:
            start()
    return found.value.parser


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """(words of a command, its parser) for all commands under a parser."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


MAINS: dict[str, Main] = {
    "train_gpt.py": importlib.import_module("train_gpt").main,
    "eval.py": importlib.import_module("eval").main,
    "ngram": ngram,
    "seedgram": seedgram.main,
}


def all_commands() -> dict[tuple[str, ...], argparse.ArgumentParser]:
    found: dict[tuple[str, ...], argparse.ArgumentParser] = {}
    for program, main in MAINS.items():
        for name in [*seedgram.COMMANDS, *seedgram.SOURCES] if program == "seedgram" else [""]:
            words = (program, *name.split())
            found |= dict(leaves(parser_of(main, *words[1:]), words))
    flags = {words: tuple((*action.option_strings, action.dest) for action in parser._actions) for words, parser in found.items()}
    return {words: found[words] for words in {flag: words for words, flag in reversed(flags.items())}.values()}  # each once: seedgram has them all


COMMANDS = all_commands()


@dataclass(frozen=True)
class Place:
    """Files for every command, by the names of what they are given as."""

    folder: Path
    values: dict[str, list[str]]

    def arguments(self, words: tuple[str, ...], parser: argparse.ArgumentParser) -> list[str]:
        """A command line that is right: everything that the parser asks for, and what the command asks for beyond that."""
        given = list(self.values.get(" ".join(words), []))
        for action in parser._actions:
            needed = action.required if action.option_strings else action.nargs not in ("?", "*")
            if needed and not (action.option_strings and set(action.option_strings) & set(given)):
                value = self.values.get(f"{words[-1]} {action.dest}") or self.values[action.dest]
                given += [action.option_strings[-1], *value] if action.option_strings else value
        return given


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Place:
    folder = tmp_path_factory.mktemp("flags")
    tiny.write_artifact(folder / "artifact.bin")
    (folder / "val").mkdir()
    write_shard(folder / "val/tiny_val_000000.bin", tiny.stream(seed=2, count=2))
    (folder / "text.txt").write_text("\n".join(tiny.documents(3)))
    (folder / "M").write_bytes(tiny.tokenizer_bytes())
    (folder / "stored.sg").write_bytes(compress.store(b"some bytes"))
    work = {"out": ["out"], "artifact": ["artifact.bin"], "data": ["val"], "tokenizer": ["M"], "source": ["text.txt"], "train": ["text.txt"],
            "test": ["text.txt"], "model": ["m.ngram"], "counts": ["c.counts"], "bytes": ["100"], "decompress source": ["stored.sg"]}  # fmt: skip
    work |= {
        "prepare out": ["folder"],
        "train_gpt.py": training(tiny_data, Path("run"), "--steps", "2")[2:],
        "seedgram check-data": ["--text", "text.txt"],
        "seedgram sample": ["--artifact", "artifact.bin", "--tokens", "2"],
        "seedgram inspect": ["--artifact", "artifact.bin"],
        "shell": ["bash"],
        "dataset": ["owner/name"],
        "seedgram audit": ["--artifact", "artifact.bin", "--data", "val"],
        "seedgram prepare": ["text.txt"],
        "seedgram submit": "run --data val --out new --name n --author a --github-id g --blurb b".split(),
        "seedgram log": ["--tensorboard", "board"],
        "seedgram report": ["-o", "out"],
        "log run": ["run"],
        "report runs": ["run"],
        "merge parts": ["val"],
        "ngram train": ["--out", "out", "--tokenizer", "M"],
        "ngram score": ["--test", "text.txt"],
        "ngram merge": ["--out", "out"],
        "ngram prune": ["--max-ngrams", "1000"],
    }
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", "ngram train --train text.txt --tokenizer M --orders 2-3 --out m.ngram --counts-out c.counts".split())
        ngram()
    return Place(folder, work)


@pytest.fixture
def call(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """Calls a program in the folder, up to its work: (what came of it, what it said on standard error).

    What it prints goes where cp1252 is shown, what it says on standard error where only ASCII is, as under LC_ALL=C."""

    def begin(*_: object, **__: object) -> None:
        raise Began

    for name in WORK:
        module, _, path = name.partition(":")
        owner, (*inner, last) = importlib.import_module(module), path.split(".")
        for part in inner:
            owner = getattr(owner, part)
        monkeypatch.setattr(owner, last, begin)
    monkeypatch.setattr("ngram.blending.warm_up.WarmUp.__enter__", lambda self: self)
    monkeypatch.setattr("ngram.blending.warm_up.WarmUp.__exit__", lambda self, *_: None)
    monkeypatch.chdir(place.folder)

    def run(main: Main, argv: list[str]) -> tuple[str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for encoding in ("cp1252", "ascii")]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["program", *argv])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            try:
                run_cli(main)
            except SystemExit as ended:
                came = f"exit {ended.code}"
            except Began:
                came = "began"
            except Exception as error:
                came = f"{type(error).__name__}: {error}"
        for stream in streams:
            stream.flush()
        return came, streams[1].buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]

    return run


def odd_values(action: argparse.Action, words: tuple[str, ...] = ()) -> tuple[list[str], set[str]]:
    """(values to try, those of them that have to be refused)."""
    if action.dest == "out" and set(words) & FOLDERS:
        return UNWRITABLE[:-1], set(UNWRITABLE[:-1]) - {"."}
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return [], set()
    if action.dest in OUTPUTS or action.type is output:
        return UNWRITABLE, set(UNWRITABLE)
    if action.choices:
        return ["", "X", "\u00e9\u4e2d"], {"", "X", "\u00e9\u4e2d"}
    kind = action.type if action.type in ODD else int if (action.metavar or "") == "N" else str
    return ODD[kind], REFUSED.get(kind, set())  # type: ignore[arg-type,call-overload]


def replaced(arguments: list[str], action: argparse.Action, value: str) -> list[str]:
    """The same command line with another value of one flag or positional argument."""
    if not action.option_strings:
        return [*arguments[:-1], value] if not arguments[-1].startswith("-") else [*arguments, value]
    values = [value] * action.nargs if isinstance(action.nargs, int) else []
    return [*arguments, action.option_strings[-1], *values] if values else [*arguments, f"{action.option_strings[-1]}={value}"]


def state(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())


def label(words: tuple[str, ...]) -> str:
    return " ".join(words)


@pytest.mark.parametrize("words", COMMANDS, ids=label)
def test_odd_values_are_refused_in_one_line_before_any_work(words: tuple[str, ...], place: Place, call: Callable[..., tuple[str, str]]) -> None:
    parser = COMMANDS[words]
    arguments = [*words[1:], *place.arguments(words, parser)]
    came, said = call(MAINS[words[0]], arguments)
    assert came in ("began", "exit 0"), (came, said, arguments)
    faults = []
    for action in parser._actions:
        values, refused = odd_values(action, words)
        for value in values:
            before = state(place.folder)
            came, said = call(MAINS[words[0]], replaced(arguments, action, value))
            name = (action.option_strings or [action.dest])[-1]
            if came == "exit 2" and len(said.splitlines()) == 1 and state(place.folder) == before:
                continue
            if came not in ("began", "exit 0") or value in refused:
                faults.append(f"{name} {value[:20]!r}: {came[:100]}; said {said[:200]!r}{'' if state(place.folder) == before else '; wrote something'}")
    assert not faults, "\n" + "\n".join(faults)


SCRIPTS = [path for path in sorted((ROOT / "scripts").rglob("*.py")) if '__name__ == "__main__"' in path.read_text() and path.name != "prepare_data.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_flags_of_scripts_take_no_nonsense_for_numbers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("ngram.errors.run_cli", lambda main: main())
    parser = parser_of(lambda: runpy.run_path(str(path), run_name="__main__"))
    for action in parser._actions:
        values, _ = odd_values(action)
        for value in values:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SeedgramError, SystemExit):
                parser.parse_known_args(replaced([], action, value) if action.option_strings else [value])


def test_the_table_of_commands_is_whole() -> None:
    assert len(COMMANDS) >= 18 and {("eval.py",), ("train_gpt.py",), ("ngram", "score"), ("seedgram", "prepare")} <= set(COMMANDS)
    assert sum(len(parser._actions) for parser in COMMANDS.values()) > 150
