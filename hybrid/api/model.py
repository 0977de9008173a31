"""Model: an artifact as an object that scores, predicts, writes and compresses."""

import os
from collections.abc import Sequence

import numpy as np

from hybrid.api.continuing import Sampling, drawn, next_row
from hybrid.api.text_score import Score, score_bytes
from hybrid.coding import compress, stream_coder
from hybrid.data import tokenizer
from hybrid.parallel import ranks
from hybrid.scoring.options import DEFAULTS, EvalOptions
from hybrid.settings.config import Config
from hybrid.storing import artifact
from ngram.arrays import F64, U16
from ngram.errors import DataError

Text = str | bytes


class Model:
    """A packed model: the network, its n-gram cache, the gate that mixes them, and the tokenizer.

    Made by `hybrid.load`.  Nothing that is scored or written changes it: every call begins with the cache as it was stored, and learns
    within the call.  Text is str or bytes; str stands for its UTF-8.  tokenizer: encodes and decodes; vocab_size: V, its pieces."""

    def __init__(self, path: str | os.PathLike[str], device: str = "cpu") -> None:
        self.path = os.fspath(path)
        self._ranks = ranks.Ranks(0, 1, ranks.start(device).device)
        self._artifact = artifact.load(path)
        self._sha256 = stream_coder.artifact_sha256(path)
        self.tokenizer = tokenizer.load(self._artifact.tokenizer)

    def __repr__(self) -> str:
        return f"<hybrid.Model {self.path}: preset {self.config.preset}, {self.vocab_size:,} pieces, {self.size_bytes:,} bytes>"

    @property
    def config(self) -> Config:
        """Every setting of the run that made it."""
        return self._artifact.config

    @property
    def size_bytes(self) -> int:
        """Of the artifact's file."""
        return self._artifact.size_bytes

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def encode(self, text: Text) -> U16:
        """(n,) tokens of a document, BOS first; they decode to exactly its bytes.  Raises LossError where the tokenizer cannot hold them."""
        return np.concatenate([np.array([self.tokenizer.bos], np.uint16), self.tokenizer.encode_bytes(_bytes(text))])

    def score(self, text: Text, options: EvalOptions = DEFAULTS) -> Score:
        """Bits of every token of a document: what `seedgram score` prints, and eval.py for the same tokens.

        Score-first: every token is scored before anything learns from it."""
        return score_bytes(self._artifact, self.tokenizer, _bytes(text), self._ranks, options)

    def bits_per_byte(self, text: Text, options: EvalOptions = DEFAULTS) -> float:
        """Bits per byte of a document.  Raises DataError for an empty one."""
        found = self.score(text, options).bits_per_byte
        if found is None:
            raise DataError("bits_per_byte: an empty text has none; give at least one byte")
        return found

    def distribution(self, context: Text | U16 | Sequence[int], options: EvalOptions = DEFAULTS) -> F64:
        """(V,) float64, sums to 1: what the token after a context is drawn from, as `score` would score it.

        context: text, or tokens that begin with BOS.  Raises DataError for tokens that are none of this vocabulary."""
        return next_row(self._artifact, self._tokens(context), options, self._ranks)

    def generate(self, prompt: Text = "", tokens: int = 100, temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> str:
        """Text that continues the prompt, without it: at most so many tokens, fewer where the model ends the document.

        Drawn from the blend; cache, match model and gate learn each token before the next.  temperature 0: the likeliest token each
        time.  top_p: only from the likeliest tokens that together have this probability.  The same seed gives the same text on the
        same kind of machine.  Bytes that are no UTF-8 become U+FFFD.  Raises ConfigError for values out of range."""
        how = Sampling(temperature, top_p, seed)
        if tokens < 0:
            raise DataError(f"tokens {tokens} must not be negative")
        found = drawn(self._artifact, self.tokenizer, self.encode(prompt), tokens, how, self._ranks.device)
        return self.tokenizer.decode(list(found))

    def compress(self, data: bytes, portable: bool = False) -> bytes:
        """A smaller form of any bytes, readable with the same artifact, program and kind of machine; see `seedgram compress`.

        portable: with the n-grams and the match model alone, in whole numbers: larger, and any machine can read it."""
        return compress.packed(data, self._artifact, self._sha256, self._ranks.device, anywhere=portable)[0]

    def decompress(self, data: bytes) -> bytes:
        """The bytes that `compress` was given.  Raises FileFormatError, never returns other bytes."""
        return compress.unpacked(data, self._artifact, self._sha256)[0]

    def _tokens(self, context: Text | U16 | Sequence[int]) -> U16:
        if isinstance(context, str | bytes):
            return self.encode(context)
        given = np.asarray(context)
        if given.ndim != 1 or not len(given) or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= self.vocab_size:
            raise DataError(f"context: expected whole numbers below {self.vocab_size}, BOS ({self.tokenizer.bos}) first; or give text")
        return given.astype(np.uint16)


def load(path: str | os.PathLike[str], device: str = "cpu") -> Model:
    """An artifact from its file.  device: "cpu", "cuda", or "auto", which is CUDA where there is one.

    Raises FileFormatError, naming the file, for anything cut, altered or foreign; DeviceError for a missing device."""
    return Model(path, device)


def _bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
