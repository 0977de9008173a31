"""NgramModel: what the pieces below it say, under the names that KenLM's users know."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ngram
from ngram.errors import SeedgramError
from ngram.library.model import NgramModel
from ngram.library.scores import State
from ngram.online.cache import OnlineCache, histories
from ngram.storing.model_file import fit_model
from tests.support.paths import ROOT

HAS_KENLM = sys.platform != "linux" or platform.machine() == "x86_64"  # as pyproject.toml says
TEXT = "the cat sat on the mat\nthe dog sat on the log\na cat and a dog sat\n\nthe dog ate the cat on a mat\n" * 3
SENTENCES = ["the cat ate a dog", "sat", "zebras sat on the the mat", "", "a dog on on on the log and a cat"]


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return NgramModel.train([TEXT], orders=4)


def test_the_package_has_at_most_a_dozen_names_and_loads_none_of_them_before_use() -> None:
    assert len(ngram.__all__) <= 12
    assert all(getattr(ngram, name) is not None for name in ngram.__all__)
    stub = (ROOT / "ngram" / "__init__.pyi").read_text()
    assert sorted(line.rsplit(" ", 1)[1] for line in stub.splitlines() if line.startswith("from")) == sorted(ngram.__all__)
    code = "import sys, ngram; assert not {'numpy', 'numba', 'torch', 'ngram.library'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_scores_are_those_of_the_counting_model(model: NgramModel) -> None:
    assert model.table is not None
    tokens = model.encode("the cat ate a zebra", bos=True, eos=True)
    cache = OnlineCache(model.table)
    prob = cache.score(tokens, 1, len(tokens)).prob
    (unseen,) = np.flatnonzero(tokens[1:] == model.vocabulary.unknown)  # type: ignore[union-attr]
    prob[unseen] += cache.rows(histories(tokens, [unseen + 1], 4, model.vocabulary.bos))[0, model.vocabulary.bos]  # `<s>` is never predicted
    expected = np.log10(prob)
    assert np.allclose(model.full_scores("the cat ate a zebra").log10, expected, atol=1e-12)
    assert model.score(tokens[1:-1]) == pytest.approx(expected.sum())
    assert model.perplexity("the cat ate a zebra") == pytest.approx(10 ** -(expected.mean()))
    row = model.distribution("the cat ate")
    assert row[tokens[4]] == pytest.approx(10 ** expected[3]) and row.sum() == pytest.approx(1, abs=1e-12)


def test_states_score_as_whole_sentences_do(model: NgramModel) -> None:
    for sentence in SENTENCES:
        state, total = model.begin_sentence(), 0.0
        for word in [*sentence.split(), "</s>"]:
            total += model.base_score(state, word, state)
        assert total == pytest.approx(model.score(sentence), abs=1e-12)
        state, total = model.null_context(), 0.0
        for word in sentence.split():
            after = State()
            total += model.base_score(state, word, after)
            state = after
        assert total == pytest.approx(model.score(sentence, bos=False, eos=False), abs=1e-12)


def test_states_are_equal_where_they_remember_the_same(model: NgramModel) -> None:
    first, second = model.null_context(), model.null_context()
    for state, words in ((first, "zebra the cat"), (second, "on on zebra the cat")):
        for word in words.split():
            model.base_score(state, word, state)
    assert first == second and hash(first) == hash(second) and first != model.null_context()
    with pytest.raises(SeedgramError, match="never filled"):
        model.base_score(State(), "the")
    with pytest.raises(SeedgramError, match="2 tokens"):
        model.base_score(first, "the cat")


@pytest.mark.skipif(not HAS_KENLM, reason="no wheel of KenLM")
def test_kenlm_agrees_on_scores_states_and_perplexity(model: NgramModel, tmp_path: Path) -> None:
    import kenlm

    model.save(tmp_path / "m.arpa")
    ours = NgramModel.load(tmp_path / "m.arpa")
    settings = kenlm.Config()
    settings.show_progress, settings.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    theirs = kenlm.Model(str(tmp_path / "m.arpa"), settings)
    for sentence in SENTENCES:
        for bos in (True, False):
            for eos in (True, False):
                assert ours.score(sentence, bos, eos) == pytest.approx(theirs.score(sentence, bos=bos, eos=eos), abs=2e-6)
        assert ours.perplexity(sentence) == pytest.approx(theirs.perplexity(sentence), rel=1e-5)
        for mine, other in zip(ours.full_scores(sentence), theirs.full_scores(sentence), strict=True):
            assert mine[0] == pytest.approx(other[0], abs=1e-6) and mine[1:] == other[1:]
        state, their_state = ours.begin_sentence(), kenlm.State()
        theirs.BeginSentenceWrite(their_state)
        for word in sentence.split():
            after, their_after = State(), kenlm.State()
            assert ours.base_score(state, word, after) == pytest.approx(theirs.BaseScore(their_state, word, their_after), abs=1e-6)
            state, their_state = after, their_after


def test_a_saved_model_scores_as_before_and_keeps_its_budget(tmp_path: Path) -> None:
    whole, small = NgramModel.train([TEXT], orders=4), NgramModel.train([TEXT], orders=(2, 4), max_bytes=420)
    for name, one in (("whole", whole), ("small", small)):
        one.save(tmp_path / name)
        assert [NgramModel.load(tmp_path / name).score(sentence) for sentence in SENTENCES] == [one.score(s) for s in SENTENCES]
    assert (tmp_path / "small").stat().st_size <= 420 < (tmp_path / "whole").stat().st_size
    assert whole.table is not None and fit_model(whole.table, whole.vocabulary, None)[1] == (tmp_path / "whole").read_bytes()


def test_token_arrays_and_their_text_are_one() -> None:
    documents: list[Any] = [np.array([7, 5, 9, 5, 9, 70_000]), [5, 9, 70_000, 5]]
    model = NgramModel.train(documents, tokenizer=100_000, bos=7, orders=3)
    assert (model.vocab_size, model.eos) == (100_000, None)
    assert model.score("5 9") == model.score(np.array([7, 5, 9])) == model.score([5, 9], eos=False)
    assert int(model.distribution([5]).argmax()) == 9
    with pytest.raises(SeedgramError, match="no text"):
        model.score("five")


def test_a_model_learns_only_what_it_has_scored(model: NgramModel) -> None:
    online = model.online()
    before = online.score("a zebra ate")
    static = model.full_scores("a zebra ate")
    assert np.allclose(before[~static.unknown], static.log10[~static.unknown])
    learned = online.score_then_learn("a zebra ate")
    assert learned[0] == before[0] and online.score("a zebra ate").sum() > before.sum()
    online.learn("a zebra ate")
    assert online.distribution("a zebra").sum() == pytest.approx(1)
    assert np.array_equal(model.full_scores("a zebra ate").log10, static.log10)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: NgramModel.train([], orders=3), "nothing to count"),
        (lambda: NgramModel.train([TEXT], orders=9), "outside 1…8"),
        (lambda: NgramModel.train([[1, 2]], tokenizer="words"), "no words"),
        (lambda: NgramModel.train([[1, 2]], tokenizer=1 << 19), "vocabulary ≤ 262144"),
        (lambda: NgramModel.train([TEXT], orders=3, min_count=[1, 3, 2]), "never fall"),
        (lambda: NgramModel.load("no such file"), "cannot read"),
    ],
)
def test_what_cannot_be_done_is_one_line(call, said: str) -> None:
    with pytest.raises(SeedgramError, match=said):
        call()


def test_an_arpa_model_has_no_counts_to_learn_or_save(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.arpa")
    arpa = NgramModel.load(tmp_path / "m.arpa")
    for call in (arpa.online, lambda: arpa.save(tmp_path / "x")):
        with pytest.raises(SeedgramError, match="ARPA file"):
            call()
