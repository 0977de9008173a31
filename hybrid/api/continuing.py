"""A text that is not finished: the distribution of the token that comes next, and texts drawn from it.

The predictor is that of eval.py.  What differs is where it gets the network's rows from: token by token out of a key/value cache.

Shapes: N tokens of a stream, n of a context, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch

from hybrid.data.tokenizer import Tokenizer
from hybrid.model.cached_model import CachedModel
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.build import network_ahead, predictor_of
from hybrid.scoring.network import NeuralScores
from hybrid.scoring.options import EvalOptions
from hybrid.settings.config import ConfigError
from hybrid.storing.artifact import Artifact
from ngram.arrays import F64, U16
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst, Tokens


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.  temperature: probabilities to the power of its inverse; 0: the likeliest token.  top_p: only the likeliest
    tokens that together have this probability.  seed: of the drawing; the same one gives the same text."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise ConfigError(f"temperature {self.temperature} must lie in 0…100")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} must not be negative")


def next_row(art: Artifact, tokens: U16, options: EvalOptions, ranks: Ranks) -> F64:
    """(V,) float64: what the token after `tokens` (n,), the first of which is given, is drawn from, exactly as a longer text is scored."""
    stream = np.append(tokens, np.zeros(1, tokens.dtype))  # whatever comes: no row looks at it
    network = network_ahead(art, stream, options, ranks)
    with closing(predictor_of(art, network, options, ranks=ranks)) as predictor:
        order = ScoreFirst(stream, {"blend": predictor}, frozen=not options.online)
        if len(tokens) > 1:
            (order.score_then_update if options.online else order.score)(1, len(tokens))
        row_V: F64 = row_at(order, len(tokens))["blend"]
    return row_V


class CachedNetwork:
    """A Network (scoring/network.py) for a text that grows: one row a token, in the windows of eval.py with this stride."""

    ahead = True  # a row does not depend on its target, so it may be asked for before that is known

    def __init__(self, model: HybridLM, seq_len: int, stride: int, device: torch.device) -> None:
        self.seconds, self._stride, self._seq_len = 0.0, stride or seq_len, seq_len
        self._model = CachedModel(model, 1, seq_len, device)
        self._begin, self._fed = 0, 0  # where the window begins, and how many tokens of the stream were read
        self._row: NeuralScores | None = None

    @torch.inference_mode()
    def look(self, tokens: Tokens, t: int) -> NeuralScores:
        while self._row is None or self._row.first != t:
            if self._fed - self._begin >= self._seq_len:
                self._begin += self._stride
                self._model.restart()
                first = self._begin
            else:
                first = self._fed
            read = torch.from_numpy(tokens[first : self._fed + 1].astype(np.int64))[None]
            logits_1V = self._model.extend(read) if read.shape[1] > 1 else self._model.step(read[:, 0])
            self._fed += 1
            rows_1V = torch.log_softmax(logits_1V.double(), dim=-1).float()
            entropy = -(rows_1V.exp() * rows_1V).sum(-1).cpu().numpy()
            self._row = NeuralScores(np.zeros(1), entropy, rows_1V.amax(-1).cpu().numpy(), self._fed, rows_1V, self._fed)
        return self._row

    def take(self, tokens: Tokens, start: int, stop: int) -> Sequence[NeuralScores]:
        pieces = []
        for t in range(start, stop):
            seen = self.look(tokens, t)
            assert seen.rows is not None
            pieces.append(replace(seen, nll_nats=np.array([-float(seen.rows[0, int(tokens[t])])])))
        return pieces

    def nll_nats(self) -> F64:
        return np.zeros(0)


def drawn(art: Artifact, codec: Tokenizer, prompt: U16, most: int, how: Sampling, device: torch.device) -> Iterator[int]:
    """Tokens that continue `prompt` (n,), BOS first, at most `most` of them; ends where the model ends the document with another BOS.

    Each is drawn from the blend, which learns it before the next: cache, match model and gate.  Windows of the network overlap by half."""
    options = EvalOptions(read_tokens=1)  # the product reads the cache as it is at every token
    stream, random, seq_len = np.zeros(len(prompt) + most, prompt.dtype), np.random.default_rng(how.seed), art.config.train.seq_len
    stream[: len(prompt)] = prompt
    silent = np.array([not piece for piece in codec.piece_bytes])  # control pieces; BOS among them ends the document
    silent[codec.bos] = False
    network = CachedNetwork(art.model, seq_len, seq_len // 2, device)
    with closing(predictor_of(art, network, options, ranks=Ranks(0, 1, device))) as predictor:
        order = ScoreFirst(stream, {"blend": predictor})
        if len(prompt) > 1:
            order.score_then_update(1, len(prompt))
        for t in range(len(prompt), len(stream)):
            row_V = np.where(silent, 0.0, row_at(order, t)["blend"])
            stream[t] = pick(row_V, how, float(random.random()))
            if stream[t] == codec.bos:
                return
            yield int(stream[t])
            order.score_then_update(t, t + 1)


def pick(row_V: F64, how: Sampling, at: float) -> int:
    """One token of a row of weights; at: a number from 0 up to 1 that decides which."""
    if how.temperature == 0:
        return int(np.argmax(row_V))
    with np.errstate(divide="ignore"):
        levels_V = np.log(row_V) / how.temperature
    weights_V = np.exp(levels_V - levels_V.max())
    order = np.argsort(-weights_V, kind="stable")
    sums = np.cumsum(weights_V[order])
    kept = int(np.searchsorted(sums, how.top_p * sums[-1])) + 1
    kept = min(kept, int(np.count_nonzero(weights_V)))
    return int(order[min(int(np.searchsorted(sums[:kept], at * sums[kept - 1], side="right")), kept - 1)])
