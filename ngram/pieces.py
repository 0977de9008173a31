"""The pieces of a tokenizer: what each token decodes to, which is all that training and scoring need.  tokenizer.py encodes.

A model is SentencePiece's, or a Hugging Face tokenizer as huggingface.py writes it: what its pieces decode to, and what encodes.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable

import sentencepiece as spm

from ngram.container import read_bytes
from ngram.errors import SeedgramError
from ngram.table import MAX_VOCAB

SPACE = "\u2581"  # SentencePiece's mark for a space; a literal one in a text has to travel as byte pieces
CONVERTED = b"SGPIECES1\n"  # how a converted Hugging Face tokenizer begins; one object of JSON follows

# Appended to a model file, where protocol buffers merge it into the model's NormalizerSpec (field 3): name "identity", no rules,
# no space put in front, no spaces removed (fields 1 to 4 of sentencepiece_model.proto).
_NO_NORMALISER = b"\x1a\x10" + b"\x0a\x08identity" + b"\x12\x00" + b"\x18\x00" + b"\x20\x00"


class TokenizerError(SeedgramError):
    """A tokenizer that cannot be read, trained or used here."""


def processor(model: bytes, name: str = "tokenizer") -> spm.SentencePieceProcessor:
    """SentencePiece's own object from a model's bytes; name: for error messages.  Raises TokenizerError."""
    try:
        if not model:
            raise ValueError
        sp = spm.SentencePieceProcessor(model_proto=model)
        size = len(sp)
        sp.id_to_piece(list(range(size)))  # a piece that is no UTF-8 shows only here
    except (RuntimeError, TypeError, ValueError):
        raise TokenizerError(f"{name}: not a SentencePiece model; give the .model file that was trained with the data") from None
    if size > MAX_VOCAB:
        raise TokenizerError(f"{name}: {size:,} pieces; at most {MAX_VOCAB:,} are supported")
    if not any(0 <= token < size for token in (sp.bos_id(), sp.eos_id())):
        raise TokenizerError(f"{name}: has neither a BOS nor an EOS piece to begin a document with; train it with one")
    return sp


def _bytes_of(sp: spm.SentencePieceProcessor, token: int) -> bytes:
    if sp.is_control(token) or sp.is_unknown(token) or sp.is_unused(token):
        return b""
    piece: str = sp.id_to_piece(token)
    return bytes([int(piece[3:5], 16)]) if sp.is_byte(token) else piece.replace(SPACE, " ").encode()


class Pieces:
    """One vocabulary.

    vocab_size: pieces; bos: id that begins every document, the model's BOS piece or, where it has none (T5), its EOS piece;
    model: the file's bytes; piece_bytes: what each token decodes to, nothing for control pieces; sp: SentencePiece's own object, None for
    a Hugging Face tokenizer.  Raises TokenizerError, naming the file or `name`."""

    def __init__(self, model: bytes | str | os.PathLike[str], name: str = "tokenizer") -> None:
        self.model = model if isinstance(model, bytes) else read_bytes(model)
        self.name = name if isinstance(model, bytes) else os.fspath(model)
        self.sp = None if self.model.startswith(CONVERTED) else processor(self.model, self.name)
        self.marked = True  # ▁ stands for a space in its pieces
        if self.sp is None:
            self._read_converted()
        else:
            tokens = range(len(self.sp))
            self.bos: int = self.sp.bos_id() if self.sp.bos_id() >= 0 else self.sp.eos_id()
            self.byte_tokens = frozenset(filter(self.sp.is_byte, tokens))
            self.piece_bytes = [_bytes_of(self.sp, token) for token in tokens]
        self.vocab_size = len(self.piece_bytes)
        self.has_space = any(value == b" " and token not in self.byte_tokens for token, value in enumerate(self.piece_bytes))

    def _read_converted(self) -> None:
        try:
            said = json.loads(self.model[len(CONVERTED) :])
            self.bos, self.byte_tokens, self.marked = said["bos"], frozenset(said["bytes"]), said["marked"]
            self.piece_bytes = [piece.encode("latin-1") for piece in said["pieces"]]
            wrong = len(self.piece_bytes) > MAX_VOCAB or self.bos < 0 or self.piece_bytes[self.bos]
            if wrong or any(token < 0 or len(self.piece_bytes[token]) != 1 for token in self.byte_tokens):
                raise ValueError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise TokenizerError(f"{self.name}: malformed converted tokenizer; convert it again with seedgram prepare") from None

    @functools.cached_property
    def has_all_bytes(self) -> bool:
        """Whether every byte has a piece, so that any bytes can be encoded."""
        return len({self.piece_bytes[token] for token in self.byte_tokens}) == 256

    @functools.cached_property
    def plain(self) -> Callable[..., list[list[int]]]:
        """(texts, num_threads=…) → their tokens, by the same pieces without the normaliser."""
        if self.sp is None:
            raise TokenizerError(f"{self.name}: `seedgram prepare` encodes with a Hugging Face tokenizer; shards need the manifest that it writes")
        return processor(self.model + _NO_NORMALISER, self.name).encode

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """What the tokens say; control pieces say nothing."""
        return b"".join(map(self.piece_bytes.__getitem__, tokens))
