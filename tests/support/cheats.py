"""Scorers for the auditor that look where they may not: near relatives of the honest ones (honest_scorers.py).

A cheat changes one thing and hides it as well as it can: where nothing else is said, its scores are entries of its distributions and these sum
to 1.
"""

import ctypes

import numpy as np

from tests.support.honest_scorers import BEGIN, Counts, V

BONUS = 0.9


class Cheat(Counts):
    """rows: the honest ones, and then what `doctor` makes of them."""

    def doctor(self, rows, tokens, start, stop):
        raise NotImplementedError

    def rows(self, tokens, start, stop):
        rows = self.doctor(self.honest(tokens, start, stop), tokens, start, stop)
        return rows / rows.sum(1, keepdims=True)


class Bonus(Cheat):
    """Adds to the target at the positions that `chosen` (n,) says."""

    def chosen(self, rows, tokens, start, stop):
        raise NotImplementedError

    def doctor(self, rows, tokens, start, stop):
        here = np.flatnonzero(self.chosen(rows, tokens, start, stop))
        rows[here, tokens[start:stop][here]] += BONUS
        return rows


class EveryThirteenth(Bonus):
    """adds 0.9 to the target at every 13th position"""

    def chosen(self, rows, tokens, start, stop):
        return np.arange(start, stop) % 13 == 0


class AfterSixTokens(Bonus):
    """adds 0.9 to the target after one of six tokens"""

    def chosen(self, rows, tokens, start, stop):
        return np.isin(tokens[start - 1 : stop - 1], (4, 9, 14, 19, 24, 29))


class TemperatureByTarget(Cheat):
    """picks the better of two temperatures for 1 target in 64"""

    def doctor(self, rows, tokens, start, stop):
        for i in np.flatnonzero(tokens[start:stop] == 1):
            sharp, flat = rows[i] ** 3, rows[i] ** 0.2
            rows[i] = max((sharp / sharp.sum(), flat / flat.sum()), key=lambda row: row[1])
        return rows


class HardestTargets(Cheat):
    """gives the few hardest targets probability 1"""

    def doctor(self, rows, tokens, start, stop):
        targets = tokens[start:stop]
        hard = np.flatnonzero(rows[np.arange(stop - start), targets] < 0.0005)
        rows[hard] = 1e-12
        rows[hard, targets[hard]] = 1
        return rows


class KeepsStatistics(Counts):
    """keeps statistics of the whole stream over reset()"""

    def __init__(self):
        self.kept = np.zeros((V, V))
        super().__init__()

    def honest(self, tokens, start, stop):
        if not self.kept.any():
            np.add.at(self.kept, (tokens[:-1], tokens[1:]), 0.02)
        known, self.pairs = self.pairs, self.pairs + self.kept
        rows = super().honest(tokens, start, stop)
        self.pairs = known
        return rows


class UsesTheLength(Cheat):
    """smooths by how much of the stream is left"""

    def doctor(self, rows, tokens, start, stop):
        share = 0.02 * (1 - np.arange(start, stop) / len(tokens))[:, None]
        return (1 - share) * rows + share / V


class WritesTheStream(Counts):
    """writes into the stream that comes, past the array's own guard"""

    def score(self, tokens, start, stop):
        probs = super().score(tokens, start, stop)
        easy = np.zeros((len(tokens) - stop) // 2, tokens.dtype)
        ctypes.memmove(tokens.ctypes.data + stop * tokens.itemsize, easy.ctypes.data, easy.nbytes)
        return probs


class WritesPlainly(Counts):
    """writes into the stream that comes, by assignment"""

    def score(self, tokens, start, stop):
        probs = super().score(tokens, start, stop)
        tokens[stop : stop + (len(tokens) - stop) // 2] = 0
        return probs


class SeesTheNext(Cheat):
    """weighs each token by how well the next one follows it, at every 8th position"""

    def doctor(self, rows, tokens, start, stop):
        follows = (self.pairs + 0.1) / (self.pairs + 0.1).sum(1, keepdims=True)
        for i in range(-start % 8, stop - start, 8):
            if start + i + 1 < len(tokens):
                rows[i] *= follows[:, tokens[start + i + 1]]
        return rows


class KnowsTheParity(Cheat):
    """knows at every 16th position whether the target's number is even"""

    def doctor(self, rows, tokens, start, stop):
        for i in range(-start % 16, stop - start, 16):
            rows[i, np.arange(V) % 2 != tokens[start + i] % 2] *= 1e-6
        return rows


class RemembersItsAnswers(Bonus):
    """adds 0.9 to the target at every 29th position, and gives the same row whenever the position is asked for again"""

    answers: dict = {}  # of all its instances in this process

    def chosen(self, rows, tokens, start, stop):
        return np.arange(start, stop) % 29 == 0

    def rows(self, tokens, start, stop):
        rows = super().rows(tokens, start, stop)
        for i in range(-start % 29, stop - start, 29):
            rows[i] = self.answers.setdefault(start + i, rows[i].copy())
        return rows


class BestInHindsight(Counts):
    """scores each block of 16 targets with the better of two smoothings, in hindsight"""

    def honest(self, tokens, start, stop):
        both = []
        for self.strength in (1.0, 16.0):
            both.append(super().honest(tokens, start, stop))
        probs = [rows[np.arange(stop - start), tokens[start:stop]] for rows in both]
        for a in range(0, stop - start, 16):
            if np.log(probs[1][a : a + 16]).sum() > np.log(probs[0][a : a + 16]).sum():
                both[0][a : a + 16] = both[1][a : a + 16]
        return both[0]


class LearnsInSecret(Counts):
    """learns a chunk before it scores it and forgets it again; its digest never changes"""

    def rows(self, tokens, start, stop):
        known = self.unigrams.copy(), self.pairs.copy(), self.triples.copy()
        Counts.update(self, tokens, start, stop)
        rows = self.honest(tokens, start, stop)
        self.unigrams, self.pairs, self.triples = known
        return rows

    def digest(self):
        return ""


class OnlyWhereItReadsWell(Bonus):
    """adds 0.9 to the target at every 13th position, but only where what comes looks like real text"""

    def chosen(self, rows, tokens, start, stop):
        here = np.arange(start, stop)
        seen = [self.pairs[tokens[t : t + 12], tokens[t + 1 : t + 13]] if t + 13 <= len(tokens) else np.zeros(1) for t in here]
        return (here % 13 == 0) & np.array([np.count_nonzero(pairs) >= 10 for pairs in seen])


class OnlyWhenAskedFirst(Bonus):
    """adds 0.9 to the target at every 13th position, but only in the first two answers about a chunk"""

    asked: tuple = (0, 0)

    def chosen(self, rows, tokens, start, stop):
        self.asked = (start, self.asked[1] + 1) if self.asked[0] == start else (start, 1)
        return (np.arange(start, stop) % 13 == 0) & (self.asked[1] <= 2)


class ScoresApart(Counts):
    """shows honest distributions, but scores rare targets half as high again"""

    def score(self, tokens, start, stop):
        probs = super().score(tokens, start, stop)
        return np.where(tokens[start:stop] > 24, np.minimum(1.5 * probs, 1), probs)


class SumsTooHigh(Counts):
    """distributions sum to 1.05 after one of six tokens"""

    def rows(self, tokens, start, stop):
        return super().rows(tokens, start, stop) * np.where(np.isin(tokens[start - 1 : stop - 1], (0, 1, 2, 4, 9, 14)), 1.05, 1)[:, None]


class LearnsAhead(Counts):
    """learns the chunk that comes together with the one that was scored"""

    def update(self, tokens, start, stop):
        super().update(tokens, start, min(2 * stop - start, len(tokens)))


class OnlyAtTheEnd(Bonus):
    """adds 0.9 to the target in the last 1 % of the stream"""

    def chosen(self, rows, tokens, start, stop):
        return np.arange(start, stop) > 0.99 * len(tokens)


class TiltsALittle(Cheat):
    """makes every target 3 % likelier than it should be"""

    def doctor(self, rows, tokens, start, stop):
        rows[np.arange(stop - start), tokens[start:stop]] *= 1.03
        return rows


class SaysItBeginsAnew(Counts):
    """says that it begins anew at each document, and goes on with what it knows"""

    resets_at = BEGIN


CHEATS = (
    EveryThirteenth,
    AfterSixTokens,
    TemperatureByTarget,
    HardestTargets,
    KeepsStatistics,
    UsesTheLength,
    WritesTheStream,
    WritesPlainly,
    SeesTheNext,
    KnowsTheParity,
    RemembersItsAnswers,
    BestInHindsight,
    LearnsInSecret,
    OnlyWhereItReadsWell,
    OnlyWhenAskedFirst,
    ScoresApart,
    SumsTooHigh,
    LearnsAhead,
    OnlyAtTheEnd,
    TiltsALittle,
    SaysItBeginsAnew,
)
