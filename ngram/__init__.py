"""Exact n-gram counts, Kneser–Ney smoothing and a score-first online cache.  Needs numpy and numba only."""
