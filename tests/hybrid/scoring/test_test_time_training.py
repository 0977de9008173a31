"""Test-time training: every score is that of weights which have learned from earlier chunks and from nothing else."""

import os
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.coding.adapted_streams import AdaptedStreams
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import parameter_kind
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import test_time_training
from hybrid.scoring.options import AdaptConfig
from hybrid.scoring.test_time_training import AdaptedNetwork, adapted_blocks
from hybrid.settings import presets
from hybrid.settings.config import ConfigError
from ngram.errors import LeakageError
from ngram.score_first import ScoreFirst
from tests.support import tiny
from tests.support.ranks import spawn
from tests.support.whole import joined, neural_scores

CPU, LENGTH = torch.device("cpu"), 16
ALONE = Ranks(0, 1, CPU)


def network():
    torch.manual_seed(0)
    model = HybridLM(tiny.config(LENGTH).model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def text(size=200):
    return tiny.stream(seed=3, count=20)[:size]


def adapted_scores(*given):
    return joined(adapted_blocks(*given))


def frozen(model, tokens, stride=0):
    return neural_scores(model, tokens, LENGTH, stride, CPU).nll_nats


@pytest.mark.parametrize("stride", [0, 4])
def test_with_steps_of_size_zero_it_is_the_frozen_network(stride):
    model, tokens = network(), text()
    scores = adapted_scores(model, tokens, LENGTH, stride, AdaptConfig(rate=0.0), ALONE)
    np.testing.assert_allclose(scores.nll_nats, frozen(model, tokens, stride), atol=1e-5)


@pytest.mark.parametrize(("stride", "chunk"), [(0, 16), (0, 48), (4, 8)])
def test_a_chunks_scores_are_those_of_weights_that_took_plain_adam_steps_on_the_chunks_before(stride, chunk):
    """The oracle keeps no gradient buffer and no windows: one loss a chunk, one step."""
    tokens, adapt = text(120), AdaptConfig(chunk, rate=0.01)
    found = adapted_scores(network(), tokens, LENGTH, stride, adapt, ALONE).nll_nats
    model = network()
    square = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, start in enumerate(range(1, len(tokens), chunk), 1):
        stop = min(start + chunk, len(tokens))
        np.testing.assert_allclose(found[start - 1 : stop - 1], frozen(model, tokens, stride)[start - 1 : stop - 1], atol=2e-4)
        total = torch.zeros(())
        for at in range(start - 1, stop - 1, LENGTH):
            ids = torch.from_numpy(tokens[at : min(at + LENGTH, stop - 1) + 1].astype(np.int64))[None]
            total = total + model.token_nll(ids[:, :-1], ids[:, 1:]).sum() / (stop - start)
        model.zero_grad()
        total.backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                square[name].mul_(0.999).add_(0.001 * p.grad**2)
                p.sub_(0.01 * p.grad / ((square[name] / (1 - 0.999**step)).sqrt() + 1e-8))


def test_the_future_changes_no_score_and_the_model_given_is_left_alone():
    model, tokens = network(), text()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    scores = adapted_scores(model, tokens, LENGTH, 0, AdaptConfig(32, 0.01), ALONE)
    other = tokens.copy()
    other[130:] = 7
    again = adapted_scores(model, other, LENGTH, 0, AdaptConfig(32, 0.01), ALONE)
    assert np.array_equal(scores.nll_nats[:129], again.nll_nats[:129])
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_everything_takes_steps_also_what_training_froze():
    model, tokens = network(), text()
    model.requires_grad_(False)
    part = AdaptedNetwork(model, LENGTH, 0, AdaptConfig(32, 0.01), ALONE)
    part.update(tokens, 1, 33)
    learned = part.learner.model.state_dict()
    moved = {parameter_kind(name, p.ndim) for name, p in model.state_dict().items() if not torch.equal(p, learned[name])}
    assert moved == {"matrix", "scalar", "embedding"}


def test_repeated_text_is_learned():
    tokens = np.tile(text(65)[:64], 8)
    model = network()
    scores = adapted_scores(model, tokens, LENGTH, 0, AdaptConfig(64, 0.01), ALONE).nll_nats
    assert scores[-64:].mean() < frozen(model, tokens)[-64:].mean() - 0.3


def test_scoring_moves_nothing_and_learning_from_unscored_text_is_refused():
    tokens = text()
    part = AdaptedNetwork(network(), LENGTH, 0, AdaptConfig(32, 0.01), ALONE)
    order = ScoreFirst(tokens, {"network": part}, paranoid=True)  # compares digests around every score
    order.score(1, 33)
    order.update(1, 33)
    with pytest.raises(LeakageError, match="positions 33…64"):
        order.update(33, 65)
    before = part.digest()
    order.score(33, 65)
    assert part.digest() == before
    order.update(33, 65)
    assert part.digest() != before


@pytest.mark.parametrize(("stride", "chunk"), [(0, 24), (4, 6)])
def test_a_chunk_that_is_no_whole_number_of_windows_or_strides_is_refused(stride, chunk):
    with pytest.raises(ConfigError, match=f"--ttt-chunk {chunk} must be a whole number of"):
        AdaptedNetwork(network(), LENGTH, stride, AdaptConfig(chunk), ALONE)


def _one_rank(rank, world, port, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    scores = adapted_scores(network(), text(), LENGTH, 0, AdaptConfig(48, 0.01), Ranks(rank, world, CPU))
    np.save(f"{results}{rank}.npy", scores.nll_nats)
    dist.destroy_process_group()


def test_two_ranks_give_the_scores_of_one(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    spawn(_one_rank, (2, port, str(tmp_path / "r")), nprocs=2)
    alone = adapted_scores(network(), text(), LENGTH, 0, AdaptConfig(48, 0.01), ALONE).nll_nats
    first, second = (np.load(tmp_path / f"r{rank}.npy") for rank in range(2))
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, alone, atol=2e-4)


def learned_in_streams(model, window, device):
    """Digests of a coder's learner after each of its steps over four streams side by side, longer than a window."""
    tokens_ST = np.resize(text(), (4, 2 * window)).astype(np.uint16)
    streams = AdaptedStreams(model, 4, window, window // 4, AdaptConfig(0, 0.01), device)
    digests = [streams.learner.digest()]
    for column in range(tokens_ST.shape[1]):
        if streams.due(column):
            streams.update(tokens_ST, column, np.ones(tokens_ST.shape, bool))
            digests.append(streams.learner.digest())
    return digests


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def test_a_coders_learner_takes_the_same_steps_every_time_to_the_bit(device):
    """A decoder has nothing but this: another process, the same tokens."""
    model, window = network(), LENGTH
    if device == "cuda":  # shapes whose products and sums a library may split
        model, window = HybridLM(replace(presets.get("dense9").model, vocab_size=tiny.VOCAB, layers=2)), 1024
    first, second = (learned_in_streams(model, window, torch.device(device)) for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first) > 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("preset", ["dense9", "seed1095"])
def test_a_step_recorded_as_a_graph_is_the_step(preset, monkeypatch):
    """The tail, shorter than a window, is not recorded."""
    model = HybridLM(replace(presets.get(preset).model, vocab_size=tiny.VOCAB, layers=2, xsa_layers=1))
    given = model, np.resize(text(), 5 * 256 + 100), 256, 64, AdaptConfig(rate=1e-3), Ranks(0, 1, torch.device("cuda"))
    recorded = adapted_scores(*given).nll_nats
    monkeypatch.setattr(test_time_training.Learner, "recorded", lambda *_: None)
    np.testing.assert_allclose(recorded, adapted_scores(*given).nll_nats, atol=1e-3)
    assert np.abs(recorded - neural_scores(model, *given[1:4], given[5].device).nll_nats).max() > 1e-2  # it did learn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("preset", ["best16mb", "seed1095"])
def test_a_recorded_step_has_the_same_bits_whatever_else_the_gpu_does(preset):
    config = presets.get(preset).model
    few = {name: min(1, getattr(config, name)) for name in ("value_tables", "whole_layers")}
    model = HybridLM(replace(config, vocab_size=tiny.VOCAB, layers=2, xsa_layers=1, **few))
    tokens, other, digests = np.resize(text(), 8193), torch.cuda.Stream(), []
    for busy in (0, 0, 40, 80):
        part = AdaptedNetwork(model, 2048, 64, AdaptConfig(rate=1e-3), Ranks(0, 1, torch.device("cuda")))
        for start in range(1, 8193, 2048):
            with torch.cuda.stream(other):
                for _ in range(busy):
                    torch.randn(1024, 1024, device="cuda") @ torch.randn(1024, 1024, device="cuda")
            part.update(tokens, start, start + 2048)
        digests.append(part.digest())
    assert len(set(digests)) == 1


@pytest.mark.parametrize("own", [None, ":16:8"])
def test_repeatable_algorithms_leave_the_process_as_it_was(own, monkeypatch):
    monkeypatch.delenv(test_time_training.CUBLAS_WORKSPACE, raising=False)
    if own is not None:
        monkeypatch.setenv(test_time_training.CUBLAS_WORKSPACE, own)
    with test_time_training.repeatable(), test_time_training.repeatable():
        assert os.environ[test_time_training.CUBLAS_WORKSPACE] == (own or ":4096:8")
        assert torch.are_deterministic_algorithms_enabled()
    assert os.environ.get(test_time_training.CUBLAS_WORKSPACE) == own
    assert not torch.are_deterministic_algorithms_enabled()
