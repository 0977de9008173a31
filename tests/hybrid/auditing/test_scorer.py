"""A factory reaches another process by name; what cannot is refused in one line that says how."""

import functools
import json
import os

import numpy as np
import pytest

from hybrid.auditing.scorer import Recipe
from hybrid.auditing.session import Process, Session, StreamError
from ngram.errors import SeedgramError
from tests.support.honest_scorers import Counts

HERE = __name__


class Sized(Counts):
    def __init__(self, size, scale=1.0):
        self.vocab_size = size
        self.scale = scale
        self.reset()


def made(size):
    return Sized(size, 2.0)


class Nested:
    class Inner(Counts):
        pass


@pytest.mark.parametrize(
    ("factory", "size"),
    [
        (Counts, 64),
        (Nested.Inner, 64),
        (f"{HERE}:Nested.Inner", 64),
        (functools.partial(made, 7), 7),
        (functools.partial(functools.partial(Sized, scale=3.0), 9), 9),
    ],
)
def test_a_factory_makes_its_scorer_from_what_is_told_of_it(factory, size):
    recipe = Recipe.of(factory)
    assert Recipe(**json.loads(recipe.to_json())).make().vocab_size == size


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        (Counts(), "this is a Counts that is made already: a second one must start in a fresh process"),
        (lambda: Counts(), "cannot be imported by another process: give a class or function that stands at the top of a module"),
        (functools.partial(made, np.zeros(3)), "cannot be told to another process: use numbers, texts"),
        (functools.partial(made, (1, 2)), "cannot be told to another process"),
        ("hybrid.auditing", 'names no factory; write "package.module:function"'),
    ],
)
def test_what_another_process_could_not_make_is_refused(factory, why):
    with pytest.raises(SeedgramError) as error:
        Recipe.of(factory)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module:f", "the module no_such_module cannot be imported by another process"),
        (f"{HERE}:absent", "has no absent"),
        ("collections:OrderedDict", "made a OrderedDict without vocab_size, reset, score, rows, digest"),
    ],
)
def test_a_name_that_leads_to_no_scorer_is_refused_by_the_process_that_looked(name, why):
    process = Process(Recipe.of(name))
    try:
        with pytest.raises(SeedgramError) as error:
            _ = process.vocab_size
        assert why in str(error.value)
    finally:
        process.close()


class Odd(Counts):
    """Prints, fails, dies and writes, as the stream's first token says."""

    resets_at = 5

    def score(self, tokens, start, stop):
        print("this must not come between the answers")
        if tokens[0] == 1:
            raise RuntimeError("no more ideas")
        if tokens[0] == 2:
            os._exit(3)
        if tokens[0] == 3:
            tokens[0] = 0
        return super().score(tokens, start, stop)


def asked(session, first):
    session.reset()
    session.know(np.array([first, 4, 5], np.uint16))
    return session.score(1, 5, np.array([6, 7], np.uint16))


def test_a_process_answers_as_a_session_here_does():
    process, here = Process(Recipe.of(Odd)), Session(Odd())
    try:
        assert (process.vocab_size, process.resets_at) == (here.vocab_size, here.resets_at) == (64, 5)
        for session in (process, here):
            assert np.array_equal(asked(session, 9), np.full(4, 1 / 64))
            assert session.rows(1, 3).shape == (2, 64)
            session.update(1, 3)
        tails = np.array([[3, 1], [2, 2]], np.uint16)
        assert np.array_equal(process.hidden(3, 5, 3, tails), here.hidden(3, 5, 3, tails))
        assert process.digest() == here.digest()
        for session in (process, here):
            with pytest.raises(SeedgramError, match="failed in score of positions 1…4: RuntimeError: no more ideas"):
                asked(session, 1)
            with pytest.raises(StreamError, match="tried to write into the stream"):
                asked(session, 3)
        with pytest.raises(SeedgramError, match="ended with code 3"):
            asked(process, 2)
    finally:
        process.close()
