"""OneByOne: eval.py's own order as a coder takes it, one token after another, each with the row that its printed bits come from."""

import numpy as np
import numpy.typing as npt
import torch

from hybrid.coding.symbols import Step, step_of
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.scores import check_rows
from ngram.arrays import F64
from ngram.score_first import Tokens


class OneByOne:
    """A Part of ScoreFirst around a Predictor: the same scores, and rows as steps of one stream."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._row: F64 = np.zeros(0)

    @property
    def seconds(self) -> dict[str, float]:
        return {"network": self.predictor.network.seconds, **self.predictor.seconds}

    def active(self, _: int) -> npt.NDArray[np.int64]:
        """There is one stream."""
        return np.zeros(1, np.int64)

    def text(self, tokens: Tokens) -> Tokens:
        return tokens.copy()

    def row(self, tokens: Tokens, t: int) -> Step:
        row_V = self.predictor.row(tokens, t)
        assert row_V is not None
        self._row = row_V
        return step_of(row_V)

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        return self._checked(tokens, start, self.predictor.score(tokens, start, stop).mixed)

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> F64:
        """(1,) the probability of the token; raises CheckError unless it is the entry of a row that sums to 1."""
        return self._checked(tokens, start, self.predictor.score_then_update(tokens, start, stop).mixed)

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        self.predictor.update(tokens, start, stop)

    def digest(self) -> str:
        return self.predictor.digest()

    def close(self) -> None:
        self.predictor.close()

    def _checked(self, tokens: Tokens, t: int, mixed_1: F64) -> F64:
        check_rows(torch.from_numpy(self._row[None]), tokens[t : t + 1], mixed_1, np.array([t]))
        return mixed_1
