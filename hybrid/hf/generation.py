"""A logits processor for `generate` of the library transformers: what the model says becomes the blend's log-probabilities.

Shapes: B sequences side by side (beams are sequences), L tokens of each so far, V pieces of the tokenizer, M logits of the model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid.hf.parts import experts, table_of
from hybrid.scoring.network import NeuralScores
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.stepwise import SteppedProduct
from ngram.arrays import F64, as_tokens
from ngram.errors import SeedgramError
from ngram.online.match import MatchModel
from ngram.score_first import Tokens

IMPOSSIBLE = -100.0  # logarithm of the probability of a token that a processor before this one has ruled out


class _Said:
    """The network for the predictor: what the model has just said of the position that comes next."""

    ahead, seconds = False, 0.0

    def __init__(self) -> None:
        self.logp_1V = torch.zeros(1, 1, dtype=torch.float64)

    def look(self, tokens: Tokens, t: int) -> NeuralScores:
        entropy = -(self.logp_1V.exp() * self.logp_1V).sum(-1)
        levels = (entropy.numpy().astype(np.float32), self.logp_1V.amax(-1).numpy().astype(np.float32))
        return NeuralScores(np.zeros(1), *levels, t, self.logp_1V, t)

    def take(self, tokens: Tokens, start: int, stop: int) -> Sequence[NeuralScores]:
        raise NotImplementedError("generation scores no text")

    def nll_nats(self) -> F64:
        return np.zeros(0)


class NgramLogitsProcessor:
    """Blends n-grams, and copies of what the sequence itself has said (the match model), into what a model says while it generates.

    ngram: what `count` made, or a file of `python -m ngram train`.  model: the model that generates; its vocabulary may be larger than the
    tokenizer's, by padding that is never generated then.  gate: of `fit_gate`, None: the fallback.  pad: the token that fills sequences of a
    batch to the left; None: the model's.  match, product: whether these experts have a say.

    The counts stay as they are.  What is learned belongs to a sequence and follows from its own tokens alone: where a beam continues another
    beam's text, or a batch is another one, its match model is made again, so any order of sequences gives what each gives by itself.
    A token that an earlier processor has ruled out (-inf) stays so.  Put it before processors that change temperature or cut the tail.
    Raises SeedgramError where ngram and model are of different vocabularies."""

    def __init__(
        self, ngram: Any, model: Any = None, *, gate: bytes | None = None, pad: int | None = None, match: bool = True, product: bool = True
    ) -> None:
        table = table_of(ngram)
        cache, _, mixture = experts(table, gate, match=match, product=product, online=False)
        self.vocab_size, self.bos, self._match = table.vocab_size, table.bos, match
        self._pad = pad if pad is not None or model is None else model.generation_config.pad_token_id
        self._network = _Said()
        self._predictor = Predictor(self._network, cache, None, mixture, product=SteppedProduct(None) if product else None)
        self._told = list[tuple[Tokens, MatchModel]]()  # of each row of the last call: its tokens, and what has learned them

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, L) tokens and (B, M) scores → (B, M) log-probabilities of the blend in the dtype of `scores`."""
        if scores.ndim != 2 or scores.shape[1] < self.vocab_size:
            raise SeedgramError(f"a model of {scores.shape[-1]:,} logits beside n-grams of {self.vocab_size:,} tokens; count with the model's tokenizer")
        logp_BV = torch.log_softmax(scores[:, : self.vocab_size].double().cpu(), -1)
        out = torch.full_like(scores, -torch.inf)
        told, rows = list[tuple[Tokens, MatchModel]](), input_ids.cpu().numpy()
        for row, ids in enumerate(rows):
            tokens = self._known(ids)
            self._network.logp_1V = logp_BV[row : row + 1].clamp_min(IMPOSSIBLE)
            if self._match:
                self._predictor.match = self._matcher(row, tokens)
                told.append((tokens, self._predictor.match))
            mixed_V = self._predictor.row(np.append(tokens, tokens[:1]), len(tokens))
            assert mixed_V is not None
            log_V = torch.from_numpy(np.log(mixed_V)).masked_fill(torch.isneginf(logp_BV[row]), -torch.inf)
            out[row, : self.vocab_size] = log_V.to(out)
        self._told = told
        return out

    def _known(self, ids: Any) -> Tokens:
        """(L,) what stands before the next token, what begins a document in front of it; padding to its left is no text."""
        start = int(np.argmax(ids != self._pad)) if self._pad is not None and (ids != self._pad).any() else 0
        text = ids[start:]
        if len(text) and int(text.max()) >= self.vocab_size:
            raise SeedgramError(f"token {int(text.max())} is outside of the {self.vocab_size:,} tokens that were counted; use the model's tokenizer")
        return as_tokens(np.concatenate([[self.bos], text[int(text[0] == self.bos) :] if len(text) else text]), self.vocab_size)

    def _matcher(self, row: int, tokens: Tokens) -> MatchModel:
        """The match model that has learned `tokens`, and nothing else."""
        before, model = self._told[row] if row < len(self._told) else (tokens[:1], None)
        if model is None or len(before) > len(tokens) or not np.array_equal(before, tokens[: len(before)]):
            before, model = tokens[:1], MatchModel(self.vocab_size, self.bos)
        model.update(tokens, len(before), len(tokens))
        return model

