"""The library: `hybrid.load`, `hybrid.train` and what they return."""
