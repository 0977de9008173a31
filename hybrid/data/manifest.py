"""The folder that `prepare` writes (docs/formats.md): shards, tokenizer, an index of documents a split, and the manifest that names them all.

The manifest is written last; until then one stands there that says "incomplete"."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.data.shards import DataError, Stream
from ngram.pieces import SPACE, Pieces

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.model"
LOSSLESS, CHALLENGE, LOSSY = "lossless", "challenge", "lossy"  # how the documents were encoded
OR_PREPARE = "or, to score it, prepare its text with the artifact's (seedgram inspect A --tokenizer F)"
SAMPLE_TOKENS = 20_000  # of a stream without a manifest, to see whether a tokenizer made it
SAMPLE_LEAST = 200
PLAUSIBLE = 0.97  # share of tokens that come back when a stream's text is encoded again; what others give: docs/data.md
_BROKEN = re.compile("[\ud800-\udfff]+")  # what is no UTF-8, once decoded with surrogateescape
_BYTEWISE = re.compile(f"[{SPACE}\ud800-\udfff]+")  # what travels as byte pieces whatever the tokenizer: other bytes stand in for it


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    match manifest:
        case {"shards": dict()} if isinstance(manifest.get("encoding", ""), str):
            return manifest
    return {}


def manifest_of(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """The manifest that lists these shards, or {} for shards that come without one.

    Raises DataError when it lists only some of them (a folder holds shards of two origins), or was left by an interrupted run."""
    places = [Path(path) for path in paths]
    listed = [name for name in places if name.name in read_manifest(name.parent).get("shards", {})]
    found = read_manifest(places[0].parent)
    if listed and found.get("incomplete"):
        raise DataError(f"{places[0].parent}: was not prepared to the end; prepare it again")
    if not listed or "encoding" not in found:
        return {}
    if strange := [path for path in places if path not in listed]:
        raise DataError(f"{strange[0]}: is not one of the shards that {MANIFEST} lists; move it to a folder of its own")
    return found


def check_shards(shards: Stream | Sequence[str | os.PathLike[str]], model: bytes) -> dict[str, Any]:
    """The manifest of some shards ({} where they have none), after a look at what goes wrong without a word.

    shards: their paths, or the open stream of them; model: the SentencePiece model that is to read them.  Raises DataError when a shard is
    there twice, was altered since its manifest was written, or, also without a manifest, belongs to another tokenizer."""
    stream = shards if isinstance(shards, Stream) else Stream(shards)
    for place, (path, found) in enumerate(zip(stream.paths, stream.digests, strict=True)):
        if len(stream.shards[place]) and (first := stream.digests.index(found)) < place:
            raise DataError(f"{path}: holds the same tokens as {stream.paths[first].name}; remove one of the two")
    manifest = manifest_of(stream.paths)
    if not manifest:
        check_plausible(stream, model)
        return {}
    if manifest.get("tokenizer_sha256") != hashlib.sha256(model).hexdigest():
        raise DataError(f"{stream.paths[0]}: was made with another tokenizer than the one given; give the {TOKENIZER} beside it, {OR_PREPARE}")
    for path, shard, found in zip(stream.paths, stream.shards, stream.digests, strict=True):
        if manifest["shards"][path.name] != [len(shard), found]:
            raise DataError(f"{path}: is not what {MANIFEST} says of it, it was altered; prepare the folder again")
    return manifest


def check_plausible(stream: Stream, model: bytes) -> None:
    """Raises DataError when a tokenizer cannot have made a stream: its text, encoded again, gives other tokens."""
    codec = Pieces(model)
    tokens = stream.read(0, min(len(stream), SAMPLE_TOKENS))
    tokens = tokens[tokens != codec.bos]
    if len(tokens) < SAMPLE_LEAST or int(tokens.max()) >= codec.vocab_size:
        return  # too few to tell; a token outside the vocabulary is an error of its own
    text = codec.decode_bytes(tokens.tolist()).decode("utf-8", "surrogateescape")
    share = 1 - len(_BROKEN.findall(text)) / len(tokens)
    if codec.has_all_bytes and (codec.has_space or codec.sp is None):
        text = _BYTEWISE.sub(lambda found: "\x01" * len(found[0].encode("utf-8", "surrogateescape")), text)
        share = min(share, len(_spans(codec, tokens) & _spans(codec, np.array(codec.plain([text])[0]))) / len(tokens))
    if share < PLAUSIBLE:
        found = f"{1 - share:.0%} of its tokens are not what this tokenizer makes of their text"
        raise DataError(f"{stream.paths[0]}: {found}; give the tokenizer it was made with, {OR_PREPARE}")


def _spans(codec: Pieces, tokens: np.ndarray) -> set[tuple[int, int]]:
    """(first byte, last byte + 1) of each token in the text that the tokens say."""
    ends = np.cumsum([len(codec.piece_bytes[token]) for token in tokens.tolist()]).tolist()
    return set(zip([0, *ends], ends, strict=False))
