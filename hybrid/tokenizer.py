"""SentencePiece tokenizers: training lossless ones, encoding streams, and exact bytes in and out.

Tokenizers trained here are lossless: identity normalisation, byte fallback, no dummy prefix, whitespace kept, so
`decode(encode(x)) == x` for every str.  Public ones normalise (newlines, double spaces and more are lost); for them
`encode_bytes` puts byte pieces wherever piecewise decoding would differ, so any bytes still come back exactly.
"""

import functools
import io
import os
import re
from collections.abc import Iterable, Iterator

import numpy as np
import sentencepiece as spm

from ngram.container import read_bytes
from ngram.errors import SeedgramError
from ngram.table import PAD, U16

SPACE = "\u2581"  # SentencePiece's mark for a space; a literal one in a text has to travel as byte pieces
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)  # the public tokenizers' ids
BATCH_CHARS = 1 << 23  # text handed to the threads at once: bounds memory, keeps every core busy
SEGMENT_CHARS = 1 << 16  # BPE slows down threefold on megabytes in one piece and takes 50 bytes of memory a character
RUN_CHARS = 4096  # longest text encoded in one go by encode_bytes, which may have to start again inside it

# Everything a normaliser is known to touch: newlines, tabs, runs of spaces, ends, ligatures, fractions, wide and combined forms
_PROBE = "  a\n\n\tb\r\n  c \ufb01 \u00bd\u00a0\u3000\uff21 e\u0301 \u200b\u00ad\x00\x7f d  "


class TokenizerError(SeedgramError):
    """A tokenizer that cannot be read, trained or used here."""


def processor(model: bytes | str | os.PathLike[str]) -> spm.SentencePieceProcessor:
    """SentencePiece's own object from a model's bytes or path.  Raises TokenizerError."""
    name = "tokenizer" if isinstance(model, bytes) else os.fspath(model)
    data = model if isinstance(model, bytes) else read_bytes(model)
    try:
        if not data:
            raise RuntimeError("empty")
        sp = spm.SentencePieceProcessor(model_proto=data)
        for token in range(sp.get_piece_size()):
            sp.id_to_piece(token)  # a piece that is no UTF-8 shows only here
    except (RuntimeError, TypeError, ValueError):
        raise TokenizerError(f"{name}: not a SentencePiece model; train one with scripts/prepare_data.py") from None
    if sp.get_piece_size() > PAD:
        raise TokenizerError(f"{name}: {sp.get_piece_size():,} pieces; 16-bit tokens allow {PAD:,}")
    if not 0 <= sp.bos_id() < sp.get_piece_size():
        raise TokenizerError(f"{name}: has no beginning-of-document piece; train one with scripts/prepare_data.py")
    return sp


class Tokenizer:
    """One vocabulary.  `vocab_size`, `bos` (id), `model` (the file's bytes), `piece_bytes` (what each token decodes to)."""

    def __init__(self, model: bytes | str | os.PathLike[str]) -> None:
        self.model = model if isinstance(model, bytes) else read_bytes(model)
        self.sp = processor(model)
        self.vocab_size: int = self.sp.get_piece_size()
        self.bos: int = self.sp.bos_id()
        self.piece_bytes = [self._bytes_of(token) for token in range(self.vocab_size)]
        self._byte_token = {value: token for token, value in enumerate(self.piece_bytes) if self.sp.is_byte(token)}
        self._kept: dict[str, bool] = {}

    def _bytes_of(self, token: int) -> bytes:
        if self.sp.is_control(token) or self.sp.is_unknown(token) or self.sp.is_unused(token):
            return b""
        piece: str = self.sp.id_to_piece(token)
        return bytes([int(piece[3:5], 16)]) if self.sp.is_byte(token) else piece.replace(SPACE, " ").encode()

    @functools.cached_property
    def has_all_bytes(self) -> bool:
        """Whether every byte has a piece, so that `encode_bytes` works on anything."""
        return len(self._byte_token) == 256

    @functools.cached_property
    def is_lossless(self) -> bool:
        """Whether SentencePiece's own encoding keeps every character that normalisers are known to touch."""
        return self.has_all_bytes and self.decode_bytes(self.sp.encode(_PROBE)) == _PROBE.encode()

    def encode(self, text: str) -> U16:
        """Tokens of a text, without BOS, (n,) uint16.  Lossless tokenizers: exact; public ones: as they normalise."""
        return next(self.encode_documents([text], bos=False))

    def encode_documents(self, texts: Iterable[str], *, bos: bool = True, threads: int = -1) -> Iterator[U16]:
        """Tokens of each text, BOS first unless told otherwise, (n,) uint16 each, in order.  threads: -1 is every core."""
        for batch in _batches(texts):
            segments = [list(_segments(text)) if self.is_lossless else [text] for text in batch]
            plain = [_is_utf8(text) and not (self.is_lossless and SPACE in text) for text in batch]
            easy = [segment for parts, direct in zip(segments, plain, strict=True) if direct for segment in parts]
            encoded = iter(self.sp.encode(easy, num_threads=threads))
            for text, parts, direct in zip(batch, segments, plain, strict=True):
                tokens = [self.bos] if bos else []
                if direct:
                    for _ in parts:
                        tokens += next(encoded)
                else:
                    tokens += self.encode_bytes(text.encode("utf-8", "surrogatepass")).tolist()
                yield np.array(tokens, dtype=np.uint16)

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """What the tokens say, piece by piece; control pieces say nothing."""
        return b"".join([self.piece_bytes[token] for token in tokens])

    def decode(self, tokens: Iterable[int]) -> str:
        """As text; bytes that are no UTF-8 become U+FFFD."""
        data = self.decode_bytes(tokens)
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return data.decode("utf-8", "replace")

    def encode_bytes(self, data: bytes) -> U16:
        """Tokens with decode_bytes(tokens) == data for any bytes and any tokenizer with byte pieces; (n,) uint16.

        Raises TokenizerError when the tokenizer lacks byte pieces."""
        if not self.has_all_bytes:
            raise TokenizerError("tokenizer: has no byte pieces, so it cannot hold arbitrary bytes; use one with byte fallback")
        text, tokens = data.decode("utf-8", "surrogateescape"), list[int]()
        for run in self._runs(text):
            if self._keeps(run[0]):
                self._encode_run(run, tokens)
            else:
                tokens += [self._byte_token[bytes([b])] for b in run.encode("utf-8", "surrogateescape")]
        return np.array(tokens, dtype=np.uint16)

    def _keeps(self, char: str) -> bool:
        """Whether this character between letters comes back unchanged."""
        if char not in self._kept:
            around = f"a{char}a"
            self._kept[char] = _is_utf8(char) and self.decode_bytes(self.sp.encode(around)) == around.encode()
        return self._kept[char]

    def _runs(self, text: str) -> Iterator[str]:
        """Cuts a text where characters that are kept meet ones that are not, and every RUN_CHARS."""
        lost = "".join(char for char in sorted(set(text)) if not self._keeps(char))
        pattern = f"[{re.escape(lost)}]+|[^{re.escape(lost)}]+" if lost else "(?s:.+)"
        for match in re.finditer(pattern, text):
            run = match.group()
            yield from (run[i : i + RUN_CHARS] for i in range(0, len(run), RUN_CHARS))

    def _encode_run(self, run: str, tokens: list[int]) -> None:
        """Appends the tokens of a run, going over to byte pieces for each character where decoding departs from it."""
        while run:
            want, at = run.encode(), 0
            for token in self.sp.encode(run):
                piece = self.piece_bytes[token]
                if not piece or not want.startswith(piece, at):
                    break
                tokens.append(token)
                at += len(piece)
            while at and at < len(want) and want[at] & 0xC0 == 0x80:  # stopped among the byte pieces of one character
                at -= len(self.piece_bytes[tokens.pop()])
            rest = want[at:].decode()
            if rest:
                tokens += [self._byte_token[bytes([b])] for b in rest[0].encode()]
            run = rest[1:]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of texts of about BATCH_CHARS together."""
    batch, chars = list[str](), 0
    for text in texts:
        batch.append(text)
        chars += len(text) + 1
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


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


def _is_utf8(text: str) -> bool:
    """False for text with lone surrogates, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load(model: bytes | str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from a SentencePiece model's bytes or its path.  Raises TokenizerError."""
    return Tokenizer(model)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A lossless BPE model of `vocab_size` pieces, as the bytes of its file; the same texts give the same bytes.

    Ids as in the public exports: pad 0, BOS 1, EOS 2, unknown 3, then 256 byte pieces.  Raises TokenizerError when the
    texts do not support that many pieces.  Sennrich et al. (2016); Kudo & Richardson (2018)."""
    out = io.BytesIO()
    clean = (text.encode("utf-8", "replace").decode().replace("\x00", " ").replace(SPACE, " ") for text in texts)
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=(text for text in clean if text),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.999,  # the public 1,024-piece export's; rarer characters are byte pieces
            max_sentence_length=1 << 30,  # bytes: whole documents are the sentences
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            num_threads=1,
            minloglevel=3,  # the library would print its own lines before our one
        )
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(
            f"tokenizer: {vocab_size:,} pieces cannot be learned from this text ({reason}); change --vocab-size or give more text"
        ) from None
    return out.getvalue()
