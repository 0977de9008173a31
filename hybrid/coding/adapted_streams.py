"""Test-time training for streams side by side."""

import numpy as np
import numpy.typing as npt
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.options import AdaptConfig
from hybrid.scoring.test_time_training import Learner, exact_gradients
from ngram.score_first import Tokens

STREAMS_AT_ONCE = 4  # in one backward pass: plain attention keeps their scores (16 took 37 GB at windows of 2,048)


class AdaptedStreams:
    """The network of lockstep.py learns: a step after every `columns` columns, on all of their tokens.

    Coder and decoder must get the same bits, so gradients are `exact_gradients`."""

    def __init__(self, model: HybridLM, streams: int, seq_len: int, stride: int, adapt: AdaptConfig, device: torch.device) -> None:
        self.learner = Learner(model, adapt, Ranks(0, 1, device))
        self.seq_len, self.device = seq_len, device
        unit, wanted = stride or 1, -(-(adapt.chunk_tokens or seq_len) // streams)
        self.columns = unit * -(-wanted // unit)

    def due(self, column: int) -> bool:
        """Whether a step follows once this column is known; column 0 has nothing before it and is no target."""
        return column > 0 and column % self.columns == 0

    def update(self, tokens_ST: Tokens, column: int, known_ST: npt.NDArray[np.bool_]) -> None:
        """A step on the last `columns` columns up to `column`, where known; each target sees what its stream has before it."""
        first, begin = max(1, column + 1 - self.columns), max(0, column - self.seq_len)
        learned = np.zeros((len(tokens_ST), column - begin), np.float32)
        learned[:, max(first, begin + 1) - begin - 1 :] = known_ST[:, max(first, begin + 1) : column + 1]
        if not learned.any():
            return
        tokens_SL = torch.from_numpy(tokens_ST[:, begin : column + 1].astype(np.int64)).to(self.device)
        share_SL = torch.from_numpy(learned / learned.sum(dtype=np.float64).astype(np.float32)).to(self.device)
        with exact_gradients():
            for at in range(0, len(tokens_ST), STREAMS_AT_ONCE):
                rows = slice(at, at + STREAMS_AT_ONCE)
                self.learner.backward(tokens_SL[rows, :-1], tokens_SL[rows, 1:], share_SL[rows])
            self.learner.step()
