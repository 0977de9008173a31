"""Counting within a budget of memory: the same runs and tables as without one, also after a kill."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from ngram.counting.run_file import SAMPLE, RunWriter, open_run
from ngram.counting.spill import SpillingCache
from ngram.counting.table_in_parts import build_in_parts
from ngram.errors import FileFormatError, SeedgramError
from scripts.bench.pruning import shortened
from tests.support.counting import BOS, adjusted_of, as_dict, count, same_run, same_table, streams
from tests.support.kernels import SLOW, examples
from tests.support.kn_oracle import PAD
from tests.support.paths import ROOT
from tests.support.spilling import MEMORY_BYTES, ORDER, VOCAB, at_once, documents, peak_bytes

TASK = {"texts": "a"}
FEW = examples(25, 8)  # each writes files


def spilling(folder: Path, vocab: int, order: int, max_bytes: int = 1000) -> SpillingCache:
    return SpillingCache(vocab, order, BOS, folder, max_bytes, TASK, buffer_positions=16)


def in_memory(run) -> Run:
    return run.slice(0, len(run))


@pytest.mark.kernels
@given(st.lists(streams(max_size=40), min_size=1, max_size=6), st.integers(1, 8), st.sampled_from([1, 300, 2000]))
@FEW
def test_runs_that_went_to_files_add_up_to_the_run_in_memory(tmp_path_factory, streams_, order, max_bytes):
    vocab = max(vocab for vocab, _ in streams_)
    spilled, memory = spilling(tmp_path_factory.mktemp("spill"), vocab, order, max_bytes), NgramCache(vocab, order, BOS)
    for _, tokens in streams_:
        spilled.count_stream(np.array(tokens, np.uint16))
        memory.count_stream(np.array(tokens, np.uint16))
    assert same_run(in_memory(spilled.finish()), memory.run())
    assert spilled.positions == memory.positions
    assert not list(spilled.folder.glob("run-*"))


@pytest.mark.kernels
@pytest.mark.filterwarnings("ignore")
@given(streams(), st.integers(1, 8), st.lists(st.integers(1, 4), min_size=8, max_size=8), st.sampled_from([1, 800, 100_000]))
@FEW
def test_the_table_made_in_parts_is_the_table_made_at_once(tmp_path_factory, stream, order, thresholds, max_bytes):
    vocab, tokens = stream
    run, min_raw = count(vocab, tokens, order).run(), sorted(thresholds)[:order]
    for lowest, least in ((None, None), (None, min_raw), (1, None)):
        parts = build_in_parts(run, vocab, BOS, tmp_path_factory.mktemp("table"), max_bytes, lowest, min_raw=least)
        assert same_table(parts, build_table(run, vocab, BOS, lowest, min_raw=least))


@pytest.mark.kernels
@given(streams(), st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
@FEW
def test_in_parts_too_an_n_gram_whose_context_was_never_counted_is_left_out(tmp_path_factory, stream, order, least, seed):
    vocab, tokens = stream
    cache, padded = NgramCache(vocab, order, BOS, 16), [PAD] * order + tokens
    for t in range(1, len(tokens)):
        if np.random.default_rng([seed, t]).random() < 0.5:
            cache.update(np.array([padded[t + 1 : t + 1 + order]], np.uint16))
    run, min_raw = cache.run(), [1] + [least] * (order - 1)
    parts = build_in_parts(run, vocab, BOS, tmp_path_factory.mktemp("table"), 5000, min_raw=min_raw)
    assert same_table(parts, build_table(run, vocab, BOS, min_raw=min_raw))


@pytest.mark.kernels
@given(streams(), st.integers(3, 6))
@FEW
def test_cutting_entries_that_occurred_once_by_one_token_keeps_every_count_of_the_orders_below(tmp_path_factory, stream, order):
    vocab, tokens = stream
    run = count(vocab, tokens, order).run()
    whole = build_table(run, vocab, BOS)
    cut = build_in_parts(shortened(run, 2, order - 1), vocab, BOS, tmp_path_factory.mktemp("table"), 5000, cut=True)
    kept = {gram for gram, raw in as_dict(whole, whole.raw).items() if len(gram) < order or raw > 1}
    assert as_dict(cut, cut.raw) == {gram: raw for gram, raw in as_dict(whole, whole.raw).items() if gram in kept}
    assert adjusted_of(cut) == {gram: adjusted for gram, adjusted in adjusted_of(whole).items() if gram in kept}


@pytest.mark.parametrize("vocab", [3, 70_000])
def test_counts_past_16_bits_and_wide_tokens_survive_files_and_parts(tmp_path, vocab):
    tokens = np.random.default_rng(1).choice([0, 2], 150_000, p=[0.97, 0.03])
    tokens[0] = BOS
    spilled, memory = SpillingCache(vocab, 4, BOS, tmp_path / "work", 1 << 15, TASK, 1 << 14), NgramCache(vocab, 4, BOS)
    for cache in (spilled, memory):
        cache.count_stream(tokens.astype(np.uint16 if vocab == 3 else np.uint32))
    spilled.spill()
    whole, run = spilled.finish(), memory.run()
    assert same_run(in_memory(whole), run)
    parts, at_once = build_in_parts(whole, vocab, BOS, tmp_path / "table", 1 << 24), build_table(run, vocab, BOS)
    assert same_table(parts, at_once)
    assert set(parts.excess) == set(at_once.excess) == {4}
    assert all(np.array_equal(a, b) for a, b in zip(parts.excess[4], at_once.excess[4], strict=True))


def test_a_range_of_a_run_is_found_and_read_wherever_it_begins(tmp_path):
    hi = np.sort(np.random.default_rng(0).integers(0, 5000, 50 * SAMPLE + 5).astype(np.uint64))
    run = Run.from_counts(7, hi, np.arange(len(hi), dtype=np.uint64), np.full(len(hi), 70_000))
    writer = RunWriter(tmp_path / "run", 7, 16)
    for start in range(0, len(run), 1000):
        writer.append(run.slice(start, min(start + 1000, len(run))))
    file = writer.close({})
    assert same_run(file.slice(0, len(file)), run)
    assert same_run(file.slice(4000, 9001), run.slice(4000, 9001))
    cuts = np.unique(np.concatenate([hi[:: SAMPLE // 3], [0, 4999, 5001]]).astype(np.uint64))
    assert file.places(cuts).tolist() == np.searchsorted(hi, cuts).tolist()
    assert file.samples.tolist() == hi[::SAMPLE].tolist()
    assert file.total() == run.total()


def test_a_folder_goes_on_behind_its_last_whole_run(tmp_path):
    streams_ = documents(500)
    memory = NgramCache(VOCAB, ORDER, BOS)
    first = SpillingCache(VOCAB, ORDER, BOS, tmp_path, 20_000, TASK, 64)
    for tokens in streams_:
        memory.count_stream(tokens)
    for tokens in streams_[:3]:
        first.count_stream(tokens)
    runs = sorted(tmp_path.glob("run-*"))
    assert len(runs) == 3
    (runs[2] / "lo").write_bytes((runs[2] / "lo").read_bytes()[:-1] + b"\xff")  # altered: it and what comes after are counted again
    shutil.copytree(runs[0], tmp_path / "run-00099.partial-1")
    with pytest.raises(FileFormatError, match="not a whole run"):
        open_run(runs[2], check=True)
    again = SpillingCache(VOCAB, ORDER, BOS, tmp_path, 20_000, TASK, 64)
    assert 0 < again.resumed_at < first.positions and len(again.files) == 2
    for tokens in streams_[again.documents :]:
        again.count_stream(tokens)
    assert same_run(in_memory(again.finish()), memory.run())
    done = SpillingCache(VOCAB, ORDER, BOS, tmp_path, 20_000, TASK, 64)
    assert done.whole is not None and done.documents == len(streams_) and done.positions == memory.positions
    assert sorted(path.name for path in tmp_path.iterdir()) == ["task.json", "whole"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    spilling(tmp_path / "a", 5, 3)
    with pytest.raises(SeedgramError, match="begun with other texts or settings"):
        SpillingCache(5, 3, BOS, tmp_path / "a", 1000, {"texts": "b"})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter.txt").write_text("mine")
    with pytest.raises(SeedgramError, match="holds other files"):
        spilling(tmp_path / "b", 5, 3)
    assert (tmp_path / "b" / "letter.txt").exists()
    (tmp_path / "c").write_text("a file")
    with pytest.raises(SeedgramError, match="cannot write"):
        build_in_parts(count(5, [1, 2, 3], 3).run(), 5, BOS, tmp_path / "c", 1000)


def test_a_first_token_that_alone_needs_more_than_the_budget_is_announced(tmp_path, capsys):
    build_in_parts(count(5, [1, 2, 3, 2, 4], 3).run(), 5, BOS, tmp_path, 100)
    assert "n-grams that begin with token 2 need" in capsys.readouterr().err


@pytest.mark.skipif(SLOW, reason="a process of its own, whose kernels are compiled")
def test_killed_in_the_middle_and_started_again_it_gives_the_same_table_within_its_memory(tmp_path):
    """tests/support/spilling.py counts documents, is killed by itself after some of them, and is started again."""
    command = [sys.executable, "-m", "tests.support.spilling", str(tmp_path)]
    ends = [subprocess.run([*command, *stop], cwd=ROOT, capture_output=True, text=True, check=False) for stop in (["4"], [])]
    assert [end.returncode for end in ends] == [-signal.SIGKILL, 0], ends[-1].stderr
    resumed_at, peak, digest = ends[1].stdout.split()
    assert int(resumed_at) > 0
    texts = documents()
    at_once(texts[:1])  # compiles, which takes memory too
    expected, in_memory_bytes = peak_bytes(lambda: at_once(texts))
    assert digest == expected
    assert int(peak) < MEMORY_BYTES < in_memory_bytes / 7
