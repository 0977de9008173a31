"""Evaluation scores every token but the first, once, before anything learns from it; whatever the batching and the ranks."""

# mypy: disable-error-code="arg-type"
# TinyLM stands in for a HybridLM.

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate, windows
from hybrid.scoring.mixture import GATE_FEATURES, MATCH, NEURAL, NGRAM, PRODUCT, Mixture, load_gate
from hybrid.scoring.network import NetworkAhead
from hybrid.scoring.predictor import Predictor
from hybrid.settings.config import Config, ConfigError
from hybrid.training.fit_gate import fit_gate
from ngram.blending import fit
from ngram.blending.gate import Gate
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError
from ngram.online.cache import OnlineCache, histories
from ngram.online.match import MatchModel
from ngram.score_first import ScoreFirst
from tests.support.kernels import SLOW
from tests.support.ranks import spawn
from tests.support.whole import neural_scores

pytestmark = pytest.mark.kernels

FIELDS = ("probs", "mixed", "weights")
CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
V = 11


class TinyLM(torch.nn.Module):
    """A causal model of 11 tokens: logits from the running mean of embeddings in the window."""

    def __init__(self, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.embedding = torch.nn.Parameter(torch.randn(V, 16, generator=random))

    def forward(self, tokens_BL):
        x = self.embedding[tokens_BL]
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[None, :, None]
        return torch.tanh(x + mean) @ self.embedding.T

    def logits_at(self, tokens_BL, places_S):
        return self(tokens_BL).flatten(0, 1)[places_S]


def stream(length, seed=0):
    random = np.random.default_rng(seed)
    tokens = random.integers(2, V, length).astype(np.uint16)
    tokens[3::4] = tokens[2::4][: len(tokens[3::4])]  # something to learn
    tokens[random.random(length) < 0.05] = 1
    tokens[0] = 1
    return tokens


def table(length=400, seed=1):
    cache = NgramCache(V, 4)
    cache.count_stream(stream(length, seed))
    return cache.table()


@torch.no_grad()
def oracle_nll(model, tokens, seq_len, stride):
    """Token by token: the window that ends just before the target, as the windows are laid out."""
    out = []
    for begin, end, first in windows.windows(len(tokens), seq_len, stride):
        for target in range(first, end + 1):
            logits = model(torch.from_numpy(tokens[begin:target].astype(np.int64))[None])[0, -1].double()
            out.append(float(torch.logsumexp(logits, 0) - logits[int(tokens[target])]))
    return np.array(out)


@given(st.integers(2, 90), st.integers(1, 20), st.data())
@settings(deadline=None)
def test_windows_cover_each_target_once_in_order(length, seq_len, data):
    stride = data.draw(st.integers(0, seq_len))
    laid = list(windows.windows(length, seq_len, stride))
    assert [t for _, end, first in laid for t in range(first, end + 1)] == list(range(1, length))
    for begin, end, first in laid:
        assert 0 < end - begin <= seq_len
        assert begin < first
        context = first - begin  # tokens before the first scored one
        assert stride in (0, seq_len) or begin == 0 or context == min(seq_len, end - begin) - (end - first)


def test_a_stride_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match="--stride 9 must lie in 0…8"):
        list(windows.windows(20, 8, 9))


@pytest.mark.parametrize("stride", [0, 1, 3, 8])
@pytest.mark.parametrize("length", [2, 8, 9, 30])
def test_neural_scores_equal_a_slow_oracle_tail_included(length, stride):
    model, tokens = TinyLM(), stream(length)
    for batch in (1, 3):
        scores = neural_scores(model, tokens, 8, stride, CPU, batch_windows=batch)
        assert np.allclose(scores.nll_nats, oracle_nll(model, tokens, 8, stride), atol=1e-5)


def test_neural_features_are_entropy_and_greatest_log_probability():
    model, tokens = TinyLM(), stream(9)
    scores = neural_scores(model, tokens, 8, 0, CPU)
    logp = torch.log_softmax(model(torch.from_numpy(tokens[None, :8].astype(np.int64)))[0].double(), -1)
    assert np.allclose(scores.entropy, -(logp.exp() * logp).sum(-1).detach(), atol=1e-5)
    assert np.allclose(scores.max_logp, logp.amax(-1).detach(), atol=1e-5)


def network(tokens, batch=2):
    return NetworkAhead(windows.neural_blocks(TinyLM(), tokens, 16, 0, ALONE, batch_windows=batch))


def whole_run(tokens, *, fused, chunk, gate=None, paranoid=False, read=1):
    order = ScoreFirst(tokens, {"blend": predictor(tokens, gate or load_gate(), chunk, read_tokens=read, by_chunk=not fused)}, paranoid=paranoid)
    return evaluate.run(order, "blend", chunk), order


def predictor(tokens, gate, chunk, *, match=True, product=True, **options):
    mixture = Mixture(gate, chunk, match=match, product=product)
    return Predictor(network(tokens), OnlineCache(table()), MatchModel(V, 1) if match else None, mixture, **options)


def test_the_fused_run_equals_one_token_chunks():
    tokens = stream(60 if SLOW else 300)
    left, first = whole_run(tokens, fused=True, chunk=1)
    right, second = whole_run(tokens, fused=False, chunk=1, paranoid=True)
    for field in FIELDS:
        assert np.array_equal(getattr(left, field), getattr(right, field))
    second.update(len(tokens) - 1, len(tokens))  # the slow loop leaves the last chunk unlearned
    caches = [order.parts["blend"].cache for order in (first, second)]
    past = histories(tokens, np.arange(1, len(tokens), 7), 4, 1)
    assert np.array_equal(caches[0].rows(past), caches[1].rows(past))  # whole distributions, whatever lies where in memory
    assert first.parts["blend"].mixture.digest() == second.parts["blend"].mixture.digest()


def test_a_token_is_never_scored_with_its_own_count():
    """Every score of a chunk equals that of a fresh state that has learned the earlier chunks and nothing else."""
    tokens, chunk = stream(48), 12
    scores, _ = whole_run(tokens, fused=False, chunk=chunk, paranoid=True)
    for start in range(1, len(tokens), chunk):
        cache = OnlineCache(table())
        if start > 1:
            cache.update(tokens, 1, start)
        stop = min(start + chunk, len(tokens))
        assert np.array_equal(scores.probs[start - 1 : stop - 1, NGRAM], cache.score(tokens, start, stop).prob)


def test_counting_a_chunk_before_scoring_it_would_change_its_scores():
    tokens = stream(48)
    scores, _ = whole_run(tokens, fused=False, chunk=47)
    cache = OnlineCache(table())
    cache.update(tokens, 1, 48)
    assert not np.allclose(scores.probs[:, NGRAM], cache.score(tokens, 1, 48).prob)


def test_chunk_size_changes_no_score_of_frozen_parts():
    tokens = stream(80)
    results = []
    for chunk in (1, 7, 200):
        gate = load_gate(learning=False)
        order = ScoreFirst(tokens, {"blend": predictor(tokens, gate, chunk, read_tokens=chunk)}, frozen=True)
        results.append(evaluate.run(order, "blend", chunk))
    for other in results[1:]:
        for field in FIELDS:
            assert np.array_equal(getattr(other, field), getattr(results[0], field))


def test_the_blend_is_the_weighted_sum_of_its_experts():
    scores, _ = whole_run(stream(100), fused=True, chunk=16)
    assert np.allclose(scores.weights.sum(1), 1, rtol=1e-12)
    assert np.allclose(scores.mixed, (scores.weights * scores.probs).sum(1), rtol=1e-12)
    assert all(len(set(weight)) > 1 for weight in scores.weights.T)  # the gate has learned


@pytest.mark.parametrize(("match", "product", "absent"), [(False, True, [MATCH]), (True, False, [PRODUCT]), (False, False, [PRODUCT, MATCH])])
def test_the_others_share_the_weight_of_an_absent_expert_and_the_gate_learns_nothing_of_it(match, product, absent):
    tokens, gate = stream(200), load_gate()
    before = gate.weights(np.zeros((1, len(GATE_FEATURES)), np.float32))[0]
    part = predictor(tokens, gate, 16, match=match, product=product, by_chunk=True)
    scores = evaluate.run(ScoreFirst(tokens, {"blend": part}), "blend", 16)
    there = [k for k in range(4) if k not in absent]
    assert (scores.weights[:, absent] == 0).all()
    assert np.allclose(scores.weights.sum(1), 1, rtol=1e-12)
    assert np.allclose(scores.mixed, (scores.weights[:, there] * scores.probs[:, there]).sum(1), rtol=1e-12)
    after = gate.weights(np.zeros((1, len(GATE_FEATURES)), np.float32))[0]
    assert after[NGRAM] / after[NEURAL] != before[NGRAM] / before[NEURAL]  # it learned between the two


@pytest.mark.parametrize("fused", [False, True])
def test_the_product_reads_the_cache_before_it_learns_and_as_often_as_it_is_told(fused):
    """Every probability is that of the rows of a cache that has learned what lay before the read, and nothing since."""
    tokens, chunk, read = stream(80), 20, 5
    scores, _ = whole_run(tokens, fused=fused, chunk=chunk, gate=load_gate(learning=False), read=read)
    step = read if fused else chunk  # without fusing the cache stands still for a chunk
    with torch.no_grad():
        logits = np.concatenate([TinyLM()(torch.from_numpy(tokens[None, at : at + 16].astype(np.int64)))[0].double().numpy() for at in range(0, 80, 16)])
    for start in range(1, len(tokens), step):
        cache, stop = OnlineCache(table()), min(start + step, len(tokens))
        if start > 1:
            cache.update(tokens, 1, start)
        ngram = cache.rows(histories(tokens, np.arange(start, stop), 4, 1))
        mixed = np.exp(0.75 * logits[start - 1 : stop - 1] + 0.25 * np.log(ngram))
        expected = (mixed / mixed.sum(1, keepdims=True))[np.arange(stop - start), tokens[start:stop]]
        np.testing.assert_allclose(scores.probs[start - 1 : stop - 1, PRODUCT], expected, rtol=1e-5)


def test_a_network_without_rows_is_refused_where_a_product_is_wanted():
    bare = NetworkAhead([neural_scores(TinyLM(), stream(40), 16, 0, CPU)])
    order = ScoreFirst(stream(40), {"blend": Predictor(bare, OnlineCache(table()), None, Mixture(load_gate(), 64, match=False))})
    with pytest.raises(SeedgramError, match="rows are missing"):
        order.score(1, 20)


def test_blocks_of_the_network_are_let_go_and_may_be_any_size():
    tokens = stream(100)
    whole = neural_scores(TinyLM(), tokens, 16, 4, CPU)
    parts = NetworkAhead(windows.neural_blocks(TinyLM(), tokens, 16, 4, ALONE, batch_windows=3))
    for start, stop in ((1, 8), (8, 60), (60, 61)):
        pieces = parts.take(tokens, start, stop)
        assert np.array_equal(np.concatenate([piece.nll_nats for piece in pieces]), whole.nll_nats[start - 1 : stop - 1])
        rows = torch.cat([piece.rows for piece in pieces if piece.rows is not None])
        assert np.allclose(rows[np.arange(stop - start), tokens[start:stop].astype(np.int64)], -whole.nll_nats[start - 1 : stop - 1], atol=1e-6)
    assert parts._held[0].stop >= 61 and parts._held[0].first > 40
    assert np.array_equal(parts.nll_nats(), whole.nll_nats)


def test_what_the_match_model_copies_is_worth_something_where_text_repeats():
    tokens = np.concatenate([stream(60), stream(60)[1:]])
    scores, _ = whole_run(tokens, fused=True, chunk=16)
    assert np.log(scores.probs[70:, MATCH]).mean() > np.log(scores.probs[:50, MATCH]).mean() + 0.3


def test_the_gate_is_fitted_on_what_it_is_given_and_nothing_else(monkeypatch):
    """With a third of the positions from which a gate has hidden units: the same path, in a third of the time."""
    monkeypatch.setattr(fit, "SMALLEST", 3000)
    config = replace(Config(), train=replace(Config().train, seq_len=16), cache=replace(Config().cache, chunk_tokens=64))
    assert fit_gate(TinyLM(), table(), stream(1), CPU, config).to_bytes() == load_gate().to_bytes()
    if not SLOW:
        tokens = stream(fit.SMALLEST + 100)
        data = fit_gate(TinyLM(), table(), tokens, CPU, config).to_bytes()
        assert Gate.from_bytes(data, GATE_FEATURES).kind == "network"
        assert data == fit_gate(TinyLM(), table(), tokens, CPU, config).to_bytes()
        fitted, _ = whole_run(tokens, fused=True, chunk=64, gate=Gate.from_bytes(data, GATE_FEATURES))
        fixed, _ = whole_run(tokens, fused=True, chunk=64, gate=load_gate(learning=False))
        assert np.log(fitted.mixed).sum() > np.log(fixed.mixed).sum()
        product = np.log(fitted.probs[:, PRODUCT]).mean()  # its exponents are fitted, too: better than the fallback's and than none at all
        assert product > max(np.log(fixed.probs[:, PRODUCT]).mean(), -math.log(V)) + 0.01


def test_the_challenge_protocol_drops_the_tail_that_fills_no_window(tmp_path):
    from hybrid.data.shards import DataError
    from hybrid.data.write_shards import write_shard

    write_shard(tmp_path / "x_val_000000.bin", stream(30))
    paths = [tmp_path / "x_val_000000.bin"]
    assert len(evaluate.load_tokens(paths, V, 8, "full")) == 30
    assert len(evaluate.load_tokens(paths, V, 8, "challenge")) == 25
    with pytest.raises(DataError, match="fill no window of 64"):
        evaluate.load_tokens(paths, V, 64, "challenge")


@pytest.mark.parametrize("length", [0, 1])
def test_an_empty_validation_set_is_one_error_that_names_the_file(tmp_path, length):
    from hybrid.data.shards import DataError
    from hybrid.data.write_shards import write_shard

    write_shard(tmp_path / "x_val_000000.bin", stream(30)[:length])
    with pytest.raises(DataError, match=r"x_val_000000\.bin"):
        evaluate.load_tokens([tmp_path / "x_val_000000.bin"], V, 8, "full")


def _one_rank(rank, world, port, path, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    tokens, ranks = np.load(path), Ranks(rank, world, CPU)
    np.save(f"{results}{rank}.npy", neural_scores(TinyLM(), tokens, 16, 4, CPU, 2, ranks).nll_nats)
    np.save(f"{results}{rank}_mixed.npy", blended(tokens, ranks))
    dist.destroy_process_group()


def blended(tokens, ranks):
    """Chunks across several blocks, each rank with rows of its own windows alone."""
    neural = NetworkAhead(windows.neural_blocks(TinyLM(), tokens, 16, 4, ranks, batch_windows=2))
    part = Predictor(neural, OnlineCache(table()), MatchModel(V, 1), Mixture(load_gate(), 45), read_tokens=10, ranks=ranks, watch=(7, 60, 61, 150))
    return evaluate.run(ScoreFirst(tokens, {"blend": part}), "blend", 45).mixed


@pytest.mark.compiled
def test_two_ranks_give_the_scores_of_one(tmp_path):
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    tokens = stream(203)
    np.save(tmp_path / "tokens.npy", tokens)
    spawn(_one_rank, (2, port, str(tmp_path / "tokens.npy"), str(tmp_path / "r")), nprocs=2)
    alone = neural_scores(TinyLM(), tokens, 16, 4, CPU, 2).nll_nats
    for rank in range(2):
        found = np.load(tmp_path / f"r{rank}.npy")
        assert abs(found.sum() - alone.sum()) / math.log(2) < 1e-6
        assert np.allclose(found, alone, atol=1e-6)
    first, second = (np.load(tmp_path / f"r{rank}_mixed.npy") for rank in range(2))
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, blended(tokens, ALONE), rtol=1e-5)
