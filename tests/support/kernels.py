"""Tests of numba kernels run twice: with the kernels as plain Python, where every index is checked, and compiled.

scripts/test.sh runs the tests marked `kernels` with NUMBA_DISABLE_JIT=1 first, but those also marked `compiled`, which have too much to do.
"""

import os

from hypothesis import settings

SLOW = bool(os.environ.get("NUMBA_DISABLE_JIT"))  # kernels are plain Python: keep the work small


def examples(compiled: int, plain: int) -> settings:
    """Settings of a property test: how many examples it tries with compiled kernels and with plain ones."""
    return settings(max_examples=plain if SLOW else compiled, deadline=None)
