"""The transformer: random maps regenerated from seeds, adapters, attention, blocks."""
