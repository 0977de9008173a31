"""What a report says of a stretch is what eval.py prints of it, cut up: held against the evaluation itself and against plain loops."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.data.token_bytes import TokenBytes
from hybrid.parallel import ranks
from hybrid.reporting import groups, passages
from hybrid.reporting.stretch import BLEND, Rows, Stretch, read_stretch, rows_at
from hybrid.scoring import evaluate
from hybrid.scoring.mixture import EXPERTS
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from tests.support import tiny

OPTIONS = EvalOptions(max_tokens=700)
HERE = ranks.Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def read(made: Path) -> tuple[Stretch, list[Rows]]:
    return read_stretch(artifact.load(made / "artifact.bin"), str(made), OPTIONS, HERE, 40)


def test_the_bits_are_those_of_the_evaluation(made: Path, read: tuple[Stretch, list[Rows]]) -> None:
    art, (stretch, _) = artifact.load(made / "artifact.bin"), read
    result, scores = evaluate.evaluate(art, [made / "tiny_val_000000.bin"], HERE, OPTIONS)
    assert np.array_equal(stretch.bits[BLEND], scores.bits)
    assert stretch.bits[BLEND].sum() / stretch.total_bytes == pytest.approx(result["blended_bpb"], rel=1e-12)
    assert stretch.bits["ngram"].sum() / stretch.total_bytes == pytest.approx(result["ngram_bpb"], rel=1e-12)
    assert {name: weights.mean() for name, weights in stretch.weights.items()} == pytest.approx(result["weights"])


@pytest.mark.parametrize("options", [EvalOptions(max_tokens=200, online=False), EvalOptions(max_tokens=200, match=False, product=False)])
def test_an_expert_that_has_no_say_is_not_told_of(made: Path, options: EvalOptions) -> None:
    art = artifact.load(made / "artifact.bin")
    stretch, rows = read_stretch(art, str(made), options, HERE, 3)
    expected = {BLEND, "neural", "ngram"} | ({"product"} if options.product else set())
    assert set(stretch.bits) == expected and set(rows[0].rows) == expected
    scores = evaluate.score_tokens(art, stretch.tokens, options, HERE)
    assert np.array_equal(stretch.bits[BLEND], scores.bits)


def test_a_network_alone_is_read_too(tmp_path: Path) -> None:
    tiny.write_artifact(tmp_path / "artifact.bin", cache=False)
    tiny.write_data(tmp_path)
    stretch, rows = read_stretch(artifact.load(tmp_path / "artifact.bin"), str(tmp_path), EvalOptions(max_tokens=100), HERE, 5)
    assert set(stretch.bits) == {BLEND, "neural"} and stretch.features == {}
    assert np.allclose(stretch.bits[BLEND], stretch.bits["neural"]) and np.allclose(rows[0].rows[BLEND].sum(), 1)
    assert groups.by_order(stretch) == [] and groups.by_feature(stretch) == {}


def test_whole_distributions_sum_to_one_and_hold_the_bits(read: tuple[Stretch, list[Rows]]) -> None:
    stretch, rows = read
    assert len(rows) == 40 and [row.t for row in rows] == sorted({row.t for row in rows})
    for row in rows:
        assert set(row.rows) == {BLEND, *EXPERTS}
        for name, row_V in row.rows.items():
            assert row_V.sum() == pytest.approx(1, abs=2e-6)
            assert -math.log2(row_V[stretch.tokens[row.t]]) == pytest.approx(stretch.bits[name][row.t - 1], abs=1e-4), (name, row.t)


def test_reading_again_gives_the_same_distributions(made: Path, read: tuple[Stretch, list[Rows]]) -> None:
    stretch, rows = read
    again = rows_at(artifact.load(made / "artifact.bin"), stretch.tokens, OPTIONS, HERE, [row.t for row in reversed(rows[:5])])
    assert [row.t for row in again] == [row.t for row in rows[:5]]
    assert all(np.array_equal(a.rows[name], b.rows[name]) for a, b in zip(again, rows, strict=False) for name in a.rows)
    assert rows_at(artifact.load(made / "artifact.bin"), stretch.tokens, OPTIONS, HERE, []) == []


def test_groups_are_the_whole_cut_up(read: tuple[Stretch, list[Rows]]) -> None:
    stretch, _ = read
    whole = groups.group(stretch, slice(0, len(stretch.size_bytes)))
    begins = {"tokens": int((stretch.tokens[1:] == stretch.codec.bos).sum())}
    for found, apart in ((groups.by_order(stretch), 0), (groups.by_document(stretch), 0), (groups.by_position(stretch), begins["tokens"])):
        assert len(found) > 1
        assert sum(part["tokens"] for part in found) + apart == whole["tokens"]
        assert sum(part["bytes"] for part in found) == whole["bytes"]
        if not apart:
            assert sum(part["bits"][BLEND] for part in found) == pytest.approx(whole["bits"][BLEND])


def test_places_orders_and_documents_are_those_of_a_plain_loop(read: tuple[Stretch, list[Rows]]) -> None:
    stretch, _ = read
    counter = TokenBytes.from_model(tiny.tokenizer_bytes())
    place, document = 0, 0
    position_bits, document_bits, sizes = defaultdict[int, float](float), defaultdict[int, float](float), defaultdict[int, int](int)
    for t in range(1, len(stretch.tokens)):
        token = int(stretch.tokens[t])
        place, document = (0, document + 1) if token == stretch.codec.bos else (place + 1, document)
        bits = float(stretch.bits[BLEND][t - 1])
        if place:
            position_bits[place.bit_length()] += bits
        document_bits[document] += bits
        sizes[document] += int(counter.count(stretch.tokens[t - 1 : t + 1])[0])
    assert [found["bits"][BLEND] for found in groups.by_position(stretch)] == pytest.approx([position_bits[k] for k in sorted(position_bits)])
    documents = groups.by_document(stretch)
    assert [found["bits"][BLEND] for found in documents] == pytest.approx(list(document_bits.values()))
    assert [found["bytes"] for found in documents] == list(sizes.values())
    assert documents[1]["title"] and documents[1]["gain"] == pytest.approx(documents[1]["bpb"]["neural"] - documents[1]["bpb"][BLEND])


def test_weights_over_a_feature_are_means_over_its_bins(read: tuple[Stretch, list[Rows]]) -> None:
    stretch, _ = read
    found = groups.by_feature(stretch)
    assert len(found["neural_entropy"]) == groups.BINS
    for bins in found.values():
        assert sum(part["tokens"] for part in bins) == len(stretch.size_bytes)
        assert [part["mean"] for part in bins] == sorted(part["mean"] for part in bins)
        assert all(sum(part["weights"].values()) == pytest.approx(1) for part in bins)
    by_hand = stretch.weights["ngram"][stretch.features["matched_order"] == stretch.features["matched_order"].max()].mean()
    assert found["matched_order"][-1]["weights"]["ngram"] == pytest.approx(by_hand)


def test_a_model_that_means_what_it_says_is_calibrated_and_one_that_does_not_is_not() -> None:
    random = np.random.default_rng(0)
    tokens, honest, boastful = np.zeros(2001, np.uint16), list[Rows](), list[Rows]()
    for t in range(1, 2001):
        row_V = random.dirichlet(np.full(8, 0.3))
        tokens[t] = random.choice(8, p=row_V)
        sharp_V = row_V**3
        honest.append(Rows(t, {"m": row_V}))
        boastful.append(Rows(t, {"m": sharp_V / sharp_V.sum()}))
    good, bad = (groups.calibration(tokens, rows)["m"] for rows in (honest, boastful))
    assert good["error"] < 0.03 < 0.1 < bad["error"]
    assert sum(bin["came"] for bin in good["bins"]) == 2000 == round(sum(bin["expected"] for bin in good["bins"]))
    assert sum(bin["count"] for bin in good["bins"]) == 2000 * 8
    assert groups.calibration(tokens, []) == {}


def test_the_chosen_passages_are_the_extreme_ones(read: tuple[Stretch, list[Rows]]) -> None:
    stretch, _ = read
    chosen = passages.choose(stretch, length=20, each=2)
    every = [(a, a + 20) for first, end in groups.document_bounds(stretch) for a in range(first, end - 19, 20)]
    bpb = {bounds: stretch.bits[BLEND][slice(*bounds)].sum() / stretch.size_bytes[slice(*bounds)].sum() for bounds in every}
    assert chosen["best"][0] == min(every, key=bpb.__getitem__) and chosen["worst"][0] == max(every, key=bpb.__getitem__)
    documents = groups.document_bounds(stretch)
    for bounds in chosen.values():
        owners = [next(number for number, (first, end) in enumerate(documents) if first <= a < end) for a, _ in bounds]
        assert len(bounds) == len(set(owners)) == 2


def test_a_passage_tells_tokens_bits_and_heads(made: Path, read: tuple[Stretch, list[Rows]]) -> None:
    stretch, _ = read
    chosen = passages.choose(stretch, length=6, each=1)
    rows = rows_at(artifact.load(made / "artifact.bin"), stretch.tokens, OPTIONS, HERE, passages.positions(chosen))
    told = passages.to_json(stretch, chosen, rows)
    first, end = chosen["worst"][0]
    (passage,) = told["worst"]
    assert [told["pieces"][token["piece"]] for token in passage["tokens"]] == [passages.shown(stretch, int(v)) for v in stretch.tokens[first + 1 : end + 1]]
    assert passage["bpb"][BLEND] * passage["bytes"] == pytest.approx(stretch.bits[BLEND][first:end].sum())
    row_V = next(row for row in rows if row.t == first + 1).rows["ngram"]
    head = passage["tokens"][0]["heads"]["ngram"]
    assert [p for _, p in head] == pytest.approx(sorted(row_V, reverse=True)[: passages.HEAD], rel=0.01)
    assert told["pieces"][head[0][0]] == passages.shown(stretch, int(row_V.argmax()))
