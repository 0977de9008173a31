"""The blend of a foreign model as a scorer that can be audited: the predictor of `blend_perplexity`, chunk by chunk.

The auditor changes what comes after the tokens that it asks about, so the network is computed again from the stream that is given, in
windows cut to the chunk; every score is the target's entry of a whole distribution.  Cache, match model and gate learn at the end of a chunk.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hybrid.auditing.audit import audit_here
from hybrid.auditing.report import AuditReport
from hybrid.hf.parts import Parts
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.network import NeuralScores
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.stepwise import SteppedProduct
from hybrid.scoring.windows import score_windows, windows_of
from ngram.arrays import F64
from ngram.score_first import Tokens


class ChunkNetwork:
    """The network's scores of the chunk that is asked about, computed from the stream that is given with the question."""

    ahead = False

    def __init__(self, parts: Parts, chunk_tokens: int) -> None:
        self.parts, self.chunk_tokens, self.seconds = parts, chunk_tokens, 0.0
        self._held: tuple[bytes, NeuralScores] | None = None

    def look(self, tokens: Tokens, t: int) -> NeuralScores:
        start = 1 + (t - 1) // self.chunk_tokens * self.chunk_tokens
        return self.take(tokens, start, min(start + self.chunk_tokens, len(tokens)))[0].part(t, t + 1)

    def take(self, tokens: Tokens, start: int, stop: int) -> Sequence[NeuralScores]:
        read = tokens[:stop].tobytes()
        if self._held is None or self._held[0] != read or self._held[1].first != start:
            parts = self.parts
            todo = windows_of(start, stop, len(tokens), parts.window, parts.stride)
            ranks = Ranks(0, 1, parts.device)
            self._held = read, score_windows(parts.as_model, tokens, todo, parts.window, ranks, batch_windows=parts.batch_windows)()
        return [self._held[1].part(start, stop)]

    def nll_nats(self) -> F64:
        raise NotImplementedError("an audit adds up its own scores")


class BlendScorer:
    """A scorer as hybrid/auditing asks for one.  chunk_tokens: of the audit."""

    def __init__(self, parts: Parts, chunk_tokens: int) -> None:
        self.parts, self.chunk_tokens, self.vocab_size = parts, chunk_tokens, parts.codec.vocab_size
        self.reset()

    def reset(self) -> None:
        cache, matcher, mixture = self.parts.experts()
        mixture.chunk_tokens = self.chunk_tokens
        product = SteppedProduct(None) if self.parts.product else None
        network = ChunkNetwork(self.parts, self.chunk_tokens)
        self._predictor = Predictor(network, cache, matcher, mixture, read_tokens=self.chunk_tokens, by_chunk=True, product=product)

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        return self._predictor.score(tokens, start, stop).mixed

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        return np.stack([row for t in range(start, stop) if (row := self._predictor.row(tokens, t)) is not None])

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        self._predictor.score(tokens, start, stop)  # what the gate learns is what this chunk's experts said of it
        self._predictor.update(tokens, start, stop)

    def digest(self) -> str:
        return self._predictor.digest()


def audit(
    model: Any, tokenizer: Any, texts: Iterable[str], ngram: Any, *, positions: int = 500, chunk_tokens: int = 64, **blend: Any
) -> AuditReport:
    """Audits the blend on documents by the four conditions of an honest code length (hybrid/auditing/audit.py).

    positions: about how many targets' whole distributions are summed.  chunk_tokens: targets between two steps of learning, here of every
    part.  blend: settings as of `blend_perplexity`.  Raises SeedgramError as that does."""
    parts = Parts.of(model, tokenizer, ngram, **blend)
    tokens, _ = parts.stream(texts)
    name = os.path.basename(getattr(model, "name_or_path", "")) or type(model).__name__
    return audit_here(lambda: BlendScorer(parts, chunk_tokens), tokens, positions=positions, chunk_tokens=chunk_tokens, name=f"{name} with n-grams")
