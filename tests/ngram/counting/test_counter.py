"""Runs and the tables read from them hold exactly what a dictionary holds."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.arrays import digest
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run, merge
from ngram.counting.unpack_keys import unpack_keys
from ngram.errors import SeedgramError
from tests.support.counting import BOS, EXAMPLES, adjusted_of, as_dict, count, ngrams_of, same_run, same_table, streams
from tests.support.kernels import SLOW
from tests.support.keys import pack_keys
from tests.support.kn_oracle import PAD, adjusted_counts, discounts_of, raw_counts
from tests.support.paths import ROOT

pytestmark = pytest.mark.kernels


@given(streams(), st.integers(1, 8), st.sampled_from([5, 16, 64]))
@EXAMPLES
def test_the_table_holds_the_raw_and_adjusted_counts_of_a_dictionary(stream, order, buffer_positions):
    vocab, tokens = stream
    table = count(vocab, tokens, order, buffer_positions).table()
    raw, left = raw_counts(tokens, order, BOS)
    adjusted = adjusted_counts(raw, left, order, BOS)
    assert as_dict(table, table.raw) == dict(raw)
    assert adjusted_of(table) == adjusted
    np.testing.assert_allclose(table.discounts, discounts_of(adjusted, order))
    assert table.sizes()[0] == vocab
    assert not any(column.any() for column in table.pruned)


@given(streams(), st.integers(2, 7), st.lists(st.integers(1, 4), min_size=7, max_size=7))
@EXAMPLES
def test_a_threshold_drops_by_raw_count_and_books_the_adjusted_count_with_the_context(stream, order, thresholds):
    vocab, tokens = stream
    min_raw = sorted(thresholds)[:order]
    table = count(vocab, tokens, order).table(min_raw)
    raw, left = raw_counts(tokens, order, BOS)
    adjusted = adjusted_counts(raw, left, order, BOS)
    kept = {g: c for g, c in adjusted.items() if len(g) == 1 or raw[g] >= min_raw[len(g) - 1]}
    assert adjusted_of(table) == kept
    dropped = dict[tuple[int, ...], int]()
    for g, c in adjusted.items():
        if g not in kept and (len(g) == 2 or g[:-1] in kept):
            dropped[g[:-1]] = dropped.get(g[:-1], 0) + c
    contexts = [{(): 0}, *ngrams_of(table)]
    booked = {g: int(table.pruned[n][i]) for n in range(order) for g, i in contexts[n].items() if table.pruned[n][i]}
    assert booked == dropped
    np.testing.assert_allclose(table.discounts, discounts_of(adjusted, order))  # of everything counted
    for n in range(2, order + 1):  # closed under suffix; under prefix by construction
        assert all(g[1:] in contexts[n - 1] for g in contexts[n])


@given(streams(), st.integers(2, 7), st.integers(1, 9))
@EXAMPLES
def test_rows_count_the_same_however_the_stream_is_cut(stream, order, width):
    vocab, tokens = stream
    whole = count(vocab, tokens, order).run()
    history = order - 1
    padded = np.full(history + -(-len(tokens) // width) * width, PAD, np.uint16)
    padded[history - 1 : history - 1 + len(tokens)] = tokens  # token 0 is the last of the first row's history
    rows = np.stack([padded[i : i + history + width] for i in range(0, len(padded) - history, width)])
    cut = NgramCache(vocab, order, BOS, buffer_positions=32)
    for i in np.random.default_rng(0).permutation(len(rows)):
        cut.update(rows[i : i + 1])
    assert same_run(cut.run(), whole)
    assert cut.positions == len(tokens) - 1


@given(streams(), st.integers(2, 7), st.integers(2, 5))
@EXAMPLES
def test_shares_counted_side_by_side_and_tables_made_by_more_threads_are_the_same(stream, order, threads):
    vocab, tokens = stream
    run, table = count(vocab, tokens, order).run(), count(vocab, tokens, order).table([1] + [2] * (order - 1))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("counter.COUNT", threads), ("build_table.COUNT", threads), ("counter.SHARE_TOKENS", 4), ("counter.SAMPLES_A_SHARE", 4)):
            patch.setattr(f"ngram.counting.{name}", value)
        shared = count(vocab, tokens, order)
        assert same_run(shared.run(), run)
        assert shared.positions == run.total()
        assert same_table(shared.table([1] + [2] * (order - 1)), table)
        shared.count_stream(np.array(tokens, np.uint16))  # beside a run that a caller has
        assert shared.run().total() == 2 * run.total()


@given(streams(), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3))
@EXAMPLES
def test_a_run_that_nobody_reads_again_gives_the_same_table(stream, order, least, threads):
    vocab, tokens = stream
    min_raw = [1] + [least] * (order - 1)
    run, locked = count(vocab, tokens, 7).run(), count(vocab, tokens, 7).run()
    table = build_table(run, vocab, BOS, order, min_raw)
    assert same_run(run, locked)
    for column in locked.columns():
        column.flags.writeable = False  # as in a file of counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ngram.counting.build_table.COUNT", threads)
        assert same_table(build_table(locked, vocab, BOS, order, min_raw, spent=True), table)
        assert same_table(build_table(run, vocab, BOS, order, min_raw, spent=True), table)


def test_a_table_with_thresholds_holds_no_memory_but_its_columns():
    table = count(5, [1, 2, 3, 2, 3, 4, 2, 3, 4], 4).table([1, 1, 2, 2])
    assert table.sizes() == [5, 5, 1, 0]
    assert all(column.base is None for columns in (table.tokens, table.parents, table.counts, table.raw) for column in columns)


@given(streams(), streams())
@EXAMPLES
def test_merging_two_runs_is_counting_both_streams(a, b):
    vocab = max(a[0], b[0])
    runs = [count(vocab, tokens, 5).run() for _, tokens in (a, b)]
    both = count(vocab, a[1], 5)
    both.count_stream(np.array(b[1], np.uint16))
    assert same_run(merge(*runs), both.run())
    assert same_run(merge(*reversed(runs)), both.run())
    assert merge(*runs).total() == len(a[1]) + len(b[1]) - 2


def test_empty_documents_and_a_lone_token_are_counted_as_they_are():
    table = count(4, [1, 1, 1, 2, 1], 3).table()
    assert adjusted_of(table) == {(1,): 2, (2,): 1, (1, 1): 2, (1, 2): 1, (2, 1): 1, (1, 2, 1): 1}
    assert adjusted_of(count(4, [1], 3).table()) == {}


def test_every_token_of_the_vocabulary_stays_whatever_the_threshold():
    table = count(6, [1, 2, 3, 2, 3, 4], 2).table([3, 3])
    assert table.sizes() == [6, 0]
    assert table.counts[0].tolist() == [0, 0, 2, 1, 1, 0]
    assert table.pruned[1].tolist() == [0, 1, 2, 2, 0, 0]


def test_a_lower_order_can_be_read_from_the_same_run():
    tokens = np.random.default_rng(0).integers(0, 6, 300 if not SLOW else 60)
    run = count(6, tokens, 7).run()
    for order in (1, 2, 5):
        assert same_table(build_table(run, 6, BOS, order), count(6, tokens, order).table())


def test_an_n_gram_whose_context_was_never_counted_is_left_out():
    cache = NgramCache(9, 3, BOS)
    cache.update(np.array([[3, 4, 5]], np.uint16))  # counts 5 after 3 4; the n-grams ending in 4 were in another row
    assert adjusted_of(cache.table()) == {(5,): 1, (4, 5): 1}
    cache.update(np.array([[0, 3, 6]], np.uint16))  # 3 6 is a context that begins with 3, but not the one of 3 4 5
    assert adjusted_of(cache.table()) == {(5,): 1, (4, 5): 1, (6,): 1, (3, 6): 1}


@pytest.mark.parametrize("entries", [1, 1 << 16])
def test_counts_past_16_bits_are_exact_through_merges(entries, monkeypatch):
    monkeypatch.setattr("ngram.counting.run.PART", entries)  # so that overflow lies in later ranges, too
    monkeypatch.setattr("ngram.counting.run.SAMPLES", 1)
    hi, lo = pack_keys([[1, 0], [2, 0], [1, 3]])
    a = Run.from_counts(2, hi, lo, [65534, 65535, 70000])
    b = Run.from_counts(2, hi[1:], lo[1:], [1, 1 << 33])
    merged = merge(a, merge(b, Run.from_counts(2, hi[:1], lo[:1], [1])))
    assert merged.exact_counts().tolist() == [65535, 65536, 70000 + (1 << 33)]
    assert merged.counts.tolist() == [65535] * 3
    assert merged.total() == 65535 + 65536 + 70000 + (1 << 33)
    assert merged.slice(1, 3).exact_counts().tolist() == [65536, 70000 + (1 << 33)]


@pytest.mark.compiled
def test_a_stream_that_passes_65535_agrees_with_a_dictionary():
    tokens = np.random.default_rng(1).choice(np.array([0, 2], np.uint16), 200_000, p=[0.97, 0.03])
    tokens[0] = BOS
    cache = count(3, tokens, 4, buffer_positions=1 << 15)
    raw, left = raw_counts(tokens.tolist(), 4, BOS)
    table = cache.table()
    assert as_dict(table, table.raw) == dict(raw)
    assert adjusted_of(table) == adjusted_counts(raw, left, 4, BOS)
    assert max(raw.values()) > 190_000
    assert set(table.excess) == {4}  # lower orders count neighbours


def test_the_background_thread_counts_the_same_and_hands_over_its_errors():
    rows = np.random.default_rng(2).integers(0, 30, (4, 3, 20)).astype(np.uint16)
    direct, threaded = NgramCache(30, 7, BOS, 64), NgramCache(30, 7, BOS, 64)
    for batch in rows:
        direct.update(batch)
        threaded.submit(batch)
        batch[:] = 0  # the cache has its own copy
    threaded.drain()
    assert same_run(threaded.run(), direct.run())
    threaded.submit(np.full((1, 10), 30, np.uint16))
    with pytest.raises(SeedgramError, match="token 30 is outside the vocabulary of 30"):
        threaded.drain()
    threaded.drain()


def test_a_run_is_the_sorted_dictionary_of_reversed_n_grams():
    run = count(9, [1, 5, 6, 5, 6, 5], 3).run()
    assert unpack_keys(run.hi, run.lo, 3).tolist() == [[PAD, 1, 5], [5, 6, 5], [1, 5, 6], [6, 5, 6]]
    assert run.exact_counts().tolist() == [1, 2, 1, 1]


def test_the_largest_vocabulary_and_order_fit():
    tokens = np.array([BOS, 65534, 65533, 65534, BOS, 65534, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.uint16)
    table = count(65535, tokens, 8).table()
    raw, left = raw_counts(tokens.tolist(), 8, BOS)
    assert adjusted_of(table) == adjusted_counts(raw, left, 8, BOS)


def test_nonsense_is_refused_with_a_remedy():
    for arguments in ((0,), (262_145,), (65_536, 8), (10, 9), (10, 0)):
        with pytest.raises(SeedgramError):
            NgramCache(*arguments)
    cache = NgramCache(10, 3, BOS, 64)
    for rows in (np.zeros(5, np.uint16), np.zeros((1, 1), np.uint16), np.full((1, 5), 1 << 16), np.full((1, 5), -1)):
        with pytest.raises(SeedgramError):
            cache.update(rows)
    with pytest.raises(SeedgramError, match="thresholds"):
        cache.table([1, 3, 2])
    with pytest.raises(SeedgramError, match="orders up to 4"):
        build_table(cache.run(), 10, BOS, 4)
    with pytest.raises(SeedgramError, match="same orders"):
        merge(Run.empty(2), Run.empty(3))


@given(st.lists(streams(max_size=40), min_size=1, max_size=9), st.sampled_from([1, 8, 64]))
@EXAMPLES
def test_many_runs_merge_range_by_range_into_the_run_of_all(parts, entries):
    """Ranges of a few entries, so that even these runs are cut, and any number of runs, empty ones included."""
    vocab, whole = max(vocab for vocab, _ in parts), NgramCache(300, 4, BOS, 4096)
    runs = [Run.empty(4)]
    for _, tokens in parts:
        runs.append(count(vocab, tokens, 4).run())
        whole.count_stream(np.array(tokens, np.uint16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ngram.counting.run.PART", entries)
        assert same_run(merge(*runs), whole.run())


@given(streams(), st.integers(1, 6), st.lists(st.integers(1, 3), min_size=6, max_size=6), st.integers(0, 2**32 - 1))
@EXAMPLES
def test_positions_cut_out_of_a_stream_keep_the_n_grams_whose_contexts_were_counted(stream, order, thresholds, seed):
    vocab, tokens = stream
    chosen = [t for t in range(1, len(tokens)) if np.random.default_rng([seed, t]).random() < 0.5]
    cache, min_raw = NgramCache(vocab, order, BOS, 16), sorted(thresholds)[:order]
    padded = [PAD] * order + tokens
    for t in chosen:
        cache.update(np.array([padded[t + 1 : t + 1 + order]], np.uint16))
    raw, left = raw_counts(tokens, order, BOS, chosen)
    kept = {}
    for gram, adjusted in sorted(adjusted_counts(raw, left, order, BOS).items(), key=lambda item: len(item[0])):
        if len(gram) == 1 or ((gram[:-1] in kept or len(gram) == 2) and raw[gram] >= min_raw[len(gram) - 1]):
            kept[gram] = adjusted
    assert adjusted_of(cache.table(min_raw)) == kept


@pytest.mark.compiled
def test_a_run_that_was_handed_out_stays_as_it_is_while_counting_goes_on():
    """Merging gives the memory of its own runs back to the system; what a caller holds is not its own."""
    cache, random = NgramCache(500, 4, BOS, 1 << 12), np.random.default_rng(0)
    cache.count_stream(random.integers(0, 500, 1 << 15))
    first = cache.run()
    before = digest(*first.columns())
    for _ in range(2):
        cache.count_stream(random.integers(0, 500, 1 << 16))
        cache.run()
    assert digest(*first.columns()) == before


PEAK = """if True:
    import numpy as np
    from pathlib import Path
    from ngram.counting.build_table import build_table
    from ngram.counting.counter import NgramCache

    def most() -> int:
        return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

    def size_of(tokens: int, table: bool) -> int:
        cache = NgramCache(1000, 7)
        cache.count_stream(np.random.default_rng(0).integers(0, 1000, tokens, np.uint16))
        run = cache.run()
        del cache
        return sum(build_table(run, 1000, 1, spent=True).sizes()) if table else len(run)

    size_of(300_000, TABLE)  # compiles
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, size = most(), size_of(4_000_000, TABLE)
    print((most() - before) / size)"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back, and its peak read, on Linux only")
@pytest.mark.parametrize(("table", "least", "most"), [(False, 15, 32), (True, 12, 20)])
def test_counting_holds_no_n_gram_twice_and_a_table_is_made_where_its_run_was(table, least, most):
    """18 bytes an entry, and as many megabytes for tokens, buffers and what is being merged; all runs and their sum would be twice 18 beside these.
    An n-gram of a table has 12 bytes, and 3.4 in the run, which has a fifth as many; with new memory for every step it would take 24.5."""
    done = subprocess.run([sys.executable, "-c", PEAK.replace("TABLE", str(table))], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert least < float(done.stdout) < most
