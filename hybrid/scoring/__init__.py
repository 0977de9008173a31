"""Evaluation: network windows, the blend with the n-gram cache, test-time training, bits per byte."""
