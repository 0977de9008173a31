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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hybrid.audit_report import CONDITIONS, F64, SUM_TOLERANCE, AuditReport, Verdict
from ngram.score_first import ScoreFirst, Tokens

CHUNK_TOKENS = 256


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
    wanted = min(len(chunks), 1 + -(-positions // chunk_tokens))  # one more, as the last may be short
    audited = set(np.unique(np.linspace(0, len(chunks) - 1, wanted).round().astype(int)).tolist())
    for i in wrap(range(len(chunks))):
        audit.chunk(*chunks[i], whole=i in audited, last=i == len(chunks) - 1)
    audit.twin(chunks, sorted(audited)[(2 * len(audited)) // 3])
    audit.coverage()
    report = AuditReport(name, audit.verdicts, np.concatenate([np.zeros(0, np.int64), *audit.places]), np.concatenate([np.zeros(0), *audit.sums]))
    report.bits = float(-np.log2(np.fmax(audit.reported[1:], 1e-300)).sum())
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
        self.first_rows: dict[int, F64] = {}  # of audited chunks, by position
        scorer.reset()

    def chunk(self, start: int, stop: int, *, whole: bool, last: bool) -> None:
        """Scores a chunk, audits it when `whole`, then lets the scorer learn it."""
        before = self.scorer.digest() if whole else ""  # a digest reads all state: only where it is compared
        probs = np.asarray(self.scorer.score(self.tokens, start, stop), dtype=np.float64)
        if probs.shape != (stop - start,):
            self.verdicts["C4"].see(start, np.inf, 0, f"{probs.shape} scores for {stop - start} targets")
            self.times[start:stop] += 1
            return
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
        self.first_rows[start] = rows[0].copy()
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

    def twin(self, chunks: list[tuple[int, int]], last: int) -> None:
        """Runs again over the past of chunk number `last` with another future: every score of that past, and the distribution
        that follows it, must be the same bits."""
        end, after = chunks[last]
        if end not in self.first_rows:
            return  # the scorer failed there already
        other = self.changed_from(end)
        self.scorer.reset()
        for start, stop in chunks[:last]:
            again = np.asarray(self.scorer.score(other, start, stop))
            changed = np.flatnonzero(again != self.reported[start:stop]) if again.shape == (stop - start,) else np.array([0])
            if len(changed):
                why = f"a second run, whose stream differs from position {end} on, scored the past differently"
                self.verdicts["C1"].see(start + int(changed[0]), np.inf, 0, why)
                return
            self.scorer.update(other, start, stop)
        if not np.array_equal(np.asarray(self.scorer.rows(other, end, after))[0], self.first_rows[end]):
            self.verdicts["C1"].see(end, np.inf, 0, f"a second run, whose stream differs from position {end} on, predicts that position differently")

    def coverage(self) -> None:
        verdict = self.verdicts["C4"]
        for position in np.flatnonzero(self.times[1:] != 1)[:1] + 1:
            verdict.see(int(position), np.inf, 0, f"scored {self.times[position]} times")
        bad = np.flatnonzero(~((self.reported[1:] > 0) & np.isfinite(self.reported[1:]))) + 1
        if len(bad):
            verdict.see(int(bad[0]), np.inf, 0, f"{len(bad)} targets without a positive, finite probability")
