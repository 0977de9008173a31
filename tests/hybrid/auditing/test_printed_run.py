"""The audit of what eval.py prints passes on an honest run, whatever the options, and fails where printed and predicted part."""

import dataclasses

import numpy as np
import pytest
import torch

from hybrid.auditing import printed_run
from hybrid.auditing.sampling import SLACK_BITS
from hybrid.data.write_shards import write_shard
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.mixture import Mixture
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.printed import run_eval
from ngram.online.stream_cache import StreamCache
from tests.support import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    tiny.write_artifact(folder / "a.bin")
    write_shard(folder / "x_val_000000.bin", tiny.stream(seed=2, count=20))
    return folder


@pytest.fixture(scope="module")
def printed(made):
    """What eval.py prints over 300 tokens, once for all tests that change something else."""
    return run_eval(made / "a.bin", made, EvalOptions(max_tokens=300), CPU)


def audited(made, tokens=300, positions=40, **options):
    return printed_run.audit_artifact(str(made / "a.bin"), str(made), EvalOptions(max_tokens=tokens, **options), positions, Ranks(0, 1, CPU))


@pytest.mark.usefixtures("loaded_processes")  # `printed` above is a process that begins with nothing
@pytest.mark.parametrize(
    "options",
    [{}, {"online": False}, {"product": False}, {"adapt": AdaptConfig(rate=0.01), "stride": 4}, {"cache_by_chunk": True, "read_tokens": 7}],
    ids=["default", "offline", "no-product", "ttt-stride", "by-chunk"],
)
def test_an_honest_run_passes(made, options):
    report = audited(made, **options)
    assert report.passed, report.text()
    assert len(report.positions) == 299
    assert np.abs(report.z - 1).max() < 2e-6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bpb": 1.2345}, "eval.py prints 1.2345"),
        ({"size_bytes": 10**6}, "1,000,000 bytes, the text has"),
        ({"tokens": 298}, "prints 298 tokens"),
        ({"result": {"blended_bpb": 1.5}}, "says 1.5 bits per byte"),
        ({"artifact_bytes": 7}, "an artifact of 7 bytes"),
    ],
)
def test_a_printed_figure_that_the_text_does_not_bear_out_fails(made, printed, change, why, monkeypatch):
    change = {name: {**printed.result, **value} if name == "result" else value for name, value in change.items()}
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: dataclasses.replace(printed, **change))
    report = audited(made)
    assert not report.verdicts["C4"].passed and why in report.verdicts["C4"].why


def test_a_printed_bit_less_than_the_distribution_says_fails(made, printed, monkeypatch):
    bits = printed.bits.copy()
    bits[[50, 60]] += [-0.5, 0.5]  # the sum stays
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: dataclasses.replace(printed, bits=bits))
    verdict = audited(made).verdicts["C4"]
    assert not verdict.passed and verdict.worst_position in (51, 61) and "not those of the distribution" in verdict.why


def test_a_network_that_sees_its_target_fails(made, printed, monkeypatch):
    """Its rows sum to 1 and agree with the scores; only without the text to come are they others."""
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: printed)
    honest = printed_run.SharedNetwork.take

    def look(self, tokens, t):
        seen = honest(self, tokens, t, t + 1)[0]
        rows = seen.rows.clone()
        rows[0, int(self.text[t])] += 0.5
        rows = torch.log_softmax(rows, 1)
        return dataclasses.replace(seen, rows=rows)

    text = tiny.stream(seed=2, count=20)
    monkeypatch.setattr(printed_run.SharedNetwork, "text", text, raising=False)
    monkeypatch.setattr(printed_run.SharedNetwork, "look", look)
    report = audited(made)
    assert not report.verdicts["C1"].passed, report.text()


def test_a_state_that_moves_when_it_is_asked_fails(made, printed, monkeypatch):
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: printed)
    honest = Predictor.row

    def row(self, tokens, t):
        self.mixture.gate.parameters[4] += 1e-9
        return honest(self, tokens, t)

    monkeypatch.setattr(Predictor, "row", row)
    assert not audited(made).verdicts["C3"].passed


def test_a_cache_that_has_learned_its_token_fails(made, printed, monkeypatch):
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: printed)
    honest = StreamCache.score_then_update

    def learned_first(self, tokens, start, stop, **more):
        honest(self, tokens, start, stop)
        return self.score(tokens, start, stop, **more)

    monkeypatch.setattr(StreamCache, "score_then_update", learned_first)
    report = audited(made)
    assert not report.verdicts["C2"].passed and "not the target's entry" in report.verdicts["C2"].why


def test_a_score_that_depends_on_how_calls_cut_the_stream_fails(made, printed, monkeypatch):
    """The weights of a target may not see the features of its neighbours, which depend on the target."""
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: printed)
    honest = Mixture.weights
    monkeypatch.setattr(Mixture, "weights", lambda self, features_nF: honest(self, features_nF - 0.1 * features_nF.mean(axis=0)))
    verdict = audited(made).verdicts["C2"]
    assert not verdict.passed and "not the target's entry" in verdict.why


def test_a_scorer_that_has_learned_something_else_than_the_text_so_far_fails(made, printed, monkeypatch):
    monkeypatch.setattr(printed_run, "run_eval", lambda *_: printed)
    honest = Predictor.score_then_update

    def learned_twice(self, tokens, start, stop):
        found = honest(self, tokens, start, stop)
        if stop == len(tokens):  # no score can show it any more
            self.cache.update(tokens, start, stop)
        return found

    monkeypatch.setattr(Predictor, "score_then_update", learned_twice)
    monkeypatch.setattr(printed_run, "DIGESTS", 299)
    assert "not what the scorer has learned" in audited(made).verdicts["C3"].why


def test_the_stated_power_of_the_network_is_that_of_drawing_its_positions():
    """A network that gains all it can at the fewest positions, against draws of the same size."""
    random = np.random.default_rng(0)
    bits = random.exponential(2.0, 400)
    room = np.log2(256) + SLACK_BITS - bits
    power = printed_run.network_power(bits, 256, 100)
    for gain in printed_run.SHOWN_GAINS:
        order = np.argsort(-room)
        cheated = set(order[: 1 + np.searchsorted(np.cumsum(room[order]), gain * bits.sum())].tolist())
        caught = np.mean([not cheated.isdisjoint(random.choice(400, 100, replace=False).tolist()) for _ in range(4000)])
        assert abs(caught - power[f"{100 * gain:g} %"]) < 0.03
    assert printed_run.network_power(bits, 256, 400)["0.5 %"] == 1.0
