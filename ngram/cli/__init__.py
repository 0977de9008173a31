"""The commands of `python -m ngram`."""
