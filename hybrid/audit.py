"""Audit of any scorer by the four conditions of an honest code length (issue #1017 of the challenge).

    C1 causal       the distribution at t depends on tokens before t and nothing else
    C2 normalised   a whole distribution over the vocabulary, the same whatever token comes
    C3 score first  scoring leaves the state alone; only scored chunks are learned
    C4 one pass     each target is scored once, in order, none missing

    report = audit_scorer(my_scorer, tokens)      # my_scorer: anything with the five members of Scorer
    print(report.text()); assert report.passed

Nothing is taken on trust: the stream's future is changed under the scorer, whole distributions are summed, a second run over
a stream with another future is compared bit for bit.  No torch in here.

Shapes: N tokens of a stream, n targets of a chunk, V vocabulary, P audited positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ngram.score_first import ScoreFirst, Tokens

F64 = npt.NDArray[np.float64]
SUM_TOLERANCE = 1e-12  # |Σp - 1| of float64 rows
CHUNK_TOKENS = 256
CONDITIONS = {"C1": "causal", "C2": "normalised, independent of the target", "C3": "score before update", "C4": "every target once"}
EDGES = (0.0, 0.5, 0.99, 1 - 1e-6, 1 - SUM_TOLERANCE, 1 + SUM_TOLERANCE, 1 + 1e-6, 1.01, 2.0, 10.0, 100.0, 1000.0, np.inf)


class Scorer(Protocol):
    """What an audited scorer must offer.  Position 0 of a stream is given; targets are positions 1 … N-1.

    vocab_size  V
    reset()     back to the state before position 1
    score       (n,) float64: the probability that it reports for targets tokens[start:stop]
    rows        (n, V) float64: the distributions behind them; row i may depend on tokens[: start + i] only
    update      learn the targets tokens[start:stop], after they were scored; do nothing when stateless
    digest      hash of all state that a score can depend on; "" when stateless"""

    vocab_size: int

    def reset(self) -> None: ...

    def score(self, tokens: Tokens, start: int, stop: int) -> F64: ...

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64: ...

    def update(self, tokens: Tokens, start: int, stop: int) -> None: ...

    def digest(self) -> str: ...


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
    """Verdicts by condition, and the sum of every audited distribution, z (P,), at `positions` (P,)."""

    name: str
    verdicts: dict[str, Verdict]
    positions: npt.NDArray[np.int64]
    z: F64
    bits: float = 0.0  # claimed code length of all scored targets
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(v.passed for v in self.verdicts.values())

    def to_json(self) -> dict[str, Any]:
        verdicts = {k: {"passed": v.passed, "worst_position": v.worst_position, "worst": v.worst, "why": v.why} for k, v in self.verdicts.items()}
        z = {"mean": float(self.z.mean()), "min": float(self.z.min()), "max": float(self.z.max())}
        return {"name": self.name, "passed": self.passed, "positions": len(self.positions), "verdicts": verdicts, "z": z, "bits": self.bits, **self.notes}

    def histogram(self) -> str:
        """How the sums of distributions lie around 1, as text."""
        counts, _ = np.histogram(self.z, bins=np.array(EDGES))
        lines = []
        for low, high, count in zip(EDGES[:-1], EDGES[1:], counts, strict=True):
            label = "1 within 1e-12" if low < 1 < high and high - low < 1e-9 else f"{low:.7g} … {high:.7g}"
            if count:
                lines.append(f"  Z {label:<24} {count:>7}  {'#' * max(1, round(40 * count / len(self.z)))}")
        return "\n".join(lines)

    def text(self) -> str:
        """Verdicts, worst position and histogram, for people."""
        lines = [f"{self.name}: {'PASSED' if self.passed else 'FAILED'}, {len(self.positions):,} distributions summed, mean Z {self.z.mean():.6g}"]
        for key, verdict in self.verdicts.items():
            place = "" if verdict.worst_position is None else f"; worst at position {verdict.worst_position:,}: {verdict.worst:.3g}"
            lines.append(f"  {key} {CONDITIONS[key]:<38} {'pass' if verdict.passed else 'FAIL'}  {verdict.why}{place}")
        return "\n".join([*lines, self.histogram()])


def audit_scorer(
    scorer: Scorer,
    tokens: Tokens,
    *,
    positions: int = 2000,
    chunk_tokens: int = CHUNK_TOKENS,
    tolerance: float = 1e-9,
    name: str = "scorer",
    seed: int = 0,
    wrap: Callable[[range], Any] = lambda chunks: chunks,
) -> AuditReport:
    """Drives a scorer over `tokens` (N,) uint16, chunk by chunk, and checks C1–C4 on about `positions` of its targets.

    tolerance: largest relative difference between a reported probability and the same entry of the whole distribution (their
    arithmetic may differ in the last bits; sums must hold to 1e-12 whatever it is).  Chunks that are audited lie evenly over
    the stream, first and last included.  wrap: a progress bar around the chunk numbers."""
    audit = _Audit(scorer, tokens, tolerance, np.random.default_rng(seed))
    chunks = list(ScoreFirst(tokens, {}).chunks(chunk_tokens))
    wanted = min(len(chunks), max(2, -(-positions // chunk_tokens)))
    audited = set(np.unique(np.linspace(0, len(chunks) - 1, wanted).round().astype(int)).tolist())
    for i in wrap(range(len(chunks))):
        audit.chunk(*chunks[i], whole=i in audited, last=i == len(chunks) - 1)
    audit.twin(chunks[: max(1, (2 * len(chunks)) // 3)])
    audit.coverage()
    report = AuditReport(name, audit.verdicts, np.concatenate(audit.places), np.concatenate(audit.sums))
    report.bits = float(-np.log2(np.maximum(audit.reported[1:], 1e-300)).sum())
    return report


class _Audit:
    """One audit in progress."""

    def __init__(self, scorer: Scorer, tokens: Tokens, tolerance: float, random: np.random.Generator) -> None:
        self.scorer, self.tokens, self.tolerance, self.random = scorer, tokens, tolerance, random
        self.verdicts = {key: Verdict(key) for key in CONDITIONS}
        self.reported = np.full(len(tokens), np.nan)  # probability of each target, as reported
        self.times = np.zeros(len(tokens), dtype=np.int64)
        self.places: list[npt.NDArray[np.int64]] = []
        self.sums: list[F64] = []
        scorer.reset()

    def chunk(self, start: int, stop: int, *, whole: bool, last: bool) -> None:
        """Scores a chunk, audits it when `whole`, then lets the scorer learn it."""
        before = self.scorer.digest() if whole else ""  # a digest reads all state: only where it is compared
        probs = np.asarray(self.scorer.score(self.tokens, start, stop), dtype=np.float64)
        if probs.shape != (stop - start,):
            self.verdicts["C4"].see(start, np.inf, 0, f"{probs.shape} scores for {stop - start} targets")
            probs = np.resize(probs, stop - start)
        self.reported[start:stop] = probs
        self.times[start:stop] += 1
        if whole:
            self._whole_rows(start, stop, probs)
        if whole and self.scorer.digest() != before:
            self.verdicts["C3"].see(start, np.inf, 0, f"scoring positions {start}…{stop - 1} changed the state")
        if not last:
            self.scorer.update(self.tokens, start, stop)

    def _whole_rows(self, start: int, stop: int, probs: F64) -> None:
        rows = np.asarray(self.scorer.rows(self.tokens, start, stop), dtype=np.float64)
        sums = rows.sum(axis=1)
        self.places.append(np.arange(start, stop))
        self.sums.append(sums)
        causal, normal = self.verdicts["C1"], self.verdicts["C2"]
        for i, z in enumerate(sums):
            normal.see(start + i, abs(float(z) - 1), SUM_TOLERANCE, "probabilities of a position do not sum to 1")
        if float(rows.min()) < 0:
            normal.see(start + int(rows.min(axis=1).argmin()), np.inf, 0, "a negative probability")
        self._compare(start, probs, rows[np.arange(stop - start), self.tokens[start:stop]], "the reported score is not the target's entry of the distribution")
        cut = int(self.random.integers(start, stop))
        other = self.changed_from(cut)
        known = slice(0, cut - start + 1)
        if not np.array_equal(np.asarray(self.scorer.rows(other, start, stop))[known], rows[known]):
            causal.see(cut, np.inf, 0, f"changing tokens from position {cut} on changed a distribution before or at it")
        shifted = np.asarray(self.scorer.score(other, start, stop))
        if not np.array_equal(shifted[: cut - start], probs[: cut - start]):
            causal.see(cut, np.inf, 0, f"changing tokens from position {cut} on changed a score before it")
        at = cut - start
        self._compare(cut, shifted[at : at + 1], rows[at, other[cut : cut + 1]], "another target at the same place was scored by another distribution")

    def _compare(self, start: int, found: F64, expected: F64, why: str) -> None:
        difference = np.abs(found - expected) / np.maximum(expected, 1e-300)
        worst = int(np.nanargmax(np.where(np.isnan(difference), np.inf, difference)))
        if not difference[worst] <= self.tolerance:
            self.verdicts["C2"].see(start + worst, float(difference[worst]), self.tolerance, why)

    def changed_from(self, cut: int) -> Tokens:
        """The stream with every token from `cut` on replaced by another one."""
        other = np.array(self.tokens)
        size = self.scorer.vocab_size
        shift = self.random.integers(1, size, size=len(other) - cut)
        other[cut:] = (other[cut:].astype(np.int64) + shift) % size
        return other

    def twin(self, chunks: list[tuple[int, int]]) -> None:
        """Runs again over the same past with another future: every score of the past must be the same bits."""
        end = chunks[-1][1]
        other = self.changed_from(end)
        self.scorer.reset()
        for start, stop in chunks:
            again = np.asarray(self.scorer.score(other, start, stop))
            changed = np.flatnonzero(again != self.reported[start:stop]) if again.shape == (stop - start,) else np.array([0])
            if len(changed):
                why = f"a second run, whose stream differs from position {end} on, scored the past differently"
                self.verdicts["C1"].see(start + int(changed[0]), np.inf, 0, why)
                return
            self.scorer.update(other, start, stop)

    def coverage(self) -> None:
        verdict = self.verdicts["C4"]
        for position in np.flatnonzero(self.times[1:] != 1)[:1] + 1:
            verdict.see(int(position), np.inf, 0, f"scored {self.times[position]} times")
        bad = np.flatnonzero(~((self.reported[1:] > 0) & np.isfinite(self.reported[1:]))) + 1
        if len(bad):
            verdict.see(int(bad[0]), np.inf, 0, f"{len(bad)} targets without a positive, finite probability")


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
