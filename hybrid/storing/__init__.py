"""The artifact: quantised weights, compressed sections, one file."""
