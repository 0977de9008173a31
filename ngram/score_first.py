"""ScoreFirst: the one place where scoring a stream and learning from it are put in order.

A chunk is a range [start, stop) of target positions of the whole stream.  Position 0 is given; positions 1 … N-1 are each scored exactly once.
Anything else raises LeakageError and names the positions.  Every rank runs the same loop, which docs/concepts.md shows.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ngram.arrays import Tokens as Tokens
from ngram.errors import LeakageError


class Part(Protocol):
    """Something that scores a chunk and may then learn from it.

    score   must not change what `digest` sees, and may use tokens[stop:] in no way
    update  learns from targets tokens[start:stop]
    digest  hexadecimal hash of all state that a score can depend on"""

    def score(self, tokens: Tokens, start: int, stop: int) -> Any: ...

    def update(self, tokens: Tokens, start: int, stop: int) -> None: ...

    def digest(self) -> str: ...


class ScoreFirst:
    """Owns the stream, its stateful parts and the high-water mark.

    tokens: (N,).  parts: name → Part, scored and updated in this order.  frozen: parts never learn, `update` raises.
    paranoid: digests are compared around every score.  Condition C3 and C4 of the challenge's issue #1017."""

    def __init__(self, tokens: Tokens, parts: Mapping[str, Part], *, frozen: bool = False, paranoid: bool = False) -> None:
        self.tokens, self.parts, self.frozen, self.paranoid = tokens, dict(parts), frozen, paranoid
        self.mark = 1  # next position to score: everything before it has been scored
        self._pending: tuple[int, int] | None = None  # the chunk that was scored and not yet learned

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """The remaining positions as ranges of `size` targets, the last one shorter where they do not divide."""
        if size < 1:
            raise ValueError(f"chunk of {size} tokens")
        for start in range(self.mark, len(self.tokens), size):
            yield start, min(start + size, len(self.tokens))

    def score(self, start: int, stop: int) -> dict[str, Any]:
        """Results of every part for targets start … stop-1, state frozen."""
        self.check_next(start, stop)
        before = self.digests() if self.paranoid else {}
        results = {name: part.score(self.tokens, start, stop) for name, part in self.parts.items()}
        if changed := [name for name, digest in before.items() if self.parts[name].digest() != digest]:
            raise _leak(start, stop, f"scoring changed the state of {', '.join(changed)}")
        self.mark = stop
        self._pending = None if self.frozen else (start, stop)
        return results

    def update(self, start: int, stop: int) -> None:
        """Every part learns the chunk just scored: that chunk, whole, once."""
        self._check_learning(start, stop)
        if self._pending is None:
            known = "was already learned" if stop <= self.mark else f"was not scored yet (scored so far: up to {self.mark - 1})"
            raise _leak(start, stop, f"update with a chunk that {known}")
        if (start, stop) != self._pending:
            first, end = self._pending
            raise _leak(start, stop, f"update out of order, the scored chunk is {first}…{end - 1}")
        self._pending = None
        for part in self.parts.values():
            part.update(self.tokens, start, stop)

    def score_then_update(self, start: int, stop: int) -> dict[str, Any]:
        """The same as one-token chunks over start … stop-1, in one call of every part.

        A part must have `score_then_update(tokens, start, stop)` whose result and final state equal those of
        `for t in range(start, stop): score(t, t + 1); update(t, t + 1)`; one that learns by blocks documents its block."""
        self._check_learning(start, stop)
        self.check_next(start, stop)
        results = {name: part.score_then_update(self.tokens, start, stop) for name, part in self.parts.items()}  # type: ignore[attr-defined]
        self.mark = stop
        return results

    def digests(self) -> dict[str, str]:
        return {name: part.digest() for name, part in self.parts.items()}

    def _check_learning(self, start: int, stop: int) -> None:
        if self.frozen:
            raise _leak(start, stop, "update of a frozen scorer")

    def check_next(self, start: int, stop: int) -> None:
        """Raises LeakageError unless start … stop-1 are the positions to score now."""
        if start >= stop or stop > len(self.tokens):
            raise _leak(start, stop, f"not a chunk of the targets 1…{len(self.tokens) - 1}")
        if start < 1:
            raise _leak(start, stop, "position 0 is given and never a target")
        if start < self.mark:
            raise _leak(start, stop, f"positions up to {self.mark - 1} were already scored")
        if start > self.mark:
            raise _leak(start, stop, f"scoring would skip positions {self.mark}…{start - 1}")
        if self._pending is not None:
            first, end = self._pending
            raise _leak(start, stop, f"the chunk {first}…{end - 1} was scored but not learned yet; update with it first")


def _leak(start: int, stop: int, what: str) -> LeakageError:
    return LeakageError(f"positions {start}…{stop - 1}: {what}")
