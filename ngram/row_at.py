"""The whole distribution of the position that a ScoreFirst scores next: for coders, samplers and reports, which have no target to give."""

from typing import Any

from ngram.score_first import ScoreFirst


def row_at(order: ScoreFirst, t: int) -> dict[str, Any]:
    """Every part's whole distribution of position t, which must be the next to be scored; nothing is scored or learned.

    A part must have `row(tokens, t)`, which does not look at tokens[t:].  Raises LeakageError for any other position."""
    order.check_next(t, t + 1)
    return {name: part.row(order.tokens, t) for name, part in order.parts.items()}  # type: ignore[attr-defined]
