"""Words: a vocabulary from counts, unknown ones as <unk>, and the files of KenLM's users as they are."""

import platform
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ngram.arpa.from_table import static_model
from ngram.arpa.read import read_words
from ngram.arpa.write import export_arpa
from ngram.counting.build_table import build_table
from ngram.counting.documents import count_documents
from ngram.errors import DataError, FileFormatError, SeedgramError
from ngram.online.cache import OnlineCache
from ngram.storing.model_file import Counts, fit_model, model_bytes, read_counts, read_model, write_counts
from ngram.storing.table_codec import encode
from ngram.table import NgramTable
from ngram.words import WordVocabulary
from tests.support.kn_oracle import adjusted_counts, discounts_of, distribution, raw_counts

HAS_KENLM = sys.platform != "linux" or platform.machine() == "x86_64"  # as pyproject.toml says
TEXT = "the cat sat on the mat\nthe dog sat on the log\n\n  a cat and\ta dog  sat\nnaïve cats \u3000 sat on the mat\n" * 3
NEW = "the dog and an aardvark sat on the mat\n<s> a cat </s>\n\nnaïve <unk>\n"


def table_of_words(text: str, order: int, most: int = 1000) -> tuple[NgramTable, WordVocabulary]:
    words = WordVocabulary.build([text], most)
    return build_table(count_documents(words.encode_documents([text]), words, order), words.vocab_size, words.bos), words


def test_the_most_frequent_words_get_ids_and_the_rest_is_unknown() -> None:
    words = WordVocabulary.build([TEXT, "mat"], 8)
    assert words.words == [b"<unk>", b"<s>", b"the", b"sat", b"on", b"mat", b"a", b"</s>"]
    counts = Counter(TEXT.split())
    assert counts["the"] == max(counts.values())
    assert words.encode("a cat on \t the Mat").tolist() == [6, 0, 4, 2, 0]
    assert words.encode_lines("the\n\n \ncat on").tolist() == [1, 2, 7, 1, 0, 4, 7]


def test_markers_in_a_text_are_unknown_words_and_only_ascii_white_space_separates() -> None:
    words = WordVocabulary.build([TEXT])
    assert words.encode("<s> </s> <unk>").tolist() == [0, 0, 0]
    assert "\u3000".encode() in words.words and words.encode("naïve\u3000cats").tolist() == [0]
    assert words.encode("\ud800").tolist() == [0]  # half a surrogate pair is a word like any other


@pytest.mark.parametrize("words", [[b"a", b"a"], [b""], [b"a b"]])
def test_words_that_no_text_can_hold_are_refused(words: list[bytes]) -> None:
    with pytest.raises(FileFormatError):
        WordVocabulary(words)


def test_a_vocabulary_without_unk_names_the_word_that_it_lacks() -> None:
    words = WordVocabulary([b"<s>", b"</s>", b"a"])
    assert words.encode_lines("a a").tolist() == [0, 2, 2, 1]
    with pytest.raises(DataError, match="'b'"):
        words.encode_lines("a b")


@pytest.mark.parametrize("order", [1, 2, 4])
def test_counts_and_probabilities_of_sentences_are_those_of_the_definition(order: int) -> None:
    """Sentence by sentence, <s> given and never counted."""
    table, words = table_of_words(TEXT, order, 9)
    raw, left = Counter[tuple[int, ...]](), dict[tuple[int, ...], set[int]]()
    for line in TEXT.splitlines():
        counts, neighbours = raw_counts(words.encode_lines(line).tolist(), order, words.bos)
        raw.update(counts)
        for gram, found in neighbours.items():
            left[gram] = left.get(gram, set()) | found
    adjusted = adjusted_counts(raw, left, order, words.bos)
    assert table.exact_counts(1)[words.bos] == 0
    cache = OnlineCache(table)
    tokens = words.encode_lines(NEW)
    for t in np.flatnonzero(tokens != words.bos):
        history = tokens[:t].tolist()[::-1]
        history = history[: history.index(words.bos) + 1][: order - 1][::-1]
        expected = distribution(adjusted, {}, discounts_of(adjusted, order), tuple(history), words.vocab_size, order)
        assert cache.score(tokens, int(t), int(t) + 1).prob[0] == pytest.approx(expected[tokens[t]], rel=1e-12)
        assert sum(expected) == pytest.approx(1)


def test_a_model_and_its_counts_come_back_with_their_words(tmp_path: Path) -> None:
    words = WordVocabulary.build([TEXT])
    run = count_documents(words.encode_documents([TEXT]), words, 3)
    write_counts(tmp_path / "c", Counts(run, words, run.total()))
    assert read_counts(tmp_path / "c").tokenizer.model == words.model
    table, data = fit_model(build_table(run, words.vocab_size, words.bos), words, None)
    (tmp_path / "m").write_bytes(data)
    read = read_model(tmp_path / "m")
    assert isinstance(read.tokenizer, WordVocabulary) and read.tokenizer.words == words.words
    assert read.table.sizes() == table.sizes()


def test_a_vocabulary_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    table, words = table_of_words(TEXT, 2)
    data = model_bytes(encode(table), words)
    assert data.count(b'"vocabulary":"words"') == 1
    (tmp_path / "m").write_bytes(data.replace(b'"words"', b'"names"'))
    with pytest.raises(SeedgramError):
        read_model(tmp_path / "m")


@pytest.mark.parametrize("order", [1, 3, 6])
def test_an_arpa_file_of_words_scores_as_the_model_it_came_from(tmp_path: Path, order: int) -> None:
    table, words = table_of_words(TEXT, order)
    export_arpa(table, tmp_path / "m.arpa", words.words)
    model, read = read_words(tmp_path / "m.arpa")
    assert read.words == words.words
    tokens = read.encode_lines(NEW)
    wanted = tokens[1:] != read.bos
    read_p = model.log10_scores(tokens, 1, len(tokens))[0]
    assert np.allclose(read_p[wanted], static_model(table, words.words).log10_scores(tokens, 1, len(tokens))[0][wanted], atol=2e-6)
    known = wanted & (tokens[1:] != read.unknown)
    assert np.allclose(read_p[known], np.log10(OnlineCache(table).score(tokens, 1, len(tokens)).prob)[known], atol=2e-6)
    assert model.check_sums(tokens)[1] < 1 + 1e-5


@pytest.mark.parametrize("types", [12, 1000])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_rows_of_an_exported_file_of_words_sum_to_one(tmp_path: Path, order: int, types: int) -> None:
    """`<s>` is never predicted, so its share of the uniform distribution is `<unk>`'s; known words keep what they had."""
    table, words = table_of_words(TEXT, order, types)
    export_arpa(table, tmp_path / "m.arpa", words.words)
    model, read = read_words(tmp_path / "m.arpa")
    histories = [read.encode(text) for text in ("", "the", "sat on", "the dog", "aardvark the", "on the mat and")]
    histories += [read.encode_lines(text)[:-1] for text in ("the cat", "the dog saw a")]
    rows = np.full((len(histories), max(order - 1, 0)), 65535, np.uint16)
    for row, history in zip(rows, histories, strict=True):
        part = history[len(history) - min(len(history), order - 1) :]
        row[order - 1 - len(part) :] = part
    assert model.row_sums(rows) == pytest.approx(1, abs=1e-6)
    exact = static_model(table, words.words)
    assert exact.row_sums(rows) == pytest.approx(1, abs=1e-12)
    before, after = OnlineCache(table).rows(rows), exact.rows(rows)
    known = np.array([word not in (b"<unk>", b"<s>") for word in words.words])
    np.testing.assert_allclose(after[:, known], before[:, known], rtol=1e-12)
    np.testing.assert_allclose(after[:, words.unknown], before[:, words.unknown] + before[:, words.bos], rtol=1e-12)
    if HAS_KENLM and order > 1:
        assert [kenlm_sum(tmp_path / "m.arpa", read, history) for history in histories] == pytest.approx([1] * len(histories), abs=2e-6)


def kenlm_sum(path: Path, words: WordVocabulary, history: np.ndarray) -> float:
    """Sum of KenLM's probabilities of every word after a history, `<s>` left out, any unknown word for `<unk>`."""
    import kenlm

    settings = kenlm.Config()
    settings.show_progress, settings.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    model, state, after = kenlm.Model(str(path), settings), kenlm.State(), kenlm.State()
    model.NullContextWrite(state)
    for token in history.tolist():
        if token == words.bos:
            model.BeginSentenceWrite(state)
        else:
            model.BaseScore(state, words.words[token].decode(), after)
            state, after = after, state
    return float(sum(10 ** model.BaseScore(state, word.decode(), after) for word in words.words if word != b"<s>"))


@pytest.mark.skipif(not HAS_KENLM, reason="no wheel of KenLM")
@pytest.mark.parametrize("order", [2, 4, 6])
def test_kenlm_says_of_a_file_of_words_what_we_say(tmp_path: Path, order: int) -> None:
    import kenlm

    table, words = table_of_words(TEXT, order, 12)
    export_arpa(table, tmp_path / "m.arpa", words.words)
    settings = kenlm.Config()
    settings.show_progress, settings.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    theirs = kenlm.Model(str(tmp_path / "m.arpa"), settings)
    model, read = read_words(tmp_path / "m.arpa")
    for line in ("the dog and an aardvark sat on the mat", "sat", "the the the a cat and a dog sat on", "naïve \u3000 cats"):
        tokens = read.encode_lines(line)
        log10_p, lengths = model.log10_scores(tokens, 1, len(tokens))
        expected = list(theirs.full_scores(line))
        assert np.allclose(log10_p, [p for p, _, _ in expected], atol=1e-6)
        assert lengths.tolist() == [n for _, n, _ in expected]
        assert (tokens[1:] == read.unknown).tolist() == [unknown for _, _, unknown in expected]


def test_an_arpa_file_of_token_ids_is_not_taken_for_words(tmp_path: Path) -> None:
    table, _ = table_of_words(TEXT, 2)
    export_arpa(table, tmp_path / "m.arpa")
    with pytest.raises(FileFormatError, match="token ids; give the tokenizer"):
        read_words(tmp_path / "m.arpa")
