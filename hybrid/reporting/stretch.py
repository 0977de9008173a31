"""What the predictor says of a stretch of validation text, target by target, and its whole distributions where they are asked for.

Everything comes from the one predictor (hybrid/scoring/predictor.py) with the options of an evaluation: this module only reads along.

Shapes: N tokens of the stretch, n = N-1 targets, K experts, F features, V vocabulary.
"""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hybrid.data.shards import find_shards
from hybrid.data.token_bytes import accounting
from hybrid.data.tokenizer import Tokenizer, load
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead, predictor_of
from hybrid.scoring.exact import exact
from hybrid.scoring.mixture import EXPERTS, GATE_FEATURES, Mixture
from hybrid.scoring.options import EvalOptions
from hybrid.storing.artifact import Artifact
from ngram.arrays import F32, F64, I64
from ngram.errors import DataError
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst, Tokens
from ngram.terminal import track

BLEND = "blend"


@dataclass(frozen=True)
class Stretch:
    """Scores of every target; entry i belongs to token i + 1.

    tokens (N,) uint16; size_bytes (n,) int64 of each target; bits {"blend" and each expert that has a say: (n,) float64};
    weights {expert: (n,) float64}; features {name: (n,) float32}, {} for a network alone; bytes_are: how bytes were counted."""

    tokens: Tokens
    size_bytes: I64
    bits: dict[str, F64]
    weights: dict[str, F64]
    features: dict[str, F32]
    codec: Tokenizer
    bytes_are: str

    @property
    def total_bytes(self) -> int:
        return int(self.size_bytes.sum())


@dataclass(frozen=True)
class Rows:
    """Whole distributions at one position t: {"blend" and each expert that has a say: (V,) float64}."""

    t: int
    rows: dict[str, F64]


class _Reading(Mixture):
    """The mixture of a predictor, which also shows the distributions that it mixes."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__(mixture.gate, mixture.chunk_tokens, **mixture.there)
        self.seen: F64 = np.empty((0, 0))

    def mixed_rows(self, weights_nK: F64, rows_KnV: Tensor) -> Tensor:
        self.seen = rows_KnV[:, 0].cpu().numpy()
        return super().mixed_rows(weights_nK, rows_KnV)


def read_tokens(art: Artifact, data: str, options: EvalOptions) -> tuple[Tokens, I64, str]:
    """(tokens (N,), bytes of each target (N-1,), how they are counted) of the beginning of a validation stream."""
    shards = find_shards(data, "val")
    tokens = evaluate.load_tokens(shards, art.config.model.vocab_size, art.config.train.seq_len, options.protocol, options.max_tokens)
    counter, how = accounting(shards, art.tokenizer)
    size_bytes = counter.count(tokens)
    if not size_bytes.any():
        raise DataError(f"{shards[0]}: the validation tokens decode to no text at all; use the tokenizer that made them")
    return tokens, size_bytes, how


def read_stretch(art: Artifact, data: str, options: EvalOptions, ranks: Ranks, wanted: int = 0) -> tuple[Stretch, list[Rows]]:
    """The scores of a stretch, and the whole distributions of `wanted` positions drawn from a seed that depends on the length alone."""
    tokens, size_bytes, how = read_tokens(art, data, options)
    targets = np.arange(1, len(tokens))
    places = np.sort(np.random.default_rng(len(tokens)).choice(targets, min(wanted, len(targets)), replace=False))
    walk = _Walk(art, tokens, options, ranks)
    rows = walk.over(places.tolist(), len(tokens), "scoring")
    return walk.stretch(size_bytes, load(art.tokenizer), how), rows


def rows_at(art: Artifact, tokens: Tokens, options: EvalOptions, ranks: Ranks, places: Sequence[int]) -> list[Rows]:
    """The whole distributions of some positions, by reading the stretch again up to the last of them."""
    wanted = sorted(set(places))
    return _Walk(art, tokens, options, ranks).over(wanted, wanted[-1] + 1, "reading") if wanted else []


class _Walk:
    """One reading of a stretch from its beginning."""

    def __init__(self, art: Artifact, tokens: Tokens, options: EvalOptions, ranks: Ranks) -> None:
        self.art, self.tokens, self.options, self.ranks = art, tokens, options, ranks
        self._probs, self._mixed, self._weights, self._features = list[F64](), list[F64](), list[F64](), list[F32]()
        self._experts: list[int] = [0]

    def over(self, places: Sequence[int], stop: int, title: str) -> list[Rows]:
        """Scores targets 1 … stop-1; at each of `places`, ascending, it takes the distributions before the target is scored."""
        with exact() if self.options.exact else nullcontext():
            network = network_ahead(self.art, self.tokens, self.options, self.ranks)
            with closing(predictor_of(self.art, network, self.options, ranks=self.ranks)) as predictor:
                predictor.mixture = reading = _Reading(predictor.mixture)
                predictor.collect, self._experts = self.art.table is not None, list(reading.present)
                order = ScoreFirst(self.tokens, {BLEND: predictor}, frozen=not self.options.online)
                rows = list[Rows]()
                for t in track(places, title):
                    self._score(order, t)
                    row_V = row_at(order, t)[BLEND]
                    rows.append(Rows(t, {BLEND: row_V, **{EXPERTS[k]: reading.seen[k] for k in reading.present}}))
                self._score(order, stop)
                self._features = [features for features, _ in predictor.collected]
        return rows

    def _score(self, order: ScoreFirst, stop: int) -> None:
        """Scores and learns everything before `stop` that was not scored yet."""
        chunk = self.options.chunk_tokens or self.art.config.cache.chunk_tokens
        while order.mark < stop:
            end = min(stop, 1 + ((order.mark - 1) // chunk + 1) * chunk)
            scores = (order.score if order.frozen else order.score_then_update)(order.mark, end)[BLEND]
            self._probs.append(scores.probs)
            self._mixed.append(scores.mixed)
            self._weights.append(scores.weights)

    def stretch(self, size_bytes: I64, codec: Tokenizer, how: str) -> Stretch:
        probs_nK, weights_nK = np.concatenate(self._probs), np.concatenate(self._weights)
        bits = {BLEND: -np.log2(np.concatenate(self._mixed)), **{EXPERTS[k]: -np.log2(probs_nK[:, k]) for k in self._experts}}
        weights = {EXPERTS[k]: weights_nK[:, k] for k in self._experts}
        features = dict(zip(GATE_FEATURES, np.concatenate(self._features).T, strict=True)) if self._features else {}
        return Stretch(self.tokens, size_bytes, bits, weights, features, codec, how)
