"""Tokenizers: the one place where a path becomes one, encoding documents so that every byte comes back, decoding to text.

Encoding is lossless with any tokenizer that has byte pieces.  A tokenizer's own normaliser (NFKC, collapsed spaces, a space put in front
of a text) is left out: the same pieces are used through a twin of the model whose normaliser does nothing, so what has no piece
becomes byte pieces.  Every encoded document is decoded again and compared.

A path is a SentencePiece model, a tokenizer.json, a folder with one (huggingface.py), or such a tokenizer as it was converted before.
`encode_as_challenge` encodes as the challenge's export does, normaliser included.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece as spm

from ngram import huggingface
from ngram.arrays import I64, Tokens, token_type
from ngram.container import read_bytes
from ngram.documents import batches
from ngram.piece_cache import PieceCache
from ngram.pieces import SPACE as SPACE
from ngram.pieces import Pieces
from ngram.pieces import TokenizerError as TokenizerError

BATCH_CHARS = 1 << 23  # text handed to the threads at once: bounds memory, keeps every core busy
SEGMENT_CHARS = 1 << 16  # BPE slows down threefold on megabytes in one piece and takes 50 bytes of memory a character

# What no tokenizer can take as it is: the halves of surrogate pairs, which are no UTF-8; and SentencePiece: its own mark for a space
_HALVES = re.compile("[\ud800-\udfff]+")
_SPECIAL = re.compile(f"[{SPACE}\ud800-\udfff]+")


class LossError(TokenizerError):
    """A text that a tokenizer without byte pieces cannot hold."""


def silence_sentencepiece() -> None:
    """Keeps SentencePiece from printing its own lines beside our errors, in this whole process: for command lines, not for libraries."""
    spm.set_min_log_level(3)


def model_of(path: str | os.PathLike[str]) -> bytes:
    """The model that a path names, as artifacts, n-gram models and shards keep it: its bytes, or what a Hugging Face tokenizer is converted to."""
    if os.path.isdir(path):
        return huggingface.convert(path)
    data = read_bytes(path)
    return huggingface.convert(path) if data[:64].lstrip()[:1] == b"{" else data


def joined(documents: Iterable[Tokens], kind: Any) -> tuple[Tokens, I64]:
    """Tokens of some documents, of one dtype, one after the other, and (D,) where those of each end."""
    parts = list(documents)
    return np.concatenate([np.empty(0, kind), *parts]), np.cumsum([len(part) for part in parts], dtype=np.int64)


class Tokenizer(Pieces):
    """One vocabulary, and documents in it; from a path (see the module) or the bytes of a model."""

    def __init__(self, model: bytes | str | os.PathLike[str], name: str = "tokenizer") -> None:
        super().__init__(*((model, name) if isinstance(model, bytes) else (model_of(model), os.fspath(model))))

    @functools.cached_property
    def plain(self) -> Callable[..., list[list[int]]]:
        return super().plain if self.sp is not None else huggingface.encoder(self.model, self.name)

    def pieces(self) -> list[str]:
        """The text of each piece, ▁ for a space."""
        if self.sp is None:
            return [piece.decode("utf-8", "replace").replace(" ", SPACE) for piece in self.piece_bytes]
        return [self.sp.id_to_piece(token) for token in range(self.vocab_size)]

    def encode(self, text: str) -> Tokens:
        """Tokens of a text, without BOS, (n,), uint16 or above 65,535 pieces uint32; see `encode_documents`."""
        return next(self.encode_documents([text], bos=False))

    def encode_bytes(self, data: bytes) -> Tokens:
        """Tokens of any bytes, without BOS, (n,) uint16; they decode to exactly these bytes.  Raises LossError where byte pieces are needed and missing."""
        return next(self._encode([(data.decode("utf-8", "surrogateescape"), data)], "surrogateescape", bos=False))

    def encode_documents(self, texts: Iterable[str], *, bos: bool = True, threads: int = -1, allow_loss: bool = False) -> Iterator[Tokens]:
        """Tokens of each text, BOS first unless told otherwise, (n,) uint16 each, in order; they decode to exactly the text's UTF-8.

        threads: -1 is every core.  Raises LossError, with the share that is lost, for a text that a tokenizer without byte pieces
        cannot hold; with allow_loss its tokens lack what has no piece."""
        for batch in batches(texts, BATCH_CHARS):
            pairs = [(text, text.encode("utf-8", "surrogatepass")) for text in batch]
            yield from self._encode(pairs, "surrogatepass", bos=bos, threads=threads, allow_loss=allow_loss)

    def encode_joined(self, texts: Iterable[str]) -> tuple[Tokens, I64]:
        """`encode_documents` of some texts on one core, with what has no piece left out, one after the other, and (D,) where those of each end."""
        texts = list(texts)
        known = None if self._cache is None else self._cache.encode(texts)
        return known or joined(self.encode_documents(texts, threads=1, allow_loss=True), token_type(self.vocab_size))

    @functools.cached_property
    def _cache(self) -> PieceCache | None:
        return PieceCache(self, self.plain, _segments) if PieceCache.fits(self) else None

    def encode_as_challenge(self, texts: Iterable[str], *, threads: int = -1) -> Iterator[Tokens]:
        """Tokens of each text as the challenge's export makes them, BOS first: through the tokenizer's own normaliser, lossy where that is."""
        if self.sp is None:
            raise TokenizerError(f"{self.name}: the challenge's encoding is SentencePiece's; leave --challenge-encoding out")
        for batch in batches(texts, BATCH_CHARS):
            for tokens in self.sp.encode([text.encode("utf-8", "replace").decode() for text in batch], num_threads=threads):
                yield np.array([self.bos, *tokens], dtype=token_type(self.vocab_size))

    @functools.cached_property
    def _byte_token(self) -> dict[int, int]:
        return {self.piece_bytes[token][0]: token for token in self.byte_tokens}

    def _encode(
        self, pairs: Sequence[tuple[str, bytes]], errors: str, *, bos: bool, threads: int = -1, allow_loss: bool = False
    ) -> Iterator[Tokens]:
        """Tokens of texts, each given with the bytes it has to decode to.  errors: how its surrogates become bytes."""
        cut = [list(_runs(text, _SPECIAL if self.marked else _HALVES)) for text, _ in pairs]
        easy = [segment for runs in cut for segment, plain in runs if plain]
        encoded = iter(self.plain(easy, num_threads=threads))
        for runs, (_, data) in zip(cut, pairs, strict=True):
            parts = [self._spaces_as_bytes(next(encoded)) if plain else self._as_bytes(run.encode("utf-8", errors)) for run, plain in runs]
            tokens = [token for part in parts for token in part] if len(parts) != 1 else parts[0]
            found = self.decode_bytes(tokens)
            if found != data and self.has_all_bytes:
                tokens = self._as_bytes(data)
            elif found != data and not allow_loss:
                raise LossError(
                    f"{self.name}: has no byte pieces and cannot hold {1 - len(found) / len(data):.2%} of a document of {len(data):,} bytes; "
                    "use a tokenizer with byte fallback"
                )
            yield np.array([self.bos, *tokens] if bos else tokens, dtype=token_type(self.vocab_size))

    def _as_bytes(self, data: bytes) -> list[int]:
        """Byte pieces, or nothing for bytes that have none."""
        return [self._byte_token[value] for value in data if value in self._byte_token]

    def _spaces_as_bytes(self, tokens: list[int]) -> list[int]:
        """A vocabulary without a piece for a single space gets the three bytes of SentencePiece's mark for one: here the one byte 0x20."""
        if self.has_space or not self.has_all_bytes or not self.marked:
            return tokens
        first, second, third = (self._byte_token[value] for value in SPACE.encode())
        array = np.array(tokens, dtype=token_type(self.vocab_size))
        marks = np.flatnonzero((array[:-2] == first) & (array[1:-1] == second) & (array[2:] == third))
        array[marks] = self._byte_token[ord(" ")]
        return np.delete(array, np.concatenate([marks + 1, marks + 2])).tolist()

    def decode(self, tokens: Iterable[int]) -> str:
        """As text; bytes that are no UTF-8 become U+FFFD."""
        data = self.decode_bytes(tokens)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")


def _runs(text: str, specials: re.Pattern[str]) -> Iterator[tuple[str, bool]]:
    """(part, whether the tokenizer can take it as it is) of a text, no part longer than SEGMENT_CHARS."""
    start = 0
    for special in specials.finditer(text):
        yield from ((segment, True) for segment in _segments(text[start : special.start()]))
        yield special.group(), False
        start = special.end()
    yield from ((segment, True) for segment in _segments(text[start:] if start else text))


def _segments(text: str) -> Iterator[str]:
    """Cuts a long text after a line (or before a space) at least every SEGMENT_CHARS."""
    start = 0
    while start < len(text):
        stop = start + SEGMENT_CHARS
        if stop < len(text):
            line, space = text.rfind("\n", start, stop), text.rfind(" ", start + 1, stop)
            stop = line + 1 if line >= 0 else space if space > 0 else stop
        yield text[start:stop]
        start = stop
