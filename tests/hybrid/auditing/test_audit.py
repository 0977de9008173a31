"""The audit passes honest scorers and fails each kind of dishonest one on the condition that it breaks."""

import ctypes
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.auditing import report as audit_report
from hybrid.auditing.audit import audit_here, audit_scorer
from ngram.errors import SeedgramError

V = 5


class Honest:
    """Add-one bigram counts, learned after scoring."""

    vocab_size = V

    def __init__(self):
        self.reset()

    def reset(self):
        self.counts = np.ones((V, V))

    def rows(self, tokens, start, stop):
        rows = self.counts[tokens[start - 1 : stop - 1]]
        return rows / rows.sum(1, keepdims=True)

    def score(self, tokens, start, stop):
        return self.rows(tokens, start, stop)[np.arange(stop - start), tokens[start:stop]]

    def update(self, tokens, start, stop):
        np.add.at(self.counts, (tokens[start - 1 : stop - 1], tokens[start:stop]), 1)

    def digest(self):
        return self.counts.tobytes().hex()


class LooksAhead(Honest):
    """Uses the token after the target."""

    def rows(self, tokens, start, stop):
        following = np.append(tokens, 0)[start + 1 : stop + 1]
        rows = self.counts[tokens[start - 1 : stop - 1]] + np.eye(V)[following]
        return rows / rows.sum(1, keepdims=True)


class KnowsItsTarget(Honest):
    """Gives the target a bonus: the scores are not entries of the distribution that is shown."""

    def score(self, tokens, start, stop):
        return np.minimum(1, super().score(tokens, start, stop) * 1.5)


class CountsTheFuture(Honest):
    """Its update reads on beyond the chunk."""

    def update(self, tokens, start, stop):
        super().update(tokens, start, min(stop + 3, len(tokens)))


class FollowsItsTarget(Honest):
    """The same, and shows a distribution that fits."""

    def rows(self, tokens, start, stop):
        rows = super().rows(tokens, start, stop) + 0.1 * np.eye(V)[tokens[start:stop]]
        return rows / rows.sum(1, keepdims=True)


class SumsTooHigh(Honest):
    def rows(self, tokens, start, stop):
        return super().rows(tokens, start, stop) * (1 + 1e-9)


class Negative(Honest):
    def rows(self, tokens, start, stop):
        rows = super().rows(tokens, start, stop)
        rows[:, 0], rows[:, 1] = -0.125, rows[:, 1] + rows[:, 0] + 0.125
        return rows


class LearnsWhileScoring(Honest):
    def score(self, tokens, start, stop):
        scores = super().score(tokens, start, stop)
        self.update(tokens, start, stop)
        return scores


class LearnsInSecret(LearnsWhileScoring):
    def digest(self):
        return ""


class KeepsSomething(Honest):
    counts = np.ones((V, V))

    def reset(self):
        self.counts = (self.counts + 1) / 2


class Writes(Honest):
    def score(self, tokens, start, stop):
        tokens[stop:] = 0
        return super().score(tokens, start, stop)


class WritesAnyway(Honest):
    def update(self, tokens, start, stop):
        super().update(tokens, start, stop)
        ctypes.memset(tokens.ctypes.data + 2 * stop, 0, 2 * (len(tokens) - stop))


class Skips(Honest):
    def score(self, tokens, start, stop):
        return super().score(tokens, start, stop)[:-1]


class Zeroes(Honest):
    def score(self, tokens, start, stop):
        scores = super().score(tokens, start, stop)
        scores[-1] = 0
        return scores


def stream(length=200, seed=0):
    return np.random.default_rng(seed).integers(0, V, length).astype(np.uint16)


@given(st.integers(2, 120), st.integers(1, 50), st.integers(1, 60), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_an_honest_scorer_passes_whatever_the_sizes(length, chunk, positions, seed):
    report = audit_here(Honest, stream(length, seed), positions=positions, chunk_tokens=chunk, seed=seed)
    assert report.passed, report.text()
    assert np.abs(report.z - 1).max() <= 1e-12
    assert report.tried["scores claimed"] == report.tried["scores of a second scorer"] == length - 1
    assert report.tried["distributions summed"] == len(report.positions) >= length - 1


@pytest.mark.parametrize(
    ("scorer", "condition", "why"),
    [
        (LooksAhead, "C1", "was hidden"),
        (CountsTheFuture, "C1", "was hidden"),
        (FollowsItsTarget, "C1", "its distribution follows the target"),
        (FollowsItsTarget, "C2", "its distribution follows the target"),
        (KnowsItsTarget, "C2", "its score follows the target"),
        (SumsTooHigh, "C2", "do not sum to 1"),
        (Negative, "C2", "negative probability"),
        (LearnsWhileScoring, "C3", "changed the state"),
        (LearnsInSecret, "C3", "twice gave other scores"),
        (KeepsSomething, "C3", "after reset()"),
        (Writes, "C4", "tried to write into the stream"),
        (WritesAnyway, "C4", "wrote into the stream"),
        (Skips, "C4", "scores for"),
        (Zeroes, "C4", "without a positive, finite probability"),
    ],
)
def test_each_dishonest_scorer_fails_on_its_own_condition(scorer, condition, why):
    report = audit_here(scorer, stream(), chunk_tokens=20)
    assert not report.passed
    assert not report.verdicts[condition].passed
    assert why in report.verdicts[condition].why
    assert report.verdicts[condition].worst_position is not None
    assert "FAIL" in report.text()


def test_the_report_is_json_and_a_picture(tmp_path):
    reports = {"honest": audit_here(Honest, stream(), chunk_tokens=20)}
    assert json.loads(json.dumps(reports["honest"].to_json()))["passed"] is True
    audit_report.draw(reports, str(tmp_path / "z.png"))
    assert (tmp_path / "z.png").read_bytes()[:4] == b"\x89PNG"
    assert "1 within 1e-12" in reports["honest"].histogram()


def test_the_report_says_what_was_tried_and_what_that_is_worth():
    report = audit_here(Honest, stream(4000), seed=3)
    assert report.tried["targets hidden"] > 100
    assert report.power["0.5 %"] >= 0.999 > report.power["0.1 %"] > 0.8
    assert "0.5 % with 99.9" in report.text() and "targets hidden" in report.text()
    told = json.loads(json.dumps(report.to_json()))
    assert told["seed"] == 3 and told["power"] == report.power and told["tried"] == report.tried


def test_fewer_positions_are_tried_where_fewer_are_asked_for_and_the_power_says_so():
    report = audit_here(Honest, stream(4000), positions=50, seed=3)
    assert 25 <= report.tried["targets hidden"] <= 80
    assert report.power["0.5 %"] < 0.9


def test_what_is_drawn_cannot_be_foreseen_unless_a_seed_is_given():
    tried = [audit_here(Honest, stream(400), positions=40, seed=seed) for seed in (None, None, 7, 7)]
    assert tried[0].seed != tried[1].seed
    assert tried[2].positions.tolist() == tried[3].positions.tolist() != tried[0].positions.tolist()


def test_both_scorers_run_in_processes_of_their_own(capfd):
    report = audit_scorer(SaysWhereItIs, stream(60), chunk_tokens=20)
    assert report.passed, report.text()
    places = [int(line.split()[-1]) for line in capfd.readouterr().err.splitlines() if line.startswith("made in")]
    assert len(set(places) - {os.getpid()}) == 2


class SaysWhereItIs(Honest):
    def __init__(self):
        print("made in", os.getpid())
        super().__init__()


def test_documents_score_the_same_in_other_company_where_the_scorer_says_so():
    tokens = stream(600)
    assert audit_here(Forgets, tokens, chunk_tokens=37, seed=1).tried["scores of documents in other company"] > 50
    assert audit_here(Forgets, tokens, chunk_tokens=37, seed=1).passed
    report = audit_here(SaysItForgets, tokens, chunk_tokens=37, seed=1)
    assert not report.verdicts["C3"].passed and "in other company" in report.verdicts["C3"].why


class Forgets(Honest):
    """A frozen table: every document scores alike, wherever it stands."""

    resets_at = 0

    def update(self, tokens, start, stop):
        pass


class SaysItForgets(Honest):
    resets_at = 0


def test_a_stream_that_cannot_be_audited_is_refused():
    with pytest.raises(SeedgramError, match="nothing to audit: 1 tokens"):
        audit_here(Honest, stream(1))
    with pytest.raises(SeedgramError, match="outside of it"):
        audit_here(Honest, stream(30) + V)
