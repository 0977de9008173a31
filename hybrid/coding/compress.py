"""A plain compressor: any bytes in, the same bytes out, at the rate of a hybrid model.

The stream begins with BOS, then the file's tokens; pieces are joined as they are (`Tokenizer.encode_bytes` puts byte pieces
wherever a public tokenizer's normalisation would lose something).  Artifact and file suffice to decode.  torch and the kernels load
where something is coded: a file that was stored as it is comes back without them.
"""

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid.loading import loading
from ngram import container
from ngram.arrays import U16
from ngram.errors import FileFormatError

if TYPE_CHECKING:
    import torch

    from hybrid.coding.stream_coder import Coded
    from hybrid.data.tokenizer import Tokenizer
    from hybrid.parallel.ranks import Ranks
    from hybrid.storing.artifact import Artifact

Path = str | os.PathLike[str]

STORED_MAGIC = b"SGSTORE1"
STORED_BYTES = len(STORED_MAGIC) + 32


def compress(source: Path, target: Path, artifact_path: Path, ranks: "Ranks", *, anywhere: bool = False) -> dict[str, Any]:
    """Writes `target`, atomically; sizes and speed as a dict.  Raises SeedgramError naming the file at fault.

    anywhere: code with the n-grams and the match model alone, in whole numbers, so that any machine can decode it."""
    data = container.read_bytes(source)
    art, sha256 = _loaded(artifact_path)
    coded_file, coded = packed(data, art, sha256, ranks.device, str(source), anywhere=anywhere)
    container.atomic_write(target, coded_file)
    return _report(len(data), len(coded_file), coded)


def packed(
    data: bytes, art: "Artifact", artifact_sha: str, device: "torch.device", name: str = "data", *, anywhere: bool = False
) -> tuple[bytes, "Coded"]:
    """The coded file of some bytes.  name: of their source, for errors.  anywhere: as in `compress`."""
    from hybrid.coding import portable, stream_coder
    from hybrid.data import tokenizer

    codec = tokenizer.load(art.tokenizer)
    tokens = with_bos(codec, data)
    if codec.decode_bytes(tokens.tolist()) != data:
        raise FileFormatError(f"{name}: the artifact's tokenizer does not return these bytes; report this file")
    if anywhere:
        coded_file, coded = portable.encode(art, artifact_sha, tokens, data)
    else:
        settings = stream_coder.Settings(len(tokens), stream_coder.STREAMS[device.type], "file")
        coded_file, coded = stream_coder.encode(art, artifact_sha, tokens, settings, device, data)
    if is_worse(len(coded_file), len(data)):  # what no model can predict, such as a packed file, or very short
        coded_file = store(data)
    return coded_file, coded


def decompress(source: Path, target: Path, artifact_path: Path, tokens_target: Path | None = None) -> dict[str, Any]:
    """Writes the bytes (and, when asked, the tokens as little-endian uint16) that `source` holds.

    Nothing is written unless they are the bytes that were coded."""
    coded_file = container.read_bytes(source)
    if coded_file.startswith(STORED_MAGIC):
        data = _unstored(coded_file, str(source))
        if tokens_target is not None:
            raise FileFormatError(f"{source}: holds the bytes as they are and so no tokens; leave --tokens out")
        container.atomic_write(target, data)
        sizes = {"bytes": len(data), "file_bytes": len(coded_file), "payload_bytes": len(data), "tokens": 0}
        return {**sizes, "wall_s": 0.0, "tokens_per_s": 0.0, "seconds": {}}
    art, sha256 = _loaded(artifact_path)
    data, coded = unpacked(coded_file, art, sha256, str(source))
    assert coded is not None
    if tokens_target is not None:
        container.atomic_write(tokens_target, coded.tokens.astype("<u2").tobytes())
    container.atomic_write(target, data)
    return _report(len(data), len(coded_file), coded)


def _loaded(path: Path) -> tuple["Artifact", str]:
    """The artifact and its digest.  The coder's kernels load or compile meanwhile."""
    with loading():
        from hybrid.coding.stream_coder import artifact_sha256
        from hybrid.storing.kept_tables import load
        from ngram.blending.warm_up import WarmUp
        from ngram.blending.warm_up_columns import CODING

        with WarmUp(CODING):
            return load(path), artifact_sha256(path)


def unpacked(coded_file: bytes, art: "Artifact", artifact_sha: str, name: str = "data") -> tuple[bytes, "Coded | None"]:
    """The bytes that were coded, and how (None: stored as they are).  Raises FileFormatError or FingerprintError, naming `name`."""
    if coded_file.startswith(STORED_MAGIC):
        return _unstored(coded_file, name), None
    from hybrid.coding import portable, stream_coder
    from hybrid.data import tokenizer
    from hybrid.data.decoded_text import text_bytes

    decode = portable.decode if coded_file.startswith(portable.MAGIC) else stream_coder.decode
    coded = decode(art, artifact_sha, coded_file, name)
    joined = tokenizer.load(art.tokenizer).decode_bytes(coded.tokens.tolist()) if coded.kind == "file" else text_bytes(art.tokenizer, coded.tokens)
    stream_coder.check_original(coded, joined, name)
    return joined, coded


def is_worse(coded: int, plain: int) -> bool:
    """Whether a coded file of so many bytes is larger than the stored one."""
    return coded > plain + STORED_BYTES


def store(data: bytes) -> bytes:
    """The bytes as they are, behind a magic number and their SHA-256: a file that no model makes smaller grows by STORED_BYTES."""
    return STORED_MAGIC + hashlib.sha256(data).digest() + data


def _unstored(coded_file: bytes, name: str) -> bytes:
    """Raises FileFormatError unless the digest is right."""
    data, begin = coded_file[STORED_BYTES:], len(STORED_MAGIC)
    if hashlib.sha256(data).digest() != coded_file[begin:STORED_BYTES]:
        raise FileFormatError(f"{name}: digest does not match, the file was cut or altered; copy or make it again")
    return data


def with_bos(codec: "Tokenizer", data: bytes) -> U16:
    """(n,) uint16: BOS and the tokens of `data`; nothing at all for an empty file."""
    if not data:
        return np.zeros(0, dtype=np.uint16)
    return np.concatenate([np.array([codec.bos], dtype=np.uint16), codec.encode_bytes(data)])


def _report(plain: int, packed: int, coded: "Coded") -> dict[str, Any]:
    sizes = {"bytes": plain, "file_bytes": packed, "payload_bytes": coded.payload_bytes, "tokens": len(coded.tokens)}
    return {**sizes, "wall_s": coded.wall_s, "tokens_per_s": coded.tokens_per_s, "seconds": coded.seconds}
