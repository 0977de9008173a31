"""Compiled look-ups of words give what dictionaries and bytes.split give."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.errors import DataError
from ngram.word_table import find_word, word_table
from ngram.words import WordVocabulary

pytestmark = pytest.mark.kernels

LONG = [b"longer_than_eight_a", b"longer_than_eight_b", b"exactly8", b"exactly8_", b"exactly8_and_8_more", b"exactly8_and_8_more_"]
LISTED = [*LONG, b"<unk>", b"<s>", b"a", b"ab", b"abc", b"b", b"ba", "é".encode(), b"\x7f", b"\x00", b"</s>"]
PARTS = st.sampled_from([*LISTED, b" ", b"\t", b"\n", b"\r\n", b"\x0b", b"\x0c", b"\x1c", b"zz", b"\xff", "\u2028".encode()])


def plainly(vocabulary: WordVocabulary, text: bytes) -> list[int]:
    """Each line that is not blank between the two markers, by the definition."""
    ids = {word: i for i, word in enumerate(vocabulary.words) if word not in (b"<unk>", b"<s>", b"</s>")}
    found = []
    for line in text.split(b"\n"):
        if words := line.split():
            found += [vocabulary.bos, *(ids.get(word, vocabulary.unknown) for word in words), vocabulary.eos]
    return found


@given(st.lists(PARTS, max_size=40).map(b"".join))
def test_texts_are_encoded_as_by_the_definition(text: bytes) -> None:
    vocabulary = WordVocabulary(LISTED)
    expected = plainly(vocabulary, text)
    assert vocabulary.encode_lines(text).tolist() == expected
    marks = (vocabulary.bos, vocabulary.eos)
    assert vocabulary.encode(text).tolist() == [token for token in expected if token not in marks]


def test_a_text_of_single_letters_fits() -> None:
    """As many tokens as a text of its length can have: each word a line."""
    assert len(WordVocabulary(LISTED).encode_lines(b"a\n" * 50 + b"b")) == 3 * 51


def test_words_that_begin_alike_are_told_apart() -> None:
    words = {word: 10 * i for i, word in enumerate(LISTED)}
    table = word_table(words)
    for i, word in enumerate(LISTED):
        data = np.frombuffer(b"  " + word + b"c", np.uint8)
        assert find_word(table, data, 2, 2 + len(word)) == i
        longer = LISTED.index(word + b"c") if word + b"c" in LISTED else -1
        assert find_word(table, data, 2, 3 + len(word)) == longer
    assert table.ids.tolist() == list(words.values())


def test_the_first_word_that_is_missing_is_named_where_there_is_no_unk() -> None:
    vocabulary = WordVocabulary([b"<s>", b"a", b"</s>"])
    assert vocabulary.encode_lines("a a").tolist() == [0, 1, 1, 2]
    for call in (vocabulary.encode, vocabulary.encode_lines):
        with pytest.raises(DataError, match=r"the word b'zebra' is not in it"):
            call("a\nzebra a yak")


@given(st.lists(st.lists(PARTS, max_size=20).map(b"".join), max_size=5))
def test_texts_together_are_the_texts_apart(texts: list[bytes]) -> None:
    vocabulary = WordVocabulary(LISTED)
    tokens, ends = vocabulary.encode_joined(texts)
    assert [part.tolist() for part in np.split(tokens, ends)[:-1]] == [plainly(vocabulary, text) for text in texts]
