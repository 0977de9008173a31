"""Text → the token stream that n-grams are counted on: BOS, then the document, with any SentencePiece model."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ngram.cli import stage
from ngram.container import read_bytes
from ngram.errors import SeedgramError
from ngram.table import PAD, U16

BLOCK_CHARS = 1 << 16  # encoded at once: SentencePiece's BPE queue makes one huge string several times slower


class TextError(SeedgramError):
    """A text or tokenizer that cannot be used."""


def decode_utf8(data: bytes, name: str) -> str:
    """The text of one document.  Raises TextError when it is empty or not UTF-8, naming the file and the byte."""
    if not data:
        raise TextError(f"{name}: empty; give a text with at least one character")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise TextError(f"{name}: not UTF-8 at byte {error.start}; convert it, for example with iconv -t utf-8") from None


class TextTokenizer:
    """A SentencePiece model for plain text.

    model: the file's bytes; name: for error messages.  vocab_size: pieces; bos: id put in front of every document: the
    model's BOS piece, or where it has none its EOS piece (then the separator is the start).  Raises TextError when
    it is no SentencePiece model, too large for 16 bits or has neither piece."""

    def __init__(self, model: bytes, name: str) -> None:
        import sentencepiece as spm

        spm.set_min_log_level(3)  # the library would print its own lines before our one
        try:
            if not model:
                raise RuntimeError("empty")
            self._sp = spm.SentencePieceProcessor(model_proto=model)
            self._pieces = [self._sp.id_to_piece(token) for token in range(self._sp.get_piece_size())]
        except (RuntimeError, TypeError, ValueError):
            raise TextError(f"{name}: not a SentencePiece model; give the .model file that was trained with the data") from None
        self.model = model
        self.vocab_size: int = self._sp.get_piece_size()
        starts = [token for token in (self._sp.bos_id(), self._sp.eos_id()) if 0 <= token < self.vocab_size]
        if self.vocab_size > PAD:
            raise TextError(f"{name}: {self.vocab_size:,} pieces; 16-bit tokens allow {PAD:,}")
        if not starts:
            raise TextError(f"{name}: has neither a BOS nor an EOS piece to begin a document with; train it with one")
        self.bos: int = starts[0]

    def pieces(self) -> list[str]:
        """The text of each piece, ▁ for a space."""
        return list(self._pieces)

    def stream(self, text: str) -> tuple[U16, bool]:
        """((N,) uint16: BOS and the tokens of one document, whether they decode to exactly that text)."""
        if self._newline_stands_alone():
            blocks = _blocks(text)
            encoded: list[list[int]] = self._sp.encode(blocks, num_threads=-1)
            if self._sp.decode(encoded) == blocks:
                return self._join(encoded), True
        whole: list[int] = self._sp.encode(text)  # a tokenizer that alters text may alter it at every start: encode once
        return self._join([whole]), self._sp.decode(whole) == text

    def _join(self, parts: Sequence[Sequence[int]]) -> U16:
        return np.concatenate([np.array([self.bos], np.uint16), *(np.array(part, np.uint16) for part in parts)])

    def _newline_stands_alone(self) -> bool:
        """No piece joins a newline with anything after it, so cutting a text after newlines changes no token."""
        return not any(re.search(r"\n.", piece, re.DOTALL) for piece in self._pieces)


def _blocks(text: str) -> list[str]:
    """The text in pieces of at least BLOCK_CHARS (the last one less), each but the last ending with a newline."""
    blocks, start = [], 0
    while start < len(text):
        cut = text.find("\n", start + BLOCK_CHARS)
        stop = len(text) if cut < 0 else cut + 1
        blocks.append(text[start:stop])
        start = stop
    return blocks


def read_stream(path: Path, tokenizer: TextTokenizer) -> tuple[U16, bool, int]:
    """One document from a file: (stream with BOS in front, whether it decodes to exactly the text, the text's bytes).

    Raises SeedgramError, naming the file, when it cannot be read, is no UTF-8, or the tokenizer leaves nothing of it."""
    data = read_bytes(path)
    with stage(f"tokenizing {path.name}"):
        tokens, lossless = tokenizer.stream(decode_utf8(data, str(path)))
    if len(tokens) < 2:
        raise TextError(f"{path}: the tokenizer leaves nothing of this text; give more text")
    return tokens, lossless, len(data)
