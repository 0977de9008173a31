"""Compression and certificates: the predictor as a range coder."""
