"""Every setting of a run, the presets, and the challenge's environment names."""
