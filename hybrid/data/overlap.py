"""Documents that two streams share, or that one stream holds more than once, found by their tokens: for shards of any origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hybrid.data.manifest import manifest_of
from hybrid.data.shards import SCAN_TOKENS, DataError, Stream
from ngram.arrays import I64, U64
from ngram.terminal import warn

SHORTEST_TOKENS = 16  # a document of fewer, BOS included, may be written twice by chance ("Yes.")


@dataclass(frozen=True)
class Shared:
    """documents, tokens: of the stream that is looked at, those that were there before; of_documents, of_tokens: all of it."""

    documents: int
    of_documents: int
    tokens: int
    of_tokens: int

    @property
    def share(self) -> float:
        """Of the tokens, 0 to 1."""
        return self.tokens / max(1, self.of_tokens)


def document_starts(stream: Stream, bos: int) -> I64:
    """(D,) where each document begins: at every BOS, and at 0 where the stream begins inside of one."""
    blocks = range(0, len(stream), SCAN_TOKENS)
    found = [start + np.flatnonzero(stream.read(start, min(len(stream), start + SCAN_TOKENS)) == bos) for start in blocks]
    return np.unique(np.concatenate([[0], *found]))


def document_hashes(stream: Stream, bos: int) -> tuple[U64, I64]:
    """((D,) xxh3_64 of each document's tokens, (D,) its length, BOS included)."""
    edges = np.append(document_starts(stream, bos), len(stream))
    documents = (np.ascontiguousarray(stream.read(start, stop)) for start, stop in pairwise(edges.tolist()))
    return np.fromiter((xxhash.xxh3_64_intdigest(tokens.data) for tokens in documents), np.uint64, len(edges) - 1), np.diff(edges)


def overlap(train: Stream, val: Stream, bos: int) -> Shared:
    """Validation documents that are training documents too.  Both streams of one tokenizer, whose documents begin with `bos`."""
    seen, _ = document_hashes(train, bos)
    hashes, lengths = document_hashes(val, bos)
    return _shared(np.isin(hashes, seen), lengths)


def repeats(stream: Stream, bos: int) -> Shared:
    """Documents of a stream that it held before: what learns as it scores finds them easy."""
    hashes, lengths = document_hashes(stream, bos)
    again = np.ones(len(hashes), np.bool_)
    again[np.unique(hashes, return_index=True)[1]] = False
    return _shared(again, lengths)


def _shared(again: np.ndarray, lengths: I64) -> Shared:
    again &= lengths >= SHORTEST_TOKENS
    return Shared(int(again.sum()), len(lengths), int(lengths[again].sum()), int(lengths.sum()))


def check_overlap(train: Stream, val: Stream, bos: int, *, allowed: bool = False) -> None:
    """Raises DataError with the remedy when `overlap` finds documents; `allowed`: says so only."""
    if (shared := overlap(train, val, bos)).documents:
        _say_or_refuse(f"{val.paths[0]}: {shared.documents:,} of {shared.of_documents:,} validation documents, {shared.share:.2%} of the tokens,", allowed)


def check_manifest(paths: Sequence[Path], *, allowed: bool) -> dict[str, Any]:
    """The manifest of some validation shards.  The same check for a folder that was prepared with --overlap keep."""
    manifest = manifest_of(paths)
    match manifest:
        case {"overlap": int(count), "settings": {"overlap": "keep"}} if count:
            _say_or_refuse(f"{paths[0]}: {count:,} validation documents", allowed)
    return manifest


def check_scored(paths: Sequence[Path], bos: int, *, allowed: bool) -> None:
    """`check_manifest` before scoring; also warns of documents that come again, which `prepare` would have left out."""
    match check_manifest(paths, allowed=allowed):
        case {"settings": {"keep_duplicates": False}}:
            return
    if (again := repeats(Stream(paths), bos)).documents:
        what = f"{again.documents:,} of {again.of_documents:,} documents, {again.share:.2%} of the tokens,"
        warn(f"{paths[0]}: {what} have come before in these shards: what learns as it scores finds them easy")


def _say_or_refuse(what: str, allowed: bool) -> None:
    what += " are training documents too"
    if not allowed:
        raise DataError(f"{what}; prepare the text again with --overlap drop, or allow it with --allow-overlap")
    warn(f"{what}: figures on them are too good")
