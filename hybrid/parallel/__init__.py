"""Ranks, how they fail together, and memory that the device can write to."""
