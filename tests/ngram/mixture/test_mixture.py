"""The mixture is a distribution, has not seen what it scores, and is what its description says."""


import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ngram.errors import LeakageError, SeedgramError
from ngram.mixture import context_sets, successors, walk
from ngram.mixture.evidence import TOP_BIT, gather_path, kneser_ney, level, squash
from ngram.mixture.huffman import huffman_tree
from ngram.mixture.mixture import FADE_AT, FADE_EXTRAS, FEATURES, Mixture
from ngram.online.cache import OnlineCache
from ngram.score_first import ScoreFirst
from tests.support.counting import BOS, adjusted_of, count
from tests.support.kernels import SLOW, examples
from tests.support.kn_oracle import PAD
from tests.support.mixture_oracle import MixtureOracle

pytestmark = pytest.mark.kernels

SIZE = 20 if SLOW else 70  # targets of a test stream
EXAMPLES = examples(8, 2)
seeds = st.integers(0, 10**6)


def text(vocab, size, seed, bos_share=0.03):
    """Tokens with repeated phrases, so that long contexts and matches come up."""
    rng = np.random.default_rng(seed)
    phrases = [rng.integers(0, vocab, rng.integers(1, 16)) for _ in range(6)]
    parts = [BOS]
    while len(parts) < size + 1:
        parts += [BOS] if rng.random() < bos_share else phrases[rng.integers(6)].tolist()
        if rng.random() < 0.3:
            parts[-1] = int(rng.integers(0, vocab))
    return np.array(parts[: size + 1], np.uint16)


def mixture(vocab, seed, order=4, min_raw=None, size=SIZE):
    classes = np.random.default_rng(seed).integers(0, 3, vocab).astype(np.uint8)
    return Mixture(count(vocab, text(vocab, size, seed + 1), order).table(min_raw), classes)


def vocabularies():
    return st.sampled_from([2, 3, 11] if SLOW else [2, 3, 11, 40])


@given(seeds, vocabularies(), st.integers(1, 7), st.integers(1, 2))
@settings(EXAMPLES, max_examples=2 if SLOW else 6, phases=(Phase.explicit, Phase.generate))  # shrinking the oracle takes minutes
def test_it_is_what_the_oracle_says(seed, vocab, order, least):
    min_raw = [1] + [least] * (order - 1)
    table = count(vocab, text(vocab, SIZE, seed + 1), order).table(min_raw)
    classes = np.random.default_rng(seed).integers(0, 3, vocab).astype(np.uint8)
    model = Mixture(table, classes)
    grams, pruned = [()], {}
    for n in range(order):
        pruned.update({g: int(m) for g, m in zip(grams, table.pruned[n], strict=True) if m})
        grams = [(*grams[p], int(w)) for p, w in zip(table.parents[n], table.tokens[n], strict=True)]
    oracle = MixtureOracle(model, adjusted_of(table), pruned, [*FADE_AT[:order], *[FADE_EXTRAS] * context_sets.EXTRAS])
    tokens = text(vocab, SIZE, seed)
    scores = model.score_then_update(tokens, 1, len(tokens))
    for t in range(1, len(tokens)):
        p, made = oracle.score(tokens, t)
        assert scores.prob[t - 1] == pytest.approx(p, rel=1e-7), t
        oracle.learn(*made)


@given(seeds, vocabularies(), st.integers(1, 5))
@EXAMPLES
def test_rows_sum_to_one_and_hold_the_scores_of_targets_to_the_last_bit(seed, vocab, order):
    model, tokens = mixture(vocab, seed, order), text(vocab, SIZE, seed)
    half = SIZE // 2
    model.score_then_update(tokens, 1, half)
    before = model.digest()
    where = np.arange(half, min(half + 8, len(tokens)))
    rows = model.rows(tokens, where)
    assert np.abs(rows.sum(axis=1) - 1).max() <= 1e-12
    assert (rows > 0).all()
    assert np.array_equal(model.score(tokens, half, int(where[-1]) + 1).prob, rows[np.arange(len(where)), tokens[where]])
    assert model.digest() == before


@given(seeds, st.sampled_from([2, 5, 11]), st.integers(2, 5))
@EXAMPLES
def test_whatever_token_had_come_the_fused_loop_would_have_given_it_its_share(seed, vocab, order):
    """Scored in one call with all tokens before it: a trace of its own count, or of a stale one, would break the sum."""
    tokens = text(vocab, SIZE // 4, seed)
    total = 0.0
    for token in range(vocab):
        tokens[-1] = token
        total += mixture(vocab, seed, order, size=SIZE // 4).score_then_update(tokens, 1, len(tokens)).prob[-1]
    assert total == pytest.approx(1.0, abs=1e-12)


@given(seeds, vocabularies(), st.integers(1, 7))
@EXAMPLES
def test_the_fused_loop_is_the_loop_of_score_and_update(seed, vocab, order):
    fused, slow = mixture(vocab, seed, order), mixture(vocab, seed, order)
    tokens = text(vocab, SIZE, seed)
    scores = fused.score_then_update(tokens, 1, len(tokens))
    loop = ScoreFirst(tokens, {"mix": slow}, paranoid=True)
    for start, stop in loop.chunks(1):
        one = loop.score(start, stop)["mix"]
        assert one.prob[0] == scores.prob[start - 1]
        assert np.array_equal(one.features[0], scores.features[start - 1])
        loop.update(start, stop)
    assert fused.digest() == slow.digest()


def test_how_a_stream_is_cut_into_calls_does_not_matter():
    tokens = text(30, SIZE, 3)
    whole, cut = mixture(30, 3), mixture(30, 3)
    expected = whole.score_then_update(tokens, 1, len(tokens)).prob
    found = [cut.score_then_update(tokens, at, min(at + 7, len(tokens))).prob for at in range(1, len(tokens), 7)]
    assert np.array_equal(np.concatenate(found), expected)
    assert cut.digest() == whole.digest()


def test_a_mixture_that_learns_before_it_scores_is_caught():
    class Peeking(Mixture):
        def score(self, tokens, start, stop, features=True):
            self.update(tokens, start, stop)
            return super().score(tokens, start, stop, features)

    tokens = text(9, SIZE, 5)
    honest, peeking = mixture(9, 5), Peeking(count(9, text(9, SIZE, 6), 4).table())
    assert peeking.score(tokens, 1, len(tokens)).prob.mean() > honest.score(tokens, 1, len(tokens)).prob.mean()
    with pytest.raises(LeakageError, match="scoring changed the state"):
        ScoreFirst(tokens, {"mix": Peeking(count(9, text(9, SIZE, 6), 4).table())}, paranoid=True).score(1, 9)


@given(seeds)
@EXAMPLES
def test_the_future_and_other_documents_do_not_enter_a_score(seed):
    model, tokens = mixture(11, seed), text(11, SIZE, seed, bos_share=0)
    model.update(tokens, 1, len(tokens))
    fresh = text(11, 40, seed + 2, bos_share=0)
    fresh[10] = BOS
    scores = model.score(fresh, 11, 20)
    other = fresh.copy()
    other[20:], other[:10] = 0, 7  # after the chunk, and before the BOS of its document
    again = model.score(other, 11, 20)
    assert np.array_equal(scores.prob, again.prob)
    assert np.array_equal(scores.features, again.features)


@given(seeds, vocabularies(), st.integers(1, 7), st.integers(1, 2))
@EXAMPLES
def test_its_kneser_ney_evidence_multiplies_to_the_online_cache(seed, vocab, order, least):
    table = count(vocab, text(vocab, SIZE, seed + 1), order).table([1] + [least] * (order - 1))
    model, cache, tokens = Mixture(table), OnlineCache(table), text(vocab, SIZE // 2, seed)
    for t in range(1, len(tokens)):
        state, scratch, target = model.state, model._scratch, int(tokens[t])  # the state is replaced where it grows
        walk.look(state, scratch, tokens, t)
        depth, p = int(state.tree.length[target]), 1.0
        gather_path(state.lists, scratch.known.slots, state.tree.code, target, depth, scratch.sums, scratch.known.totals, scratch.places)
        for d in range(depth):
            x = np.zeros(order)
            node = state.tree.path[target, d]
            kneser_ney(state.lists, scratch.known.slots, state.discounts, scratch.sums[d], scratch.known.totals, state.tree.leaves[node], x)
            p *= squash(x[-1] if int(state.tree.code[target]) >> (TOP_BIT - d) & 1 else -x[-1])
        assert cache.score_then_update(tokens, t, t + 1).prob[0] == pytest.approx(p, rel=1e-4)  # evidence is cut at 1e-6
        model.update(tokens, t, t + 1)


def test_it_beats_the_cache_on_text_that_repeats_itself():
    tokens = text(40, 300 if SLOW else 3000, 8)
    trained = count(40, text(40, 200, 9), 5).table()
    mixed = Mixture(trained).score_then_update(tokens, 1, len(tokens)).prob
    plain = OnlineCache(trained).score_then_update(tokens, 1, len(tokens)).prob
    assert np.log(mixed).mean() > np.log(plain).mean()


def test_room_grows_without_a_trace_in_the_scores():
    tokens = text(30, SIZE, 4)
    tight, wide = mixture(30, 4), mixture(30, 4)
    lists = wide.state.lists
    bigger = successors.empty(8 * len(lists.keys), 8 * len(lists.tokens), lists.tokens.dtype)
    successors.rehash(lists, bigger)
    for name in ("tokens", "count", "recent"):
        getattr(bigger, name)[: len(lists.tokens)] = getattr(lists, name)
    bigger.fill[:] = lists.fill
    wide.state = wide.state._replace(lists=bigger)
    room = int(lists.fill[1]) + (4 + context_sets.EXTRAS) * 64  # for one more token, not for two
    cut = tight.state.lists._replace(**{name: getattr(tight.state.lists, name)[:room] for name in ("tokens", "count", "recent")})
    tight.state = tight.state._replace(lists=cut)
    assert np.array_equal(tight.score_then_update(tokens, 1, len(tokens)).prob, wide.score_then_update(tokens, 1, len(tokens)).prob)
    assert len(tight.state.lists.tokens) > room


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=70))
@settings(deadline=None)
def test_the_tree_is_a_prefix_code_near_the_entropy(weights):
    tree = huffman_tree(weights)
    words = [format(int(c), "032b")[: int(n)] for c, n in zip(tree.code, tree.length, strict=True)]
    assert len(set(words)) == len(weights)
    assert sum(2.0 ** -len(word) for word in words) == 1.0
    for a, word in enumerate(words):
        for b in range(len(word)):
            below = [other for other in words if other.startswith(word[:b])]
            shares = [sum(other[b] == side for other in below) / len(weights) for side in "01"]
            assert np.allclose(tree.leaves[tree.path[a, b]], shares)
    share = np.maximum(weights, max(1, sum(weights) >> 16)) / np.maximum(weights, max(1, sum(weights) >> 16)).sum()
    entropy, depth = -(share * np.log2(share)).sum(), (share * tree.length).sum()
    assert entropy - 1e-9 <= depth < entropy + 1


def test_levels_rise_with_the_sum():
    levels = [level(value) for value in range(20_000)]
    assert levels == sorted(levels)
    assert (levels[0], levels[1], levels[16], levels[-1]) == (0, 1, 2, 13)


def test_word_classes_know_beginnings_and_punctuation():
    assert context_sets.word_classes(["▁the", "re", "'s", ",", "\n", "<0x0A>"]).tolist() == [1, 0, 0, 2, 1, 2]


def test_bad_input_is_named():
    model = mixture(5, 1)
    with pytest.raises(SeedgramError, match="outside the vocabulary"):
        model.score(np.array([1, 9], np.uint16), 1, 2)
    with pytest.raises(SeedgramError, match="token 0 is given"):
        model.score(np.array([1, 2], np.uint16), 0, 1)
    with pytest.raises(SeedgramError, match="word classes"):
        Mixture(count(5, text(5, 30, 1), 2).table(), np.zeros(4, np.uint8))
    assert model.score(np.array([PAD - 1, BOS, 2], np.uint16)[1:], 1, 2).features.shape == (1, len(FEATURES))
