"""Words: a vocabulary of what white space separates, as users of KenLM and SRILM have it.

A line of text is a sentence, `<s> words </s>`; blank lines hold none.  Words are bytes between ASCII white space, compared as they are.  A word
that the vocabulary does not have is `<unk>`, and so are the markers where a text spells them out.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ngram.arrays import I64, Tokens, token_type
from ngram.errors import DataError, FileFormatError
from ngram.table import MAX_VOCAB
from ngram.word_table import encode_texts, word_table

UNKNOWN, BEGIN, END = MARKERS = (b"<unk>", b"<s>", b"</s>")


def as_bytes(text: str) -> bytes:
    """UTF-8, halves of surrogate pairs included."""
    return text.encode("utf-8", "surrogatepass")


class WordVocabulary:
    """Words with an id each.

    words: bytes, in the order of their ids, or all of them separated by newlines, as `model` holds them; vocab_size: how many;
    bos, eos, unknown: ids of `<s>`, `</s>` and `<unk>`, -1 where a foreign file has none.  Raises FileFormatError, naming `name`."""

    def __init__(self, words: Sequence[bytes] | bytes, name: str = "vocabulary") -> None:
        self.words = words.split(b"\n") if isinstance(words, bytes) else list(words)
        self.name, self.vocab_size = name, len(self.words)
        ids = dict(zip(self.words, range(self.vocab_size), strict=True))
        if len(ids) != self.vocab_size or any(word.split() != [word] for word in self.words):
            raise FileFormatError(f"{name}: a word is empty, holds white space or is listed twice; make the file again")
        self.unknown, self.bos, self.eos = (ids.pop(marker, -1) for marker in MARKERS)
        self._table, self._type = word_table(ids), token_type(self.vocab_size)

    @classmethod
    def build(cls, texts: Iterable[str], max_types: int = MAX_VOCAB, name: str = "vocabulary") -> "WordVocabulary":
        """The most frequent words of some texts, at most `max_types` with the three markers; equally frequent ones in the order of their bytes."""
        if not len(MARKERS) <= max_types <= MAX_VOCAB:
            raise DataError(f"a vocabulary of {max_types} words is outside {len(MARKERS)}…{MAX_VOCAB}; choose a size inside")
        counts = Counter[bytes]()
        for text in texts:
            counts.update(as_bytes(text).split())
        for marker in MARKERS:
            counts.pop(marker, 0)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))[: max_types - len(MARKERS)]
        return cls([UNKNOWN, BEGIN, *ranked, END], name)  # the last id may be one that no context of seven holds: </s> is in none

    @property
    def model(self) -> bytes:
        """All that a file has to hold."""
        return b"\n".join(self.words)

    def pieces(self) -> list[str]:
        """The text of each word, ▁ before it for a space."""
        return ["▁" + word.decode("utf-8", "replace") for word in self.words]

    def encode(self, sentence: str | bytes) -> Tokens:
        """Ids of a sentence's words, (n,), without `<s>` and `</s>`.  Raises DataError for a word that is not there where `<unk>` is not, either."""
        return self._look_up([sentence], [])[0]

    def encode_lines(self, text: str | bytes) -> Tokens:
        """Ids of a text, (n,): each line that is not blank as `<s> words </s>`.  Raises DataError as `encode` does, and where a marker is missing."""
        return self.encode_joined([text])[0]

    def encode_joined(self, texts: Iterable[str | bytes]) -> tuple[Tokens, I64]:
        """`encode_lines` of some texts, one after the other, and (D,) where those of each end."""
        if min(self.bos, self.eos) < 0:
            raise DataError(f"{self.name}: has no <s> or no </s>, so its sentences have no ends; make the model with both")
        return self._look_up(texts, [self.bos, self.eos])

    def encode_documents(self, texts: Iterable[str], *, threads: int = 1, allow_loss: bool = False) -> Iterator[Tokens]:
        """`encode_lines` of each text; the flags are those of tokenizers and change nothing here."""
        return map(self.encode_lines, texts)

    def _look_up(self, texts: Iterable[str | bytes], marks: list[int]) -> tuple[Tokens, I64]:
        parts = [as_bytes(text) if isinstance(text, str) else text for text in texts]
        data, stops = b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.int64)
        found, ends = np.empty(3 * (len(data) + len(parts)) // 2 + 1, self._type), np.empty(len(parts), np.int64)
        numbers = np.frombuffer(data, np.uint8), stops, self._table, max(0, self.unknown), np.array(marks, np.int64)
        missing = encode_texts(*numbers, found, ends)
        if self.unknown < 0 and missing >= 0:
            raise DataError(f"{self.name}: the word {data[missing:].split(None, 1)[0]!r} is not in it, nor is <unk>; make the model with an <unk>")
        return found[: ends[-1] if len(ends) else 0].copy(), ends
