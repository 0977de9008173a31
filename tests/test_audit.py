"""The audit passes honest scorers and fails each kind of dishonest one on the condition that it breaks."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import audit, audit_report
from hybrid.audit import audit_scorer

SLOW = bool(os.environ.get("NUMBA_DISABLE_JIT"))
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
    report = audit_scorer(Honest(), stream(length, seed), positions=positions, chunk_tokens=chunk, seed=seed)
    assert report.passed, report.text()
    assert np.abs(report.z - 1).max() <= 1e-12
    assert len(report.positions) >= min(positions, length - 1, chunk)


@pytest.mark.parametrize(
    ("scorer", "condition", "why"),
    [
        (LooksAhead, "C1", "changing tokens from position"),
        (CountsTheFuture, "C1", "predicts that position differently"),
        (KnowsItsTarget, "C2", "not the target's entry"),
        (SumsTooHigh, "C2", "do not sum to 1"),
        (Negative, "C2", "negative probability"),
        (LearnsWhileScoring, "C3", "changed the state"),
        (Skips, "C4", "scores for"),
        (Zeroes, "C4", "without a positive, finite probability"),
    ],
)
def test_each_dishonest_scorer_fails_on_its_own_condition(scorer, condition, why):
    report = audit_scorer(scorer(), stream(), positions=100, chunk_tokens=20)
    assert not report.passed
    assert not report.verdicts[condition].passed
    assert why in report.verdicts[condition].why
    assert report.verdicts[condition].worst_position is not None
    assert "FAIL" in report.text()


def test_the_report_is_json_and_a_picture(tmp_path):
    import json

    reports = {"honest": audit_scorer(Honest(), stream(), positions=50, chunk_tokens=20)}
    assert json.loads(json.dumps(reports["honest"].to_json()))["passed"] is True
    audit_report.draw(reports, str(tmp_path / "z.png"))
    assert (tmp_path / "z.png").read_bytes()[:4] == b"\x89PNG"
    assert "1 within 1e-12" in reports["honest"].histogram()


@pytest.mark.skipif(SLOW, reason="a whole artifact is too much for plain Python kernels")
def test_our_own_scorers_pass_and_agree_with_the_evaluation(tmp_path):
    import tiny
    import torch

    from hybrid import artifact, audit_own, evaluate, windows
    from hybrid.adapt import AdaptConfig
    from hybrid.data import write_shard
    from hybrid.distributed import Ranks

    tiny.write_artifact(tmp_path / "a.bin")
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=20))
    art, ranks = artifact.load(tmp_path / "a.bin"), Ranks(0, 1, torch.device("cpu"))
    shards = [tmp_path / "x_val_000000.bin"]
    reports = audit_own.audit_artifact(art, shards, 300, 600, ranks)
    assert set(reports) == {"network", "product", "n-gram cache", "match model", "blend"}
    for report in reports.values():
        assert report.passed, report.text()
    tokens = evaluate.load_tokens(shards, tiny.VOCAB, 32, "full")[:600]
    options = evaluate.EvalOptions(chunk_tokens=audit.CHUNK_TOKENS, cache_by_chunk=True)
    scores = evaluate.blend_scores(art, tokens, evaluate.network_scores(art, tokens, options, ranks), options, ranks)
    for name, probs in (*zip(("network", "product", "n-gram cache", "match model"), scores.probs.T, strict=True), ("blend", scores.mixed)):
        assert reports[name].bits == pytest.approx(-np.log2(probs).sum(), rel=1e-5)
    adapted = audit_own.audit_artifact(art, shards, 100, 600, ranks, AdaptConfig(rate=0.01))
    assert all(report.passed for report in adapted.values()), adapted["blend"].text()
    assert adapted["network"].bits != reports["network"].bits
    strided = audit_own.audit_artifact(art, shards, 100, 600, ranks, stride=4)
    assert all(report.passed for report in strided.values()), strided["blend"].text()
    for stride, found in ((0, reports), (4, strided)):
        nats = windows.neural_scores(art.model, tokens, 32, stride, ranks.device).nll_nats.sum()
        assert found["network"].bits == pytest.approx(nats / np.log(2), rel=1e-5)
    assert all(report.passed for report in audit_own.audit_artifact(art, shards, 100, 300, ranks, AdaptConfig(rate=0.01), stride=4).values())
    text, values, passed = audit_own.verdict(reports)
    assert passed
    assert values["passed"]
    assert "C2 normalised" in text


@pytest.mark.parametrize(("flags", "code", "word"), [([], 0, "PASSED"), (["--leak"], 1, "FAILED")])
def test_the_example_audits_a_foreign_model_with_a_home_made_cache(flags, code, word, monkeypatch, capsys):
    import runpy
    import sys
    from pathlib import Path

    example = Path(__file__).resolve().parent.parent / "examples" / "audit_your_cache.py"
    monkeypatch.setattr(sys, "argv", [str(example), *flags])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(example), run_name="__main__")
    assert ended.value.code == code
    assert f"model with cache: {word}" in capsys.readouterr().out
