"""Linear algebra side by side."""

import numpy as np
import pytest
import torch

from hybrid.parallel import side_by_side


def test_each_call_has_one_of_torchs_threads_and_afterwards_there_are_as_many_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert side_by_side.each(lambda x: (x, torch.get_num_threads()), range(4)) == [(i, 1) for i in range(4)]
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            side_by_side.each(lambda x: 1 // x, (1, 0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_factorisation_has_the_same_bits_alone_and_beside_others():
    matrices = [np.random.default_rng(i).normal(size=(96, 64)) for i in range(8)]
    alone = [torch.linalg.qr(torch.from_numpy(matrix))[0].numpy() for matrix in matrices[:1]]
    together = side_by_side.each(lambda matrix: torch.linalg.qr(torch.from_numpy(matrix))[0].numpy(), matrices)
    assert np.allclose(together[0], alone[0], atol=1e-12)
    again = side_by_side.each(lambda matrix: torch.linalg.qr(torch.from_numpy(matrix))[0].numpy(), matrices)
    assert all(map(np.array_equal, together, again))
