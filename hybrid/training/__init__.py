"""The training loop and what surrounds it: batches, optimisers, checkpoints, log, packing."""
