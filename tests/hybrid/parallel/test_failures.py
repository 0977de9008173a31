"""SIGTERM while a rank is on its way out: torchrun sends it to the others as soon as one rank has ended."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from hybrid.parallel import failures
from hybrid.parallel.ranks import GONE, RankError, Ranks

BETTER = "another rank ended"


class Left(BaseException):
    """Stands for the end of the process."""


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The line with which the process would have ended."""
    seen: list[str] = []

    def leave(ranks: Ranks, line: str, code: int, say: bool = True) -> NoReturn:
        if not seen:  # the process would be gone
            seen.append(line)
        raise Left

    monkeypatch.setattr(failures, "WORD_S", 0.0)
    monkeypatch.setattr(failures, "_leave", leave)
    monkeypatch.setattr(failures, "_last_words", lambda ranks: nullcontext())
    before = signal.getsignal(signal.SIGTERM)
    yield seen
    assert signal.getsignal(signal.SIGTERM) is before


def ends(work: Callable[[], object]) -> None:
    with pytest.raises(Left), failures.together(Ranks(0, 2, torch.device("cpu"))):
        work()


def test_sigterm_outside_the_training_loop_ends_the_rank_with_its_own_line(reported: list[str]) -> None:
    ends(sigterm)
    assert len(reported) == 1 and "told to stop (SIGTERM)" in reported[0]


def test_sigterm_while_an_error_is_on_its_way_does_not_replace_it(reported: list[str]) -> None:
    def closing() -> None:
        try:
            raise RankError(BETTER)
        finally:
            sigterm()

    ends(closing)
    assert reported == [f"RankError: {BETTER}"]


def test_sigterm_before_a_collectives_error_is_named_does_not_make_a_fault_of_the_program_of_it(reported: list[str]) -> None:
    def collective() -> None:
        try:
            raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
        finally:
            sigterm()

    ends(collective)
    assert reported == [f"RankError: {GONE}"]


def test_sigterm_at_the_end_of_the_training_loop_does_not_replace_its_error(reported: list[str], tmp_path: Path) -> None:
    def loop() -> None:
        with failures.terminated() as seen:
            sigterm()
            assert seen == [signal.SIGTERM]
            raise RankError(BETTER)

    ends(lambda: (sigterm_after(loop)))
    assert reported == [f"RankError: {BETTER}"]


def sigterm_after(loop: Callable[[], object]) -> None:
    try:
        loop()
    finally:
        sigterm()


def test_sigterm_between_the_error_and_its_report_does_not_let_it_leave(
    reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving would close the process groups, which waits for peers that are gone until torchrun kills the rank without a word."""
    install = signal.signal

    def late(number: int, handler: object) -> object:
        if handler is signal.SIG_IGN and not fired:
            fired.append(number)
            sigterm()  # the handler that is still there runs before this one is ignored
        return install(number, handler)  # type: ignore[arg-type]

    fired: list[int] = []
    monkeypatch.setattr(signal, "signal", late)

    def work() -> None:
        raise RankError(BETTER)

    ends(work)
    assert fired and reported == [f"RankError: {BETTER}"]


def test_the_loop_gives_the_handlers_back_when_it_ends_well(reported: list[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with failures.terminated():
        pass
    assert {number: signal.getsignal(number) for number in before} == before
