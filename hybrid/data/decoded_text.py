"""What validation tokens say, decoded piece by piece: a second opinion on the table that eval.py counts bytes with (token_bytes.py).

Where shards were prepared losslessly, every whole document is held against the digest that was taken when it was read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hybrid.data.manifest import LOSSLESS, LOSSY, manifest_of
from hybrid.data.prepared import document_digest, index_of
from hybrid.data.shards import DataError
from ngram.arrays import U16, Tokens
from ngram.tokenizer import Tokenizer


def text_bytes(model: bytes, tokens: U16, *, exact: bool = False) -> bytes:
    """What tokens say; see `said_by`."""
    return b"".join(said_by(model, tokens, exact=exact))


def said_by(model: bytes, tokens: U16, *, exact: bool = False) -> list[bytes]:
    """The same token by token.  exact: every piece says what it decodes to, else no space after a control piece, as the challenge counts."""
    pieces = decoded_pieces(model)
    out, after_silent = [], True
    for token in tokens.tolist():
        piece = pieces[token]
        out.append(piece[1:] if after_silent and piece[:1] == b" " and not exact else piece)
        after_silent = not piece
    return out


def decoded_pieces(model: bytes) -> list[bytes]:
    """What each piece says, as SentencePiece's own decoder has it behind another piece; a converted tokenizer is itself such a list."""
    codec = Tokenizer(model)
    sp = codec.sp
    if sp is None:
        return codec.piece_bytes
    size, spoken = sp.get_piece_size(), [not (sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i)) for i in range(sp.get_piece_size())]
    before = next((i for i in range(size) if spoken[i] and not sp.is_byte(i) and sp.decode([i]).strip()), None)
    out = []
    for i in range(size):
        if sp.is_byte(i) or not spoken[i]:
            out.append(bytes([int(sp.id_to_piece(i)[3:5], 16)]) if sp.is_byte(i) else b"")
        elif before is None:  # all pieces are spaces, which decoding drops where they come first
            out.append(codec.piece_bytes[i])
        else:
            out.append(sp.decode([before, i]).encode()[len(sp.decode([before]).encode()) :])
    return out


def beginning(data: str, max_tokens: int, seq_len: int) -> Tokens:
    """The validation tokens as the files in a folder, or one file, hold them: max_tokens of them, 0: all; seq_len: and no more than fill
    windows of that length, 0: all."""
    place, parts = Path(data), []
    inside = [path for path in place.glob("[!.]*_val_*.bin") if path.stem.split("_")[-2] == "val" and path.stem.split("_")[-1].isdigit()]
    for path in [place] if place.is_file() else sorted(inside):
        wide = np.fromfile(path, "<i4", 2)[1] == 2
        parts.append(np.fromfile(path, "<u4" if wide else "<u2", offset=1024))
    tokens = np.concatenate(parts)
    tokens = tokens[: max_tokens or len(tokens)]
    return tokens[: (len(tokens) - 1) // seq_len * seq_len + 1] if seq_len else tokens


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
