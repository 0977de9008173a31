"""The auditor's own simple model of a stream: what a target may cost, and streams with another future.

An order-2 mixture of online counts by Witten and Bell (1991), in plain Python: an auditor of other people's scorers should start in
a second, without kernels.  Shapes: N tokens of a stream, V vocabulary.
"""

from bisect import bisect_left
from collections import defaultdict

import numpy as np

from ngram.arrays import F64, U16, token_type

ORDERS = 3  # contexts of 0, 1 and 2 tokens
ROOM = 2048  # tokens, the most that stand behind a chunk in a stream with another future
TRUNCATED = 0.1  # of these streams end with the chunk


def reference_bits(tokens: U16, vocab_size: int) -> F64:
    """(N,) bits that counts of the tokens before would have paid for each target; 0 for token 0, which is given."""
    bits, stream = np.zeros(len(tokens)), tokens.tolist()
    seen: list[defaultdict[int, defaultdict[int, int]]] = [defaultdict(lambda: defaultdict(int)) for _ in range(ORDERS)]
    totals: list[defaultdict[int, int]] = [defaultdict(int) for _ in range(ORDERS)]
    past = [0, stream[0], 0]  # the contexts as numbers; the longest is known from the third token on
    for t in range(1, len(stream)):
        token, p, longest = stream[t], 1 / vocab_size, min(t, ORDERS - 1)
        for order in range(longest + 1):
            context = past[order]
            followers, total = seen[order][context], totals[order][context]
            if total:
                p = (followers.get(token, 0) + len(followers) * p) / (total + len(followers))
            followers[token] += 1
            totals[order][context] += 1
        bits[t] = -np.log2(p)
        past = [0, token, past[1] * vocab_size + token]
    return bits


class Futures:
    """Streams that agree with `tokens` up to some position and have another target there, another future and another length.

    They are made of random tokens and of what stood earlier in the stream, never of what is yet to come."""

    def __init__(self, tokens: U16, vocab_size: int, random: np.random.Generator) -> None:
        self.tokens, self.vocab_size, self.random = tokens, vocab_size, random
        self._after = defaultdict[int, list[int]](list)  # token → positions behind it, ascending
        for position, token in enumerate(tokens[:-1].tolist(), 1):
            self._after[token].append(position)

    def pair(self, t: int, stop: int) -> tuple[U16, U16]:
        """Two tails of one length that may stand at t … instead of the stream: one such as has stood behind the token before t, and a
        random one.  Both begin with another token than the stream has there, and reach at least up to `stop`."""
        size = self._length(stop) - t
        return self._spliced(t, size), self._different(t, self._random(size))

    def behind(self, stop: int) -> U16:
        """A tail that may stand at `stop` …; often nothing at all."""
        size = self._length(stop) - stop
        if size == 0:
            return self.tokens[:0]
        return self._spliced(stop, size) if self.random.random() < 0.5 else self._different(stop, self._random(size))

    def _length(self, stop: int) -> int:
        """Of a stream: not the real one."""
        if stop < len(self.tokens) and self.random.random() < TRUNCATED:
            return stop
        length = stop + int(self.random.integers(1, ROOM))
        return length + (length == len(self.tokens))

    def _random(self, size: int) -> U16:
        return self.random.integers(0, self.vocab_size, size).astype(token_type(self.vocab_size))

    def _different(self, t: int, tail: U16) -> U16:
        """The tail, its first token another one than the stream's."""
        if t < len(self.tokens) and tail[0] == self.tokens[t]:
            tail[0] = (int(tail[0]) + int(self.random.integers(1, self.vocab_size))) % self.vocab_size
        return tail

    def _spliced(self, t: int, size: int) -> U16:
        places = self._after[int(self.tokens[t - 1])]
        known = bisect_left(places, t)
        here = int(self.tokens[t]) if t < len(self.tokens) else -1
        for _ in range(8 if known else 0):
            at = places[int(self.random.integers(known))]
            if int(self.tokens[at]) != here:
                return np.resize(self.tokens[at:t], size)
        at = int(self.random.integers(t))
        return self._different(t, np.resize(self.tokens[at:t], size).copy())
