"""Coded files that any machine can read: the n-grams and the match model of an artifact, in whole numbers (whole_numbers.py).

Nothing in such a file depends on the processor, on the device, or on the versions of libraries, so it carries no fingerprint.
VERSION changes with any change of the distributions.  The range coder's own arithmetic (constriction) is one product and one
rounding of exact numbers an entry, which IEEE 754 fixes.
"""

import time
from typing import Any

import numpy as np

from hybrid.coding.stream_coder import MAX_TOKENS, TOKENS_A_BYTE, Coded, check_artifact, digest_of
from hybrid.coding.symbols import SymbolDecoder, SymbolEncoder
from hybrid.coding.whole_numbers import WholeNumbers
from hybrid.storing.artifact import Artifact
from ngram import container
from ngram.arrays import U16
from ngram.errors import FileFormatError, SeedgramError
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst
from ngram.terminal import track

MAGIC = b"SGPORTAB"
VERSION = 1
EMPTY = np.zeros(0, np.uint16)


def encode(art: Artifact, artifact_sha: str, tokens: U16, original: bytes) -> tuple[bytes, Coded]:
    """The file's bytes.  tokens (n,) uint16, the first of them BOS; original: the bytes they stand for, of which a digest is kept.

    Raises SeedgramError for an artifact without n-grams."""
    part, coder, began, each = _part(art), SymbolEncoder(), time.monotonic(), []
    order = ScoreFirst(tokens, {"part": part})
    for t in track(range(1, len(tokens)), "coding"):
        coder.give(row_at(order, t)["part"], part.active(t), tokens[t : t + 1].astype(np.int64))
        each.append(order.score_then_update(t, t + 1)["part"])
    payload = coder.payload() if len(tokens) else b""
    sha = digest_of(original)
    data = container.pack(MAGIC, VERSION, {"n": len(tokens), "art": artifact_sha[:32], "sha": sha}, {"p": payload})
    return data, _coded(tokens, coder.bits, each, payload, data, sha, began)


def decode(art: Artifact, artifact_sha: str, data: bytes, where: str) -> Coded:
    """The tokens of a file.  Raises FileFormatError, naming the file `where` and the reason."""
    header, sections = container.unpack(data, MAGIC, VERSION, where)
    try:
        n, made_with, sha, payload = int(header["n"]), str(header["art"]), str(header["sha"]), sections["p"]
        if type(header["n"]) is not int or not 0 <= n <= min(MAX_TOKENS, TOKENS_A_BYTE * len(payload)) or len(payload) % 4:
            raise ValueError("settings out of range")
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{where}: malformed header ({error}); make the file again") from None
    check_artifact(made_with, artifact_sha, where)
    began, each = time.monotonic(), []
    if n == 0:
        return _coded(EMPTY, 0.0, [], payload, data, sha, began)
    part, decoder = _part(art), SymbolDecoder(payload)
    order = ScoreFirst(np.full(n, part.cache.bos, np.uint16), {"part": part})
    for t in track(range(1, n), "decoding"):
        try:
            order.tokens[t] = decoder.take(row_at(order, t)["part"], part.active(t))[0]
        except ValueError as error:
            raise FileFormatError(f"{where}: payload does not decode ({error}); copy the file again") from None
        each.append(order.score_then_update(t, t + 1)["part"])
    if not decoder.exhausted:
        raise FileFormatError(f"{where}: payload goes on after its last token; copy the file again")
    return _coded(part.text(order.tokens), decoder.bits, each, payload, data, sha, began)


def _part(art: Artifact) -> WholeNumbers:
    if art.table is None:
        raise SeedgramError("--portable codes with the n-grams alone, and this artifact has none; leave --portable out")
    return WholeNumbers(art.table)


def _coded(tokens: U16, bits: float, each: list[Any], payload: bytes, data: bytes, sha: str, began: float) -> Coded:
    wall_s = time.monotonic() - began
    costs = -np.log2(np.concatenate([np.ones(0), *each]))
    return Coded(tokens, bits, costs, len(payload), len(data) - len(payload), 1, "file", sha, wall_s, len(tokens) / max(wall_s, 1e-9), {})
