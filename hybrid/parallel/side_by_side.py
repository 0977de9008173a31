"""Independent linear algebra side by side."""

from collections.abc import Callable, Iterable

import torch

from ngram import threads
from ngram.threads import Item, Result


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """threads.each, with one thread of torch's a call: more would wait for one another, and change last bits."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return threads.each(function, items)
    finally:
        torch.set_num_threads(count)
