"""What makes a program's start short."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around imports and the reading of a model: no search for garbage meanwhile, nor ever among what was loaded.

    All of that stays until the program ends, and looking through it again and again is a seventh of what loading torch takes."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
