"""Numbers at their edges, against plain Python: smallest probabilities, zeros, counts at their top, vocabularies, long documents; and
that results do not depend on threads, chunks, batches or ranks."""

import functools
import json
import math
import subprocess

import numpy as np
import pytest
import torch

from hybrid.data import tokenizer
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from ngram.arpa import read as arpa_reader
from ngram.counting.build_table import build_table
from ngram.counting.counter import NgramCache
from ngram.counting.run import Run
from ngram.errors import SeedgramError
from ngram.online.cache import OnlineCache
from ngram.storing import table_codec
from tests.support import loaded, tiny
from tests.support.counting import BOS, adjusted_of, count, pruned_of
from tests.support.kn_oracle import PAD, OnlineOracle, distribution, history_of
from tests.support.paths import ROOT
from tests.support.tables import decoded
from tests.support.training import environment
from tests.support.whole import neural_scores

TOP = 2**32 - 1


def oracle_of(table):
    return OnlineOracle(adjusted_of(table), pruned_of(table, table.order), table.discounts.tolist(), table.vocab_size, table.order, BOS)


def check_against_oracle(table, tokens, places):
    """Target probabilities and whole rows, before anything is learned."""
    cache, oracle = OnlineCache(table), oracle_of(table)
    found = cache.score(tokens, 1, len(tokens), features=False).prob
    for t in places:
        row = oracle.row(tokens.tolist(), t)
        past = [PAD] * table.order + list(history_of(tokens.tolist(), t, table.order, BOS))
        np.testing.assert_allclose(cache.rows(np.array([past[-(table.order - 1) :]], np.uint16))[0], row, rtol=1e-9)
        assert found[t - 1] == pytest.approx(row[tokens[t]], rel=1e-9) and found[t - 1] > 0


@pytest.mark.parametrize("vocab", [2, 65_535])
def test_the_smallest_and_the_largest_vocabulary(vocab):
    random = np.random.default_rng(0)
    tokens = random.integers(max(0, vocab - 9), vocab, 300).astype(np.uint16)
    tokens[::37], tokens[150] = BOS, vocab - 1
    table = decoded(count(vocab, tokens, 4).table())
    places = range(1, 300) if vocab == 2 else (1, 2, 38, 151, 299)
    check_against_oracle(table, tokens, places)
    assert len(table_codec.decode(table_codec.encode(table)).tokens[0]) == vocab


@pytest.mark.parametrize("text", [[BOS], [5], [BOS, BOS, BOS], [BOS, 5], [BOS, BOS, 5, BOS, 6, BOS]])
def test_empty_and_one_token_documents(text):
    table = count(10, [BOS, 5, 6, BOS, BOS, 7], 3).table()
    tokens = np.array(text, np.uint16)
    cache, oracle = OnlineCache(table), oracle_of(table)
    found = cache.score_then_update(tokens, 1, len(tokens), features=False).prob if len(tokens) > 1 else np.zeros(0)
    assert len(found) == len(tokens) - 1
    for t in range(1, len(tokens)):
        assert found[t - 1] == pytest.approx(oracle.row(text, t)[text[t]], rel=1e-9)
        oracle.count(text, t)


@pytest.mark.parametrize("top", [65_534, 65_535, 65_536, TOP - 8])
def test_counts_at_their_top_are_the_oracles(top):
    """One n-gram counted `top` times among a few others, in the exact table and in what a reader gets."""
    base = count(6, [BOS, 2, 3, 4, 2, 3, 5, 2, 4, 4], 3).run()
    exact = base.exact_counts()
    exact[np.argmax(exact)] = top
    run = Run.from_counts(3, base.hi, base.lo, exact)
    table = build_table(run, 6, BOS)
    assert max(adjusted_of(table).values()) == top
    tokens = np.array([BOS, 2, 3, 4, 2, 3, 5, 4, 0], np.uint16)
    check_against_oracle(table, tokens, range(1, len(tokens)))
    read = decoded(table)
    check_against_oracle(read, tokens, range(1, len(tokens)))
    assert max(adjusted_of(read).values()) == pytest.approx(top, rel=1 / 16)


def test_counting_on_at_the_top_saturates_and_rows_still_sum_to_one():
    base = count(6, [BOS, 2, 3, 4, 2, 3, 5], 3).run()
    exact = base.exact_counts()
    exact[np.argmax(exact)] = TOP - 4
    cache = OnlineCache(build_table(Run.from_counts(3, base.hi, base.lo, exact), 6, BOS))
    tokens = np.array([BOS, 2, 3, 4, 2, 3, 5] * 40, np.uint16)
    cache.update(tokens, 1, len(tokens))
    pasts = np.array([[PAD, PAD], [BOS, 2], [2, 3], [3, 4], [PAD, BOS]], np.uint16)
    rows = cache.rows(pasts)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)
    assert (rows > 0).all()
    most = int(cache.state.pool[:, 1].max())
    assert TOP - 8 <= most <= TOP


def test_a_token_never_seen_keeps_a_probability_that_has_a_logarithm():
    random = np.random.default_rng(1)
    tokens = np.concatenate([[BOS], np.full(100_000, 7), random.integers(2, 9, 1000)]).astype(np.uint16)
    cache = NgramCache(65_535, 7)
    cache.count_stream(tokens)
    table = decoded(cache.table())
    test = np.array([BOS, *[7] * 8, 60_000], np.uint16)  # after the surest context of all
    prob = OnlineCache(table).score(test, len(test) - 1, len(test), features=False).prob[0]
    oracle = distribution(adjusted_of(table), pruned_of(table, 7), table.discounts.tolist(), (7,) * 6, 65_535, 7)
    assert prob == pytest.approx(oracle[60_000], rel=1e-9) and 0 < prob < 1e-9 and math.isfinite(math.log(prob))


@pytest.mark.parametrize("word", ["-inf", "-1e300", "-400"])
def test_a_probability_of_zero_is_an_error_and_never_a_score(word, tmp_path):
    path = tmp_path / "zero.arpa"
    path.write_text(f"\\data\\\nngram 1=3\n\n\\1-grams:\n-0.3\t1\n-0.3\t2\n{word}\t3\n\n\\end\\\n")
    model = arpa_reader.import_arpa(path, bos=1)
    with pytest.raises(SeedgramError, match="zero.arpa: gives probability 0 to token 3 at place 2"):
        model.score(np.array([1, 2, 3], np.uint16), 1, 3)


def test_a_document_of_a_million_tokens_counts_scores_and_comes_back():
    size, vocab = 1_000_000, 1000
    tokens = (np.random.default_rng(2).zipf(1.3, size) % (vocab - 2) + 2).astype(np.uint16)
    tokens[0] = BOS
    cache = NgramCache(vocab, 3)
    cache.count_stream(tokens)
    table = cache.table()
    pairs, times = np.unique(tokens[:-1].astype(np.int64) << 16 | tokens[1:], return_counts=True)
    grams = np.stack([table.tokens[0][table.parents[1]], table.tokens[1]], 1).astype(np.int64)
    assert np.array_equal(np.sort(grams[:, 0] << 16 | grams[:, 1]), pairs)
    assert table.raw is not None
    assert cache.positions == size - 1 and int(table.raw[1].astype(np.int64).sum()) == times.sum() == size - 1
    online = OnlineCache(table)
    whole = online.score(tokens, 1, size, features=False).prob
    parts = [online.score(tokens, a, min(a + 333_333, size), features=False).prob for a in range(1, size, 333_333)]
    assert np.array_equal(whole, np.concatenate(parts)) and np.isfinite(np.log(whole)).all()
    words = " ".join(tiny.WORDS[int(w) % len(tiny.WORDS)] for w in tokens[:300_000])
    codes = tokenizer.load(tiny.tokenizer_bytes())
    assert codes.decode(codes.encode(words).tolist()) == words


# ---- what results do not depend on ---------------------------------------------------------------------------------

NEURAL_BPB = 1e-5  # floats summed in another order
ONE = Ranks(0, 1, torch.device("cpu"))


@functools.cache
def scores(made, **options):
    return evaluate.evaluate(artifact.load(made / "artifact.bin"), [made / "tiny_val_000000.bin"], ONE, EvalOptions(**options))[0]


BPB = ("neural_bpb", "ngram_bpb", "blended_bpb")


def two_ranks(made):
    """What eval.py says as two processes."""
    out = made / "eval.json"
    flags = [ROOT / "eval.py", "--artifact", made / "artifact.bin", "--data", made, "--json", out, "--device", "cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([loaded.python(), *launcher, *map(str, flags)], env=environment(), capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def on_threads(number, made):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        return scores.__wrapped__(made)
    finally:
        torch.set_num_threads(before)


def test_scores_do_not_depend_on_threads_or_ranks(made):
    one = on_threads(1, made)
    for found in (two_ranks(made), on_threads(2, made)):
        for key in BPB:
            assert found[key] == pytest.approx(one[key], abs=NEURAL_BPB), key
    assert json.loads((made / "eval.json").read_text())["world"] == 2


def test_scores_of_the_network_do_not_depend_on_the_batch(made):
    art, tokens = artifact.load(made / "artifact.bin"), tiny.stream(seed=7, count=6)
    found = [neural_scores(art.model, tokens, 32, 0, torch.device("cpu"), batch_windows=size).nll_nats for size in (1, 3, 16, 1000)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 64, 100_000])
def test_chunks_change_neither_network_nor_cache_and_where_nothing_learns_not_the_blend(made, chunk):
    """When the gate learns is part of a blended score: the chunk is global, and said beside it."""
    base, found = scores(made), scores(made, chunk_tokens=chunk)
    assert found["neural_bpb"] == base["neural_bpb"] and found["ngram_bpb"] == base["ngram_bpb"]
    assert found["chunk_tokens"] == chunk
    still = [scores(made, chunk_tokens=size, online=False) for size in (chunk, 64)]  # nothing learns: to the bit
    assert [still[0][key] for key in BPB] == pytest.approx([still[1][key] for key in BPB], abs=1e-12)


@pytest.mark.parametrize("buffer_positions", [16, 1000, 1 << 20])
def test_counts_do_not_depend_on_how_they_were_batched(buffer_positions):
    tokens = tiny.stream(seed=9, count=20)
    cache = NgramCache(tiny.VOCAB, 5, BOS, buffer_positions)
    for row in np.array_split(tokens, 7):  # as rows with their history, on the counting thread
        start = int(row.ctypes.data - tokens.ctypes.data) // 2
        past = tokens[max(0, start - 4) : start]
        padded = np.concatenate([np.full(4 - len(past), PAD, np.uint16), past, row])
        cache.submit(padded[None] if start else np.concatenate([padded[:4], row])[None])
    cache.drain()
    whole = NgramCache(tiny.VOCAB, 5, BOS)
    whole.update(np.concatenate([np.full(4, PAD, np.uint16), tokens])[None])
    for mine, expected in zip(cache.run().columns(), whole.run().columns(), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(expected))
