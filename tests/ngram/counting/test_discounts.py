"""Discounts are Chen & Goodman's where the counts can say, and fixed ones where they cannot."""

import numpy as np
import pytest

from ngram.counting.discounts import FALLBACK_DISCOUNTS, estimate_discounts


def test_discounts_are_chen_and_goodmans():
    n1, n2, n3, n4 = 1000, 400, 200, 120
    y = n1 / (n1 + 2 * n2)
    expected = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    np.testing.assert_allclose(estimate_discounts([[n1, n2, n3, n4]]), [expected])


@pytest.mark.parametrize("counts", [(0, 5, 5, 5), (5, 0, 5, 5), (5, 5, 0, 5), (10, 1, 10, 1), (0, 0, 0, 0)])
def test_discounts_that_cannot_be_estimated_fall_back(counts):
    assert tuple(estimate_discounts(counts)[0]) == FALLBACK_DISCOUNTS
