"""One predictor: however calls cut the stream, and whether the text is known or not, a target gets the same bits."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.coding import stream_coder
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead, predictor_of, seeded
from hybrid.scoring.exact import exact
from hybrid.scoring.mixture import GATE_FEATURES, Mixture, load_gate
from hybrid.scoring.options import AdaptConfig, EvalOptions, add_option_flags, options_of
from hybrid.scoring.printed import flags_of
from hybrid.scoring.scores import CheckError
from hybrid.scoring.stepwise import network_stepwise, predictor_stepwise
from hybrid.settings.config import ConfigError
from hybrid.storing import artifact
from ngram.blending.gate import Gate
from ngram.errors import FileFormatError, LeakageError
from ngram.online.stream_cache import StreamCache
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst
from ngram.terminal import OneLineParser
from tests.support import tiny

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "offline": {"online": False},
    "no product": {"product": False},
    "no match, fixed gate": {"match": False, "gate_learns": False},
    "ttt": {"adapt": AdaptConfig(rate=0.01)},
    "stride": {"stride": 8},
    "ttt and stride": {"adapt": AdaptConfig(16, 0.01), "stride": 8},
    "by chunk": {"cache_by_chunk": True},
    "blocks that cut chunks": {"read_tokens": 20, "chunk_tokens": 50},
}


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path)
    return artifact.load(path)


@pytest.fixture(scope="module")
def text():
    return tiny.stream(seed=2, count=10)[:150]


def printed_bits(art, text, **options):
    return evaluate.score_tokens(art, text, EvalOptions(exact=True, **options), ALONE).bits


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_the_printed_bits_are_the_audited_and_the_coded_ones(art, text, options):
    """To the last bit: eval.py's path over whole chunks, a reader who does not know the text (audit and decoder), and the coder."""
    printed = printed_bits(art, text, **options)
    told = EvalOptions(exact=True, **options)
    shown, rows = np.zeros(len(text), np.uint16), []
    shown[0] = text[0]
    with exact():
        part = predictor_stepwise(art, network_stepwise(art, len(text), told, ALONE), told)
        order = ScoreFirst(shown, {"blend": part}, frozen=not told.online)
        for t in range(1, len(text)):
            rows.append(row_at(order, t)["blend"])
            shown[t] = text[t]
            (order.score if order.frozen else order.score_then_update)(t, t + 1)
        part.close()
    assert np.array_equal(-np.log2([row[token] for row, token in zip(rows, text[1:], strict=True)]), printed)
    assert np.abs(np.sum(rows, 1) - 1).max() < 2e-6
    _, coded = stream_coder.encode(art, "0" * 64, text, stream_coder.Settings(len(text), stream_coder.IN_ORDER, "text", EvalOptions(**options)), CPU, b"")
    assert np.array_equal(coded.each, printed)


@given(st.lists(st.integers(1, 149), max_size=12), st.sampled_from(["default", "by chunk", "blocks that cut chunks", "no product"]))
@settings(deadline=None, max_examples=15)
def test_where_calls_cut_the_stream_changes_no_bit(art, text, cuts, way):
    options = EvalOptions(exact=True, **WAYS[way])
    with exact():
        part = predictor_of(art, network_ahead(art, text, options, ALONE), options, watch=cuts)
        order, found = ScoreFirst(text, {"blend": part}), []
        edges = sorted({1, *cuts, len(text)})
        for start, stop in pairwise(edges):
            found.append(order.score_then_update(start, stop)["blend"].mixed)
        part.close()
    assert np.array_equal(-np.log2(np.concatenate(found)), printed_bits(art, text, **WAYS[way]))
    assert part.checked == len(set(cuts))


def test_one_target_of_every_thousand_is_checked_and_which_depends_on_the_text(text):
    tokens = np.resize(text, 5000)
    places = evaluate.watched(tokens)
    assert [(place - 1) // evaluate.CHECK_EVERY for place in places] == [0, 1, 2, 3, 4]
    assert places == evaluate.watched(tokens) != evaluate.watched(tokens[::-1])
    assert max(evaluate.watched(text[:2])) == 1


def test_eval_says_which_position_is_not_what_its_distribution_says(art, text, monkeypatch):
    assert evaluate.score_tokens(art, text, EvalOptions(), ALONE).checked == 1
    place = evaluate.watched(text)[0]
    honest = StreamCache.score_then_update

    def learned_first(self, tokens, start, stop, **more):
        honest(self, tokens, start, stop)
        return self.score(tokens, start, stop, **more)

    monkeypatch.setattr(StreamCache, "score_then_update", learned_first)
    with pytest.raises(CheckError, match=f"position {place}: .*; the score is not printed"):
        evaluate.score_tokens(art, text, EvalOptions(), ALONE)


def test_a_row_that_does_not_sum_to_one_is_an_error(art, text, monkeypatch):
    honest = Mixture.mixed_rows
    monkeypatch.setattr(Mixture, "mixed_rows", lambda *a: 1.00001 * honest(*a))
    with pytest.raises(CheckError, match=r"position \d+: the distribution sums to 1\.0000"):
        evaluate.score_tokens(art, text, EvalOptions(), ALONE)


@pytest.mark.parametrize("way", ["default", "by chunk", "blocks that cut chunks", "no product", "ttt and stride", "offline"])
def test_a_watched_row_is_the_readers_and_knows_neither_its_target_nor_what_follows(art, text, way, monkeypatch):
    """To the last bit, as a reader gets it who does not have the text; whatever the target is, and whoever comes behind it."""
    options, place, honest = EvalOptions(exact=True, **WAYS[way]), 70, Mixture.mixed_rows
    for changed in range(2):
        tokens, seen = text.copy(), list[np.ndarray]()
        tokens[place:] = tokens[place:][::-1] if changed else tokens[place:]
        with exact(), monkeypatch.context() as patch:
            patch.setattr(Mixture, "mixed_rows", lambda *given, seen=seen: seen.append(honest(*given)) or seen[-1])
            part = predictor_of(art, network_ahead(art, tokens, options, ALONE), options, watch=[place])
            evaluate.run(ScoreFirst(tokens, {"blend": part}, frozen=not options.online), "blend", options.chunk_tokens or 64)
            part.close()
        with exact():
            reader = predictor_stepwise(art, network_stepwise(art, len(text), options, ALONE), options)
            order = ScoreFirst(tokens, {"blend": reader}, frozen=not options.online)
            for t in range(1, place):
                (order.score if order.frozen else order.score_then_update)(t, t + 1)
            expected = row_at(order, place)["blend"]
            reader.close()
        assert len(seen) == part.checked == 1
        assert np.array_equal(seen[0][0], expected)


@pytest.mark.parametrize("together", [1, 2, 3])
@pytest.mark.parametrize("way", ["default", "blocks that cut chunks", "offline", "no product", "by chunk"])
def test_two_caches_in_turns_and_blocks_together_are_one_and_both_know_all_when_a_call_returns(art, text, way, together, monkeypatch):
    options, count = EvalOptions(exact=True, **WAYS[way]), StreamCache.update
    monkeypatch.setattr(StreamCache, "update", lambda *given: (time.sleep(0.02), count(*given))[1])  # as late as can be
    with exact():
        part = predictor_of(art, network_ahead(art, text, options, ALONE), options, seeding=seeded(art, 2), watch=[3, 70, 71, 140], together=together)
        order, found = ScoreFirst(text, {"blend": part}, frozen=not options.online), []
        for start, stop in ((1, 100), (100, len(text))):
            found.append((order.score if order.frozen else order.score_then_update)(start, stop)["blend"].mixed)
            first, second = part._caches
            assert first.digest() == second.digest() and first is not second
        part.close()
    assert np.array_equal(-np.log2(np.concatenate(found)), printed_bits(art, text, **WAYS[way]))
    assert part.checked == 4


def test_a_row_is_asked_for_in_order_and_before_the_score(art, text):
    options = EvalOptions()
    part = predictor_of(art, network_ahead(art, text, options, ALONE), options)
    order = ScoreFirst(text, {"blend": part})
    row_at(order, 1)
    order.score_then_update(1, 5)
    for t in (4, 6):
        with pytest.raises(LeakageError, match=f"positions {t}…{t}"):
            row_at(order, t)
    part.close()


@pytest.mark.parametrize("experts", [2, 7])
def test_a_gate_for_another_number_of_experts_is_refused_in_one_line(experts):
    data = Gate.constant(GATE_FEATURES, [1 / experts] * experts).to_bytes()
    with pytest.raises(FileFormatError, match=f"gate: gate of {experts} experts, this program has 4; pack the artifact again"):
        load_gate(data, learning=True)


@pytest.mark.parametrize("options", [*WAYS.values(), {"protocol": "challenge", "max_tokens": 77, "exact": True, "stride": 64}])
def test_the_flags_of_options_say_these_options(options):
    parser = OneLineParser()
    add_option_flags(parser)
    assert options_of(parser.parse_args(flags_of(EvalOptions(**options)))) == EvalOptions(**options)


@pytest.mark.parametrize(("name", "value"), [("chunk_tokens", -5), ("read_tokens", 0), ("read_tokens", 65537), ("max_tokens", 1), ("max_tokens", -3)])
def test_an_option_out_of_range_is_refused_by_its_flag(name, value):
    with pytest.raises(ConfigError, match=f"EvalOptions.{name}: {value}"):
        EvalOptions(**{name: value})
