"""Whole rows of the network: distributions, whatever the vocabulary."""

from typing import Any

import numpy as np
import pytest
import torch

from hybrid.parallel.ranks import Ranks
from hybrid.scoring.windows import neural_blocks


class Peaked(torch.nn.Module):
    """Logits (S, V) that are 15 for one token and 0 for all others: so small next to it that float32, adding one after the other, loses them."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def logits_at(self, tokens_BL: torch.Tensor, places_S: torch.Tensor) -> torch.Tensor:
        logits_SV = torch.zeros(len(places_S), self.vocab_size, device=places_S.device)
        logits_SV[:, 3] = 15
        return logits_SV


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
@pytest.mark.parametrize("vocab_size", [1024, 8192, 131072])
def test_rows_sum_to_one_though_one_token_outweighs_a_wide_vocabulary(vocab_size: int, device: str) -> None:
    model: Any = Peaked(vocab_size)
    tokens = np.full(9, 3, np.uint32)
    (block,) = neural_blocks(model, tokens, 8, 0, Ranks(0, 1, torch.device(device)))
    assert block.rows is not None
    exact = np.log(np.exp(15.0) + vocab_size - 1) - 15
    assert (block.rows.double().exp().sum(1) - 1).abs().max() < 5e-7
    assert np.abs(block.nll_nats - exact).max() < 1e-6
