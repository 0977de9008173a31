"""A plain compressor: any bytes in, the same bytes out, at the rate of a hybrid model.

The stream begins with BOS, then the file's tokens; pieces are joined as they are (`Tokenizer.encode_bytes` puts byte pieces
wherever a public tokenizer's normalisation would lose something).  Artifact and file suffice to decode.
"""

import os
from typing import Any

import numpy as np

from hybrid import artifact, bpb, evaluate, stream_coder, tokenizer
from hybrid.blend import NGRAM
from hybrid.distributed import Ranks
from ngram import container
from ngram.errors import FileFormatError
from ngram.table import U16

Path = str | os.PathLike[str]


def compress(source: Path, target: Path, artifact_path: Path, ranks: Ranks) -> dict[str, Any]:
    """Writes `target`, atomically; sizes and speed as a dict.  Raises SeedgramError naming the file at fault."""
    data = container.read_bytes(source)
    art = artifact.load(artifact_path)
    codec = tokenizer.load(art.tokenizer)
    tokens = with_bos(codec, data)
    if codec.decode_bytes(tokens.tolist()) != data:
        raise FileFormatError(f"{source}: the artifact's tokenizer does not return these bytes; report this file")
    settings = stream_coder.Settings(len(tokens), stream_coder.STREAMS[ranks.device.type], 0, True, art.config.cache.chunk_tokens, "file")
    coded_file, coded = stream_coder.encode(art, stream_coder.artifact_sha256(artifact_path), tokens, settings, ranks.device)
    container.atomic_write(target, coded_file)
    return _report(len(data), len(coded_file), coded)


def decompress(source: Path, target: Path, artifact_path: Path, tokens_target: Path | None = None) -> dict[str, Any]:
    """Writes the bytes (and, when asked, the tokens as little-endian uint16) that `source` holds."""
    coded_file = container.read_bytes(source)
    art = artifact.load(artifact_path)
    coded = stream_coder.decode(art, stream_coder.artifact_sha256(artifact_path), coded_file, str(source))
    joined = tokenizer.load(art.tokenizer).decode_bytes(coded.tokens.tolist()) if coded.kind == "file" else text_bytes(art.tokenizer, coded.tokens)
    if tokens_target is not None:
        container.atomic_write(tokens_target, coded.tokens.astype("<u2").tobytes())
    container.atomic_write(target, joined)
    return _report(len(joined), len(coded_file), coded)


def with_bos(codec: tokenizer.Tokenizer, data: bytes) -> U16:
    """(n,) uint16: BOS and the tokens of `data`; nothing at all for an empty file."""
    if not data:
        return np.zeros(0, dtype=np.uint16)
    return np.concatenate([np.array([codec.bos], dtype=np.uint16), codec.encode_bytes(data)])


def text_bytes(model: bytes, tokens: U16) -> bytes:
    """What validation tokens say by the challenge's accounting: no space after a control piece."""
    pieces, silent = tokenizer.load(model).piece_bytes, bpb.TokenBytes.from_model(model).silent
    out, after_silent = [], True
    for token in tokens.tolist():
        piece = pieces[token]
        out.append(piece[1:] if after_silent and piece[:1] == b" " else piece)
        after_silent = bool(silent[token])
    return b"".join(out)


def per_token(source: Path, artifact_path: Path, ranks: Ranks) -> list[tuple[str, float, float, float]]:
    """(piece, bits blended, bits of the network, bits of the n-grams) of every token of a file, after BOS."""
    art = artifact.load(artifact_path)
    codec = tokenizer.load(art.tokenizer)
    tokens = with_bos(codec, container.read_bytes(source))
    if len(tokens) < 2:
        return []
    options = evaluate.EvalOptions()
    neural = evaluate.network_scores(art, tokens, options, ranks)
    parts, alone = evaluate.blend_scores(art, tokens, neural, options, ranks), neural.nll_nats() / np.log(2)
    nothing = np.full(len(alone), np.nan)
    columns = [alone, alone, nothing] if parts is None else [-np.log2(parts.mixed), alone, -np.log2(parts.probs[:, NGRAM])]
    pieces = [codec.piece_bytes[t].decode("utf-8", "backslashreplace") for t in tokens[1:].tolist()]
    return list(zip(pieces, *(column.tolist() for column in columns), strict=True))


def _report(plain: int, packed: int, coded: stream_coder.Coded) -> dict[str, Any]:
    sizes = {"bytes": plain, "file_bytes": packed, "payload_bytes": coded.payload_bytes, "tokens": len(coded.tokens)}
    return {**sizes, "wall_s": coded.wall_s, "tokens_per_s": coded.tokens_per_s, "seconds": coded.seconds}
