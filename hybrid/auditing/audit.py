"""Audit of any scorer by the four conditions of an honest code length (issue #1017 of the challenge).

    C1 causal       the distribution at t depends on tokens before t and nothing else
    C2 normalised   a whole distribution over the vocabulary, the same whatever token comes
    C3 score first  scoring leaves the state alone; only scored chunks are learned
    C4 one pass     each target is scored once, in order, none missing

    report = audit_scorer(MyScorer, tokens)      # a class or function that makes a scorer; see scorer.Scorer for its members
    print(report.text()); assert report.passed

Nothing is taken on trust.  A first scorer, in a process of its own, claims its scores over the whole stream.  A second one, in a fresh
process, never sees a token before it has said what it would give it: at positions that the first could not know, its distribution is
asked for under two other futures, must be the same and sum to 1, and its entry for the token that came must be what the first has claimed.
Then it goes over the chunk as the first did, in a stream that ends or goes on otherwise behind it, and every score must be the claimed
one.  sampling.py says which positions these are, and derives the audit's power; docs/audit.md explains both.  No torch in here.

Shapes: N tokens of a stream, n targets of a chunk, V vocabulary, P positions whose distributions were summed.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybrid.auditing import documents
from hybrid.auditing.reference import Futures, reference_bits
from hybrid.auditing.report import CONDITIONS, SUM_TOLERANCE, AuditReport, Verdict
from hybrid.auditing.sampling import plan
from hybrid.auditing.scorer import Recipe, Scorer, complete
from hybrid.auditing.session import Process, Session, StreamError
from ngram.arrays import F64, I64, read_only
from ngram.errors import SeedgramError
from ngram.score_first import ScoreFirst, Tokens

__all__ = ["Scorer", "audit_here", "audit_scorer"]

CHUNK_TOKENS = 256
TOLERANCE = 1e-5  # relative, of a probability: at most 1.4e-5 bits a target can hide in it
ALL_ROWS = 1 << 26  # entries: where all distributions together have no more, all are summed
STATE_CHUNKS = 16  # around which the state is hashed, and which are scored twice
AGAIN_CHUNKS = 4  # scored once more after reset()
Reader = Session | Process


def audit_scorer(
    factory: Callable[..., Scorer] | str,
    tokens: Tokens,
    *,
    positions: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    tolerance: float = TOLERANCE,
    name: str = "scorer",
    seed: int | None = None,
    wrap: Callable[[range], Any] = lambda chunks: chunks,
) -> AuditReport:
    """Drives two scorers over `tokens` (N,) of the vocabulary's type, chunk by chunk, each in a process of its own, and checks C1–C4.

    factory: makes a scorer (scorer.py says how it is told to another process).  positions: about how many targets are asked for again
    without their future, a chunk's `rows` twice for each; None: as many as catch a gain of 0.5 % of the bits with 99.99 %; the report
    says what was tried and its power.  tolerance: largest relative difference of two probabilities that ought to be equal, since arithmetic
    may differ in the last bits (sums must hold to 1e-12 whatever it is).  seed: of what is drawn; None: one that nobody can foresee, told in
    the report.  wrap: a progress bar around the chunk numbers.  Raises SeedgramError where the scorer cannot be made or fails."""
    recipe, readers = Recipe.of(factory), list[Process]()
    try:
        readers += [Process(recipe)]
        readers += [Process(recipe)]
        return _audit(readers, tokens, positions, chunk_tokens, tolerance, name, seed, wrap)
    finally:
        for reader in readers:
            reader.close()


def audit_here(
    factory: Callable[[], Scorer],
    tokens: Tokens,
    *,
    positions: int | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
    tolerance: float = TOLERANCE,
    name: str = "scorer",
    seed: int | None = None,
) -> AuditReport:
    """The same with both scorers in this process: for one's own, which share nothing behind the auditor's back."""
    sessions = [Session(complete(factory())) for _ in range(2)]
    return _audit(sessions, tokens, positions, chunk_tokens, tolerance, name, seed, lambda chunks: chunks)


def _audit(
    readers: Sequence[Reader],
    tokens: Tokens,
    positions: int | None,
    chunk_tokens: int,
    tolerance: float,
    name: str,
    seed: int | None,
    wrap: Callable[[range], Any],
) -> AuditReport:
    seed = secrets.randbits(63) if seed is None else seed
    audit = _Audit(readers[0], read_only(tokens, readers[0].vocab_size), chunk_tokens, tolerance, np.random.default_rng(seed))
    report = AuditReport(name, audit.verdicts, np.zeros(0, np.int64), np.zeros(0), tried=audit.tried, seed=seed)
    try:
        audit.claim(readers[0], wrap)
        readers[0].close()
        if audit.covered():
            bits = np.zeros(len(audit.tokens))
            bits[1:] = -np.log2(audit.reported[1:])
            drawn = plan(bits, reference_bits(audit.tokens, audit.vocab_size), audit.vocab_size, positions)
            report.bits, report.power = float(bits.sum()), drawn.powers()
            audit.blind(readers[1], drawn.draw(audit.random))
    except StreamError as error:
        audit.verdicts["C4"].see(0, np.inf, 0, str(error))
    report.positions, report.z = np.concatenate([np.zeros(0, np.int64), *audit.places]), np.concatenate([np.zeros(0), *audit.sums])
    return report


class _Audit:
    """One audit in progress."""

    def __init__(self, first: Reader, tokens: Tokens, chunk_tokens: int, tolerance: float, random: np.random.Generator) -> None:
        self.tokens, self.tolerance, self.random, self.vocab_size = tokens, tolerance, random, first.vocab_size
        if self.vocab_size < 2 or len(tokens) < 2 or int(tokens.max()) >= self.vocab_size:
            raise SeedgramError(f"nothing to audit: {len(tokens)} tokens of a vocabulary of {self.vocab_size}; or a token lies outside of it")
        self.chunks = list(ScoreFirst(tokens, {}).chunks(chunk_tokens))
        self.verdicts = {key: Verdict(key) for key in CONDITIONS}
        self.reported = np.full(len(tokens), np.nan)  # probability of each target, as claimed
        self.places, self.sums = list[I64](), list[F64]()
        self.tried = dict.fromkeys(TRIED, 0)

    # ---- what the first scorer claims --------------------------------------------------------------------------------

    def claim(self, first: Reader, wrap: Callable[[range], Any]) -> None:
        """The first scorer goes over the stream as it is."""
        first.reset()
        first.know(self.tokens)
        count = len(self.chunks)
        looked = set(np.unique(np.linspace(0, count - 1, min(count, STATE_CHUNKS)).round().astype(int)).tolist())
        cheap = len(self.tokens) * self.vocab_size <= ALL_ROWS
        for i in wrap(range(count)):
            start, stop = self.chunks[i]
            before = first.digest() if i in looked else ""  # a digest reads all state: only where it is compared
            probs = first.score(start, stop)
            if probs.shape != (stop - start,):
                self.verdicts["C4"].see(start, np.inf, 0, f"{probs.shape} scores for {stop - start} targets")
                return
            self.reported[start:stop] = probs
            if cheap or i in looked:
                self._sum(start, probs, first.rows(start, stop))
            if i in looked:
                self._state(first, before, start, stop)
            if i < count - 1:
                first.update(start, stop)
        self.tried["scores claimed"] = len(self.tokens) - 1

    def _state(self, first: Reader, before: str, start: int, stop: int) -> None:
        where, verdict = f"positions {start}…{stop - 1}", self.verdicts["C3"]
        if first.digest() != before:
            verdict.see(start, np.inf, 0, f"scoring {where} changed the state")
        apart = self._apart(first.score(start, stop), self.reported[start:stop])
        verdict.see(start, float(apart.max()), self.tolerance, f"scoring {where} twice gave other scores")
        self.tried["chunks scored twice"] += 1

    def _sum(self, start: int, probs: F64, rows: F64) -> None:
        """Whole distributions, and that the scores are their entries."""
        verdict = self.verdicts["C2"]
        if not self._distributions(start, start + len(probs), rows):
            return
        entries = rows[np.arange(len(probs)), self.tokens[start : start + len(probs)]]
        apart = self._apart(probs, entries)
        worst = int(apart.argmax())
        verdict.see(start + worst, float(apart[worst]), self.tolerance, "the reported score is not the target's entry of the distribution")

    def _distributions(self, start: int, stop: int, rows: F64) -> bool:
        """Whether there is a row for each of the targets start … stop-1; takes note of their sums."""
        verdict, count = self.verdicts["C2"], stop - start
        if rows.shape != (count, self.vocab_size):
            verdict.see(start, np.inf, 0, f"distributions of shape {rows.shape} for {count} targets and {self.vocab_size} tokens")
            return False
        sums = rows.sum(axis=1)
        self.places.append(np.arange(start, stop))
        self.sums.append(sums)
        self.tried["distributions summed"] += count
        worst = int(np.abs(sums - 1).argmax())  # the first that is not a number, where there is one
        verdict.see(start + worst, abs(float(sums[worst]) - 1), SUM_TOLERANCE, "probabilities of a position do not sum to 1")
        if float(rows.min()) < 0:
            verdict.see(start + int(rows.min(axis=1).argmin()), np.inf, 0, "a negative probability")
        return True

    def covered(self) -> bool:
        """C4: whether every target has a probability."""
        bad = np.flatnonzero(~((self.reported[1:] > 0) & np.isfinite(self.reported[1:]))) + 1
        if len(bad):
            self.verdicts["C4"].see(int(bad[0]), np.inf, 0, f"{len(bad)} targets without a positive, finite probability")
        return not len(bad)

    # ---- what the second says, which does not know the stream --------------------------------------------------------

    def blind(self, second: Reader, positions: I64) -> None:
        """The second scorer goes over a stream that it does not know; ends with the first chunk in which it differs."""
        second.reset()
        second.know(self.tokens[:1])
        futures = Futures(self.tokens, self.vocab_size, self.random)
        for start, stop in self.chunks:
            shown = start
            for t in positions[np.searchsorted(positions, start) : np.searchsorted(positions, stop)].tolist():
                second.know(self.tokens[shown:t])
                shown = t
                if not self._hidden(second, futures, t, start, stop):
                    self._name(second, futures, t, start, stop)
                    return
            second.know(self.tokens[shown:stop])
            tail = futures.behind(stop)
            why = "a second scorer, in a stream that ends or goes on otherwise behind it, scored the past differently"
            if not self._same(second.score(start, stop, tail), np.arange(start, stop), "C1", why):
                return
            self.tried["scores of a second scorer"] += stop - start
            if stop < len(self.tokens):
                second.update(start, stop, tail)
        self._once_more(second, futures)

    def _hidden(self, second: Reader, futures: Futures, t: int, start: int, stop: int) -> bool:
        """Asks for target t, which the second scorer has not seen; whether its answers are the same and what was claimed."""
        rows = second.hidden(start, stop, t, np.stack(futures.pair(t, stop)))
        self.tried["targets hidden"] += 1
        if not self._distributions(t, t + 1, rows[:1] if len(rows) == 2 else rows):
            return True  # C2 has failed
        if float(np.abs(rows[0] - rows[1]).max()) > self.tolerance * float(rows[0].max()):
            return False
        return float(self._apart(self.reported[t : t + 1], rows[:1, self.tokens[t]])[0]) <= self.tolerance

    def _name(self, second: Reader, futures: Futures, t: int, start: int, stop: int) -> None:
        """Says which condition broke at t: shows the target, and keeps the future behind it hidden."""
        second.know(self.tokens[t : t + 1])
        tails, at = np.stack(futures.pair(t + 1, max(stop, t + 2))), slice(t - start, t - start + 1)
        rows = second.hidden(start, stop, t, tails)
        scored, claimed = second.score(start, stop, tails[1]), self.reported[t : t + 1]
        why = f"what was claimed for position {t} is not what a second scorer gives, from which "
        alike = rows.shape == (2, self.vocab_size) and np.array_equal(rows[0], rows[1])
        if alike and self._apart(claimed, rows[:1, self.tokens[t]])[0] <= self.tolerance:
            for condition in ("C1", "C2"):
                self.verdicts[condition].see(t, np.inf, 0, why + "the target was hidden: its distribution follows the target")
        elif alike and scored.shape == (stop - start,) and self._apart(claimed, scored[at])[0] <= self.tolerance:
            self.verdicts["C2"].see(t, np.inf, 0, why + "the target was hidden: its score follows the target")
        else:
            self.verdicts["C1"].see(t, np.inf, 0, why + "what comes was hidden")

    def _once_more(self, second: Reader, futures: Futures) -> None:
        """After reset() the beginning must score as it did, and a document as in other company where the scorer says so."""
        why = "after reset() the beginning of the stream scored differently"
        self.tried["scores after reset()"] += self._replay(second, futures, self.chunks[:AGAIN_CHUNKS], self.tokens, np.arange(len(self.tokens)), why)
        if second.resets_at is None:
            return
        chosen = documents.shuffled(self.tokens, self.chunks, second.resets_at, self.random)
        why = "a document scored differently in other company, though the scorer says that it begins anew there"
        self.tried["scores of documents in other company"] += self._replay(second, None, chosen.cuts, chosen.tokens, chosen.places, why)

    def _replay(self, second: Reader, futures: Futures | None, cuts: Sequence[tuple[int, int]], tokens: Tokens, places: I64, why: str) -> int:
        """Goes over a stream from the beginning; entry i of it stands at places[i] of the audited one, -1: nowhere."""
        compared = 0
        second.reset()
        second.know(tokens[:1])
        for start, stop in cuts:
            second.know(tokens[start:stop])
            tail = futures.behind(stop) if futures is not None else tokens[:0]
            if not self._same(second.score(start, stop, tail), places[start:stop], "C3", why):
                break
            compared += int((places[start:stop] > 0).sum())
            second.update(start, stop, tail)
        return compared

    def _same(self, scores: F64, places: I64, condition: str, why: str) -> bool:
        """Whether these scores are those claimed at `places`."""
        if scores.shape != places.shape:
            self.verdicts[condition].see(int(places[0]), np.inf, 0, why)
            return False
        known = places > 0
        if not known.any():
            return True
        apart = self._apart(scores[known], self.reported[places[known]])
        worst = int(apart.argmax())
        self.verdicts[condition].see(int(places[known][worst]), float(apart[worst]), self.tolerance, why)
        return bool(apart[worst] <= self.tolerance)

    def _apart(self, found: F64, expected: F64) -> F64:
        """(n,) relative differences; infinite where one is not a number."""
        if found.shape != expected.shape:
            return np.full(1, np.inf)
        apart = np.abs(found - expected) / np.maximum(expected, 1e-300)
        return np.where(apart >= 0, apart, np.inf)


TRIED = (
    "scores claimed",
    "distributions summed",
    "chunks scored twice",
    "targets hidden",
    "scores of a second scorer",
    "scores after reset()",
    "scores of documents in other company",
)
