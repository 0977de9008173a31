"""The network is launched ahead of what is asked for, on CUDA alone, and its bits are those of one block after another."""

# mypy: disable-error-code="arg-type, var-annotated"
# Names stand in for streams.

import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import call

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate, network, test_time_training, windows
from hybrid.scoring.network import NetworkAhead, NeuralScores, ahead
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.scoring.test_time_training import adapted_blocks
from hybrid.scoring.windows import neural_blocks
from hybrid.settings import presets
from hybrid.storing import artifact
from tests.support import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda")
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Rows(np.ndarray):
    """An array that can be watched."""


def block(first, size=2):
    zeros = np.zeros(size)
    return NeuralScores(zeros, zeros, zeros, first, np.zeros(3).view(Rows), first)


def launches(log, count, fails=None):
    for n in range(count):
        log.append(f"launch {n}")
        if n == fails:
            raise MemoryError(n)

        def wait(n=n):
            log.append(f"wait {n}")
            return block(1 + 2 * n)

        yield wait


@pytest.fixture
def stream(monkeypatch):
    """What is the current stream of a device that is not there."""
    stack = ["default"]

    class Side:
        def wait_stream(self, other):
            self.behind = other

    @contextmanager
    def on(side):
        assert side.behind == "default"
        stack.append("side")
        try:
            yield
        finally:
            stack.pop()

    monkeypatch.setattr(network, "_side", lambda device: Side())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stack[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    return stack


def test_on_cuda_a_block_is_launched_before_the_one_in_front_is_waited_for_and_none_beyond_the_last(stream):
    log = []
    for n, _ in enumerate(ahead(launches(log, 3), GPU)):
        log.append(f"use {n}")
    assert log == ["launch 0", "launch 1", "wait 0", "use 0", "launch 2", "wait 1", "use 1", "wait 2", "use 2"]


def test_on_cuda_launches_are_on_the_side_stream_and_their_readers_are_not(stream):
    seen = []

    def one():
        seen.append(stream[-1])
        yield lambda: seen.append(stream[-1])
        seen.append(stream[-1])

    for _ in ahead(one(), GPU):
        seen.append(stream[-1])
    assert seen == ["side", "side", "default", "default"]


@pytest.mark.parametrize(("fails", "handed_out"), [(0, 0), (1, 1), (2, 2)])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_an_error_of_a_launch_is_raised_where_its_block_is_asked_for(device, fails, handed_out, stream):
    blocks = NetworkAhead(ahead(launches([], 3, fails), device))
    for n in range(handed_out):
        assert blocks.look(None, 1 + 2 * n).first == 1 + 2 * n
    with pytest.raises(MemoryError):
        blocks.look(None, 1 + 2 * handed_out)
    assert stream == ["default"]


def test_on_a_cpu_a_block_is_computed_when_it_is_asked_for_and_the_one_before_may_be_gone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "stream", None)  # it is not touched
    there, gone, used = [], [], []

    def one_by_one():
        for n in range(3):
            there.append((list(used), [rows() is None for rows in gone]))
            yield partial(tuple.__getitem__, (block(1 + 2 * n),), 0)

    for scores in ahead(one_by_one(), CPU):
        used.append(scores.first)
        gone.append(weakref.ref(scores.rows))
        del scores
    assert there == [([], []), ([1], [True]), ([1, 3], [True, True])]


def in_turn(monkeypatch):
    for module in (windows, test_time_training):
        monkeypatch.setattr(module, "ahead", lambda blocks, _: map(call, blocks))


def text(size):
    return np.resize(tiny.stream(seed=3, count=20), size)


@pytest.mark.parametrize(("stride", "chunk", "size"), [(0, 0, 200), (4, 8, 100), (0, 48, 20), (0, 16, 2)])
def test_a_network_that_learns_ahead_has_the_bits_of_one_that_waits(stride, chunk, size, stream, monkeypatch):
    """Its step is taken, and the next chunk computed, before a chunk's scores are read."""
    torch.manual_seed(0)
    given = HybridLM(tiny.config(16).model), text(size), 16, stride, AdaptConfig(chunk, 0.01), Ranks(0, 1, CPU)
    with monkeypatch.context() as patch:
        in_turn(patch)
        expected = list(adapted_blocks(*given))
    monkeypatch.setattr(test_time_training, "ahead", lambda blocks, _: ahead(blocks, GPU))
    found = list(adapted_blocks(*given))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.nll_nats, other.nll_nats)
        assert torch.equal(one.rows, other.rows)


# ---- on a GPU --------------------------------------------------------------------------------------------------------


def model():
    torch.manual_seed(0)
    return HybridLM(replace(presets.get("dense9").model, vocab_size=tiny.VOCAB, layers=2))


def read(blocks):
    """Every block's scores, and its rows as kernels of two threads find them some 10 ms after both have let go."""
    found = []
    with ThreadPoolExecutor(1) as other:
        for scores in blocks:
            torch.cuda._sleep(20_000_000)
            copies = [scores.rows.clone(), other.submit(torch.clone, scores.rows).result()]
            found.append((*copies, *(torch.from_numpy(part) for part in (scores.nll_nats, scores.entropy, scores.max_logp))))
            del scores
    return found


def same_bits_ahead(blocks_of, monkeypatch):
    with monkeypatch.context() as patch:
        in_turn(patch)
        expected = read(blocks_of())
    for _ in range(2):
        found = read(blocks_of())
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one[0], one[1])
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    return expected


@on_cuda
@pytest.mark.parametrize("size", [3172, 300, 2])  # 50 windows, 2, one
def test_a_frozen_network_launched_ahead_has_the_bits_of_one_block_after_another(size, monkeypatch):
    given = model(), text(size), 256, 64, Ranks(0, 1, GPU)
    same_bits_ahead(lambda: neural_blocks(*given, batch_windows=3), monkeypatch)


@on_cuda
@pytest.mark.parametrize(("chunk", "exact"), [(0, False), (64, False), (512, False), (64, True)])  # 0: a window, whose step is a graph
@pytest.mark.parametrize("size", [3172, 100])
def test_a_network_that_learns_launched_ahead_has_the_bits_of_one_chunk_after_another(chunk, exact, size, monkeypatch):
    """With attention computed the plain way: of the fast ones a GPU does not promise the order in which gradients are added."""
    given = model(), text(size), 256, 64, AdaptConfig(chunk, 1e-3), Ranks(0, 1, GPU)
    with sdpa_kernel(SDPBackend.MATH):
        same_bits_ahead(lambda: adapted_blocks(*given, exact=exact), monkeypatch)


@on_cuda
@pytest.mark.parametrize("adapt", [None, AdaptConfig(rate=1e-3)])
def test_eval_gives_the_same_bits_with_its_network_launched_ahead(adapt, tmp_path, monkeypatch):
    tiny.write_artifact(tmp_path / "a.bin")
    art, options = artifact.load(tmp_path / "a.bin"), EvalOptions(stride=8, adapt=adapt)
    monkeypatch.setitem(windows.BATCH_TOKENS, "cuda", 512)
    with sdpa_kernel(SDPBackend.MATH):
        with monkeypatch.context() as patch:
            in_turn(patch)
            expected = evaluate.score_tokens(art, text(3000), options, Ranks(0, 1, GPU))
        for _ in range(2):
            found = evaluate.score_tokens(art, text(3000), options, Ranks(0, 1, GPU))
            assert np.array_equal(found.nll_nats, expected.nll_nats)
            assert np.array_equal(found.blend.probs, expected.blend.probs)
            assert np.array_equal(found.blend.mixed, expected.blend.mixed)
