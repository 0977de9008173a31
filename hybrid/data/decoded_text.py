"""What validation tokens say, decoded piece by piece: a second opinion on the table that eval.py counts bytes with (token_bytes.py).

Where shards were prepared losslessly, every whole document is held against the digest that was taken when it was read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid.data.manifest import LOSSLESS, LOSSY, manifest_of
from hybrid.data.prepared import document_digest, index_of
from hybrid.data.shards import DataError
from ngram.arrays import U16
from ngram.tokenizer import Tokenizer


def text_bytes(model: bytes, tokens: U16, *, exact: bool = False) -> bytes:
    """What tokens say; see `said_by`."""
    return b"".join(said_by(model, tokens, exact=exact))


def said_by(model: bytes, tokens: U16, *, exact: bool = False) -> list[bytes]:
    """The same token by token.  exact: every piece says what it decodes to, else no space after a control piece, as the challenge counts."""
    pieces = Tokenizer(model).piece_bytes
    out, after_silent = [], True
    for token in tokens.tolist():
        piece = pieces[token]
        out.append(piece[1:] if after_silent and piece[:1] == b" " and not exact else piece)
        after_silent = not piece
    return out


def is_exact(paths: Sequence[Path]) -> bool:
    """Whether the pieces of these shards say what their documents' bytes are, a space at a document's beginning included."""
    return manifest_of(paths).get("encoding") in (LOSSLESS, LOSSY)


def check_documents(paths: Sequence[Path], model: bytes, tokens: U16) -> int:
    """How many documents in the beginning (n,) of the stream of some shards are, byte for byte, those that were read.

    0 where nothing vouches for them: without a manifest, or with a lossy encoding.  Raises DataError naming the first that differs."""
    index = index_of(paths) if manifest_of(paths).get("encoding") == LOSSLESS else None
    if index is None:
        return 0
    codec, ends = Tokenizer(model), np.cumsum(index.tokens)
    whole = int(np.searchsorted(ends, len(tokens), side="right"))
    for place in range(whole):
        said = codec.decode_bytes(tokens[ends[place] - index.tokens[place] : ends[place]].tolist())
        if len(said) != index.size_bytes[place] or document_digest(said) != index.digests[place]:
            raise DataError(f"{paths[0]}: document {place + 1:,} is not the one that was read; prepare the folder again")
    return whole
