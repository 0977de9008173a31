"""NgramModel: what the rest of the package can do, for programs that import it."""
