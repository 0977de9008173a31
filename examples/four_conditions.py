"""For each of the four conditions a scorer that keeps it and a near relative that breaks it, with what the audit says of both.

    python examples/four_conditions.py

The eight scorers predict the bytes of this file.  The second of each pair cheats, and the audit names the condition that it breaks (and
others that break with it).  Exit code 1 if a verdict is not the expected one.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works from a checkout that is not installed

from hybrid.auditing.audit import audit_scorer

Tokens = npt.NDArray[np.uint16]
F64 = npt.NDArray[np.float64]


class Bigrams:
    """The plainest honest scorer: how often each byte has followed each other one so far, plus a hundredth.  The others change one thing."""

    vocab_size = 256

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.counts = np.full((self.vocab_size, self.vocab_size), 0.01)

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        """The distribution at each position of start … stop-1: (n, V), rows sum to 1."""
        found = self.counts[tokens[start - 1 : stop - 1]]
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        """The probability of each token that came: (n,), entries of `rows`."""
        return np.asarray(self.rows(tokens, start, stop)[np.arange(stop - start), tokens[start:stop]])

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        """Learns the tokens of start … stop-1, which have been scored."""
        np.add.at(self.counts, (tokens[start - 1 : stop - 1], tokens[start:stop]), 1)

    def digest(self) -> str:
        return hashlib.sha256(self.counts.tobytes()).hexdigest()


class Copies(Bigrams):
    """C1 kept: expects once more what followed the last occurrence of the two bytes before."""

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        found, stream = super().rows(tokens, start, stop), tokens.astype(np.uint8).tobytes()
        for i, position in enumerate(range(start, stop)):
            at = self.last_place(stream, stream[max(0, position - 2) : position], position)
            if at >= 0:
                found[i] *= 0.5
                found[i, stream[at + 2]] += 0.5
        return found

    def last_place(self, stream: bytes, pair: bytes, position: int) -> int:
        """Where the pair stands and is followed by a byte that is known by now, -1: nowhere."""
        return stream.rfind(pair, 0, position - 1) if len(pair) == 2 else -1


class CopiesFromBehind(Copies):
    """C1 broken: looks for the two bytes in the whole stream, what is yet to come included."""

    def last_place(self, stream: bytes, pair: bytes, position: int) -> int:
        return stream.rfind(pair, 0, len(stream) - 1) if len(pair) == 2 else -1


class Cached(Bigrams):
    """C2 kept: half of the probability for bytes that have followed this one, in proportion to their counts."""

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        seen = np.floor(self.counts[tokens[start - 1 : stop - 1]])
        total = seen.sum(axis=1, keepdims=True)
        cache = np.where(total > 0, seen / np.maximum(total, 1), 1 / self.vocab_size)
        return 0.5 * super().rows(tokens, start, stop) + 0.5 * cache


class CachedForTheTarget(Cached):
    """C2 broken: looks only the target up, at c / (c + 1), which is a score and no share of a distribution.  Published caches did this."""

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        seen = np.floor(self.counts[tokens[start - 1 : stop - 1], tokens[start:stop]])
        return np.asarray(0.5 * super().score(tokens, start, stop) + 0.5 * seen / (seen + 1))


class LearnsAfterwards(Bigrams):
    """C3 kept: learns each chunk twice over, but only once it has been scored."""

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        for _ in range(2):
            super().update(tokens, start, stop)


class LearnsBeforehand(Bigrams):
    """C3 broken: learns a chunk on being asked for its scores, and scores what it has just learned."""

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        super().update(tokens, start, stop)
        return super().score(tokens, start, stop)


class ScoresEverything(Bigrams):
    """C4 kept: a probability for each target, however small."""


class LeavesOutTheHardest(Bigrams):
    """C4 broken: says 0 for the targets that would cost most, hoping that they are left out of the sum."""

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        found = super().score(tokens, start, stop)
        return np.where(found < 1e-4, 0.0, found)


PAIRS: dict[str, tuple[type[Any], type[Any]]] = {
    "C1": (Copies, CopiesFromBehind),
    "C2": (Cached, CachedForTheTarget),
    "C3": (LearnsAfterwards, LearnsBeforehand),
    "C4": (ScoresEverything, LeavesOutTheHardest),
}


def main() -> int:
    tokens, as_expected = np.frombuffer(Path(__file__).read_bytes()[:2000], np.uint8).astype(np.uint16), True
    for condition, pair in PAIRS.items():
        for kind, honest in zip(pair, (True, False), strict=True):
            report = audit_scorer(kind, tokens, positions=300, chunk_tokens=64, name=kind.__name__)  # the class: each of two processes makes its own
            failed = [name for name, verdict in report.verdicts.items() if not verdict.passed]
            as_expected = as_expected and (not failed if honest else condition in failed)
            print(f"{condition}  {kind.__name__:20} claims {report.bits:7,.0f} bits  {'passed' if report.passed else f'FAILED {failed}'}")
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
