"""Texts for the command line of `python -m ngram`: the documents of files, folders and pipes as token streams."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ngram.arrays import Tokens
from ngram.documents import NAMED, documents, input_files
from ngram.errors import DataError
from ngram.tokenizer import Tokenizer
from ngram.vocabulary import Vocabulary


@dataclass(frozen=True)
class Encoded:
    """One document.  tokens: (N,), BOS first; size_bytes: of the text that they stand for, lost_bytes: of what they lack."""

    tokens: Tokens
    size_bytes: int
    lost_bytes: int


@dataclass
class Losses:
    """Bytes of the documents that went by, and how many of them no token stands for."""

    lost: int = 0
    total: int = 0

    def noted(self, found: Iterable[Encoded]) -> Iterator[Tokens]:
        """The tokens of each document; it is noted once the next is asked for."""
        for document in found:
            yield document.tokens
            self.lost += document.lost_bytes
            self.total += document.size_bytes + document.lost_bytes


def encoded(places: Sequence[Path], tokenizer: Vocabulary, field: str = "text", skip: int = 0) -> Iterator[Encoded]:
    """The documents of some files, in order, behind the first `skip`; field: key or column of the text.  Raises SeedgramError, naming the file at fault.

    They are encoded losslessly; a tokenizer without byte pieces leaves out what it has no piece for.  Words stand for the whole text, white space
    and unknown ones included."""
    with input_files([str(place) for place in places], names=NAMED) as paths:
        found = skip > 0
        sizes = list[int]()

        def noted() -> Iterator[str]:
            for text in islice(documents(paths, field, lambda done, total: None), skip, None):
                sizes.append(len(text.encode("utf-8", "surrogatepass")))
                yield text

        for number, tokens in enumerate(tokenizer.encode_documents(noted(), allow_loss=True)):
            kept = sizes[number]
            if isinstance(tokenizer, Tokenizer):
                kept = sum(map(len, map(tokenizer.piece_bytes.__getitem__, tokens.tolist())))
            found |= len(tokens) > 1
            yield Encoded(tokens, kept, sizes[number] - kept)
        if not found:
            raise DataError(f"{places[0]}: holds no text; give text with at least one character that the tokenizer has a piece for")
