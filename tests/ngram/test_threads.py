"""The worker does what it is handed in order, keeps the first error for its owner, and leaves no thread behind."""

import threading
from functools import partial

import pytest

from ngram.threads import Worker


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_work_is_done_in_order_on_one_thread_that_ends_with_it() -> None:
    worker, done = Worker("a-worker", 4), list[tuple[int, str]]()

    def note(i: int) -> None:
        done.append((i, threading.current_thread().name))

    for i in range(200):  # more than may wait: submitting blocks instead of losing any
        worker.submit(partial(note, i))
    worker.wait()
    assert done == [(i, "a-worker") for i in range(200)]
    assert "a-worker" not in names() and worker.idle()


def test_the_first_error_is_raised_once_and_what_waited_behind_it_is_dropped() -> None:
    worker, go, done = Worker("a-worker", 8), threading.Event(), list[int]()

    def fail() -> None:
        go.wait(10)
        raise ValueError("the first")

    worker.submit(fail)
    for i in range(3):
        worker.submit(partial(done.append, i))
    go.set()
    with pytest.raises(ValueError, match="the first"):
        worker.wait()
    assert done == []
    worker.submit(lambda: done.append(7))  # it goes on afterwards
    worker.wait()
    assert done == [7]


def test_it_is_not_idle_while_work_is_at_hand() -> None:
    worker, go = Worker("a-worker", 1), threading.Event()
    worker.submit(lambda: go.wait(10))
    assert not worker.idle()
    go.set()
    worker.wait()
    assert worker.idle()


def test_what_waits_is_counted_without_what_is_at_work() -> None:
    worker, begun, go = Worker("a-worker", 8), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(10)

    worker.submit(work)
    begun.wait(10)
    for i in range(3):
        worker.submit(lambda: None)
        assert worker.waiting() == i + 1
    go.set()
    worker.wait()
    assert worker.waiting() == 0
