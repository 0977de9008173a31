"""Which targets are asked again without their future, and what that is worth: the power of an audit.

Let b(t) be the bits that a scorer claims for target t, and l(t) those of the distribution that it gives for t when the target and all
behind it are hidden: what it is entitled to.  It gains c(t) = l(t) - b(t) by looking where it may not.  A position that is asked again
shows this, whatever the means, unless what the scorer has looked at is by chance the same in the stream with another future.

*What can be gained.*  A gain counts up to R(t) - b(t) =: C(t), with R(t) = max(reference, log2 V) + 4 bits, the reference being a simple
model of the auditor's own.  Who counts more than that has first made the distribution worse than any simple one.

*How often a hidden target shows it.*  Say the scorer has looked at some property of the target (its identity, its class, its parity),
which its distribution gives the probability 2^-c: it gains c bits.  A target drawn from that distribution has another value of the
property with probability 1 - 2^-c, and only then the claim is another one.  (Two substitutes are tried, one of what has followed the same
token before and one of all tokens, so both the likely and the unlikely are.)

*Which positions.*  Position t is asked again with a chance q(t), independently, from a seed that the scorer cannot know, after it has claimed.
A gain of c bits there stays unseen with probability 1 - q (1 - 2^-c).  The negative logarithm of that is concave in c (it is one of a sum of
exponentials) and 0 at c = 0, so it is at least c λ for all c ≤ C if it is C λ at c = C.  That is so for

    q(t) = (1 - e^(-λ C)) / (1 - 2^-C),    0 ≤ λ ≤ ln 2,    λ / ln 2 where C = 0

A share for all positions is in it, and at λ = ln 2 each of them is asked for.

*Power.*  A gain G = Σ c(t), however it is spread, stays unseen with probability at most exp(-λ G).  To miss a share x of all bits B with
probability m at most, λ = ln(1/m) / (x B), or ln 2 where that is less: then G bits are missed with 2^-G.  The number of positions
depends on x and on how well the scorer predicts, and not on the stream's length.

What lies behind a chunk of targets, the stream's length, state kept from elsewhere and writing into the stream need no luck: the second scorer
does not have them at any position, and every one of its scores is compared.

Shapes: N tokens of a stream; entry 0 of (N,) arrays belongs to token 0, which is no target.
"""

import math
from dataclasses import dataclass

import numpy as np

from ngram.arrays import F64, I64

LN2 = math.log(2)
SLACK_BITS = 4.0  # what an entitled score may cost more than the reference
GAIN, MISS = 0.005, 1e-4  # by default a gain of 0.5 % stays unseen once in 10,000 audits
SHOWN_GAINS = (0.001, 0.002, 0.005, 0.01)


@dataclass(frozen=True)
class Plan:
    """chance (N,): q of each position.  rate: λ, of seeing a gained bit.  claimed: B, bits."""

    chance: F64
    rate: float
    claimed: float

    def draw(self, random: np.random.Generator) -> I64:
        """The positions, ascending."""
        return np.flatnonzero(random.random(len(self.chance)) < self.chance)

    def power(self, gain: float) -> float:
        """Least probability with which a gain of this share of the claimed bits is caught."""
        return -math.expm1(-self.rate * gain * self.claimed)

    def powers(self) -> dict[str, float]:
        """By gain, in per cent."""
        return {f"{100 * gain:g} %": self.power(gain) for gain in SHOWN_GAINS}


def plan(claimed_bits: F64, reference_bits: F64, vocab_size: int, positions: int | None = None) -> Plan:
    """claimed_bits, reference_bits (N,).  positions: expected number of them; None: as many as GAIN and MISS need."""
    entitled = np.maximum(reference_bits, math.log2(vocab_size)) + SLACK_BITS
    room, claimed = np.maximum(entitled - claimed_bits, 0.0)[1:], float(claimed_bits[1:].sum())
    if positions is None:
        rate = min(LN2, math.log(1 / MISS) / (GAIN * claimed)) if claimed > 0 else LN2
    else:
        rate = _rate(room, positions)
    return Plan(np.append(0.0, chances(room, rate)), rate, claimed)


def chances(room: F64, rate: float) -> F64:
    """q for each C, at λ = rate ≤ ln 2."""
    bits = np.maximum(room, 1e-9)  # the limit at 0
    return np.asarray(np.fmin(1.0, np.expm1(-rate * bits) / np.expm1(-LN2 * bits)))


def _rate(room: F64, positions: int) -> float:
    """λ at which about this many positions are drawn."""
    low, high = 0.0, LN2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(chances(room, middle).sum()) < positions else (low, middle)
    return high
