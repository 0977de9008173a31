"""n-gram tables as bytes: pruning to a budget, entropy coding, and the model file."""
