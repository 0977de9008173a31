"""What an audit found: verdicts, the sums of distributions, and how people and programs get to see them."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
SUM_TOLERANCE = 1e-12  # |Σp - 1| of float64 rows
CONDITIONS = {"C1": "causal", "C2": "normalised, independent of the target", "C3": "score before update", "C4": "every target once"}
EDGES = (0.0, 0.5, 0.99, 1 - 1e-6, 1 - SUM_TOLERANCE, 1 + SUM_TOLERANCE, 1 + 1e-6, 1.01, 2.0, 10.0, 100.0, 1000.0, np.inf)


@dataclass
class Verdict:
    """One condition: whether it held, where it was worst and how bad; `why` says it in words."""

    name: str
    passed: bool = True
    worst_position: int | None = None
    worst: float = 0.0
    why: str = "held everywhere"

    def see(self, position: int, amount: float, limit: float, why: str) -> None:
        """Takes note of a deviation `amount` at a position; above `limit` (or not a number) the condition has failed."""
        bad = not amount <= limit
        if bad and self.passed:
            self.passed, self.worst_position, self.worst, self.why = False, position, amount, why
        elif (bad or self.passed) and not amount <= self.worst:
            self.worst_position, self.worst, self.why = position, amount, why if bad else self.why


@dataclass
class AuditReport:
    """Verdicts by condition, and the sum of every audited distribution, z (P,), at `positions` (P,).

    tried: how many positions of each kind were looked at.  power: by gain in per cent of the bits, the least probability with which a scorer
    that gained it by looking where it may not would have failed (sampling.py); power_of: the same in words.  seed: of what was drawn."""

    name: str
    verdicts: dict[str, Verdict]
    positions: npt.NDArray[np.int64]
    z: F64
    bits: float = 0.0  # claimed code length of all scored targets
    tried: dict[str, int] = field(default_factory=dict)
    power: dict[str, float] = field(default_factory=dict)
    power_of: str = "of the bits, a gain by looking where it may not"
    seed: int | None = None

    @property
    def passed(self) -> bool:
        return all(v.passed for v in self.verdicts.values())

    def to_json(self) -> dict[str, Any]:
        verdicts = {k: {"passed": v.passed, "worst_position": v.worst_position, "worst": v.worst, "why": v.why} for k, v in self.verdicts.items()}
        z = {"mean": float(self.z.mean()), "min": float(self.z.min()), "max": float(self.z.max())} if len(self.z) else {}
        bins = [{"low": low, "high": high if np.isfinite(high) else None, "count": count} for low, high, count in self.bins()]
        found = {"name": self.name, "passed": self.passed, "positions": len(self.positions), "verdicts": verdicts, "z": z, "histogram": bins}
        return {**found, "bits": self.bits, "tried": self.tried, "power": self.power, "seed": self.seed}

    def bins(self) -> list[tuple[float, float, int]]:
        """(low, high, distributions) of every range of sums that has any."""
        counts, _ = np.histogram(self.z, bins=np.array(EDGES))
        return [(low, high, int(count)) for low, high, count in zip(EDGES[:-1], EDGES[1:], counts, strict=True) if count]

    def histogram(self) -> str:
        """How the sums of distributions lie around 1, as text."""
        lines = []
        for low, high, count in self.bins():
            label = "1 within 1e-12" if low < 1 < high and high - low < 1e-9 else f"{low:.7g} … {high:.7g}"
            lines.append(f"  Z {label:<24} {count:>7}  {'#' * max(1, round(40 * count / len(self.z)))}")
        return "\n".join(lines)

    def text(self) -> str:
        """Verdicts, worst position and histogram, for people."""
        mean = self.z.sum() / max(1, len(self.z))
        lines = [f"{self.name}: {'PASSED' if self.passed else 'FAILED'}, {len(self.positions):,} distributions summed, mean Z {mean:.6g}"]
        for key, verdict in self.verdicts.items():
            place = "" if verdict.worst_position is None else f"; worst at position {verdict.worst_position:,}: {verdict.worst:.3g}"
            lines.append(f"  {key} {CONDITIONS[key]:<38} {'pass' if verdict.passed else 'FAIL'}  {verdict.why}{place}")
        if self.tried:
            lines.append("  tried: " + ", ".join(f"{count:,} {what}" for what, count in self.tried.items() if count))
        if self.power:
            caught = ", ".join(f"{gain} with {_percent(chance)}" for gain, chance in self.power.items())
            lines.append(f"  power: {self.power_of} would have been caught: {caught}")
        return "\n".join([*lines, self.histogram()])


def _percent(chance: float) -> str:
    """Rounded down, so that nothing becomes certain by rounding."""
    return f"{math.floor(chance * 1e5) / 1e3:g} %"


def draw(reports: dict[str, AuditReport], path: str) -> None:
    """The sums of distributions of several audits as one histogram picture (PNG or SVG by the name's ending)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3))
    top = max(10.0, *(float(r.z.max()) for r in reports.values()))
    bins = np.geomspace(0.1, 2 * top, 60)
    for name, report in reports.items():
        axes.hist(np.maximum(report.z, 0.1), bins=bins.tolist(), histtype="step", label=name)
    axes.set(xscale="log", yscale="log", xlabel="sum of a position's probabilities", ylabel="positions")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None} if path.endswith(".png") else None)
    pyplot.close(figure)
