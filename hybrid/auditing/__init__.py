"""The auditor of conditions C1–C4, our own scorers under it, and the negative control."""
