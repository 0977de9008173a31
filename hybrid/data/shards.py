"""Token shards in the challenge's format, and a loader that is a pure function of the step number.

A shard is a header (docs/formats.md) and at most 10^8 tokens; BOS stands before each document.
Shapes: N tokens of a stream, T = seq_len, H = history (tokens carried before each row).
"""

import os
import re
from collections.abc import Iterable
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ngram.arrays import I64, Mask, Tokens, digest, pad_of, token_type
from ngram.errors import DataError as DataError
from ngram.errors import FileFormatError
from ngram.splitmix import GAMMA, mix64, splitmix64
from ngram.table import MAX_VOCAB

SHARD_MAGIC = 20240520  # the challenge's, as its format version and header
SHARD_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<u2"), 2: np.dtype("<u4")}  # format version → type of its tokens; 2 is ours
HEADER_INTS = 256
HEADER_BYTES = 4 * HEADER_INTS
BOS = 1
SCAN_TOKENS = 1 << 24  # vocabulary checks read this many tokens at a time: 32 MB


class ShardError(FileFormatError):
    """A file that is not a whole shard of this vocabulary."""


def read_shard(path: str | os.PathLike[str], vocab_size: int | None = None) -> Tokens:
    """The tokens of one shard as a read-only memory map, (n,) uint16, or uint32 where its vocabulary has more than 65,535.

    vocab_size: when given, every token is checked to be below it.  Raises ShardError naming the file and the remedy."""
    name = os.fspath(path)
    try:
        size = os.path.getsize(name)
        header = np.fromfile(name, dtype="<i4", count=HEADER_INTS)
    except OSError as error:
        raise ShardError(f"{name}: cannot read: {error.strerror}; check the path") from None
    if len(header) < HEADER_INTS or header[0] != SHARD_MAGIC:
        raise ShardError(f"{name}: not a token shard; make shards with scripts/prepare_data.py")
    kind = SHARD_TYPES.get(int(header[1]))
    if kind is None:
        raise ShardError(f"{name}: shard version {header[1]}, this program reads 1 and 2; make it again with scripts/prepare_data.py")
    promised, found = int(header[2]), (size - HEADER_BYTES) / kind.itemsize
    if promised < 0 or found != promised:
        raise ShardError(f"{name}: header promises {promised:,} tokens, file holds {found:,g}; copy or download it again")
    remedy = "use the tokenizer it was made with"
    if vocab_size is not None and kind != token_type(vocab_size):
        raise ShardError(f"{name}: its tokens have {8 * kind.itemsize} bits, not as a vocabulary of {vocab_size}; {remedy}")
    if promised == 0:
        return np.zeros(0, kind)
    tokens = np.memmap(name, dtype=kind, mode="r", offset=HEADER_BYTES, shape=(promised,))
    for start in range(0, promised if vocab_size else 0, SCAN_TOKENS):
        outside = start + np.flatnonzero(tokens[start : start + SCAN_TOKENS] >= vocab_size)
        if len(outside):
            raise ShardError(f"{name}: token {tokens[outside[0]]} at {outside[0]:,} is outside the vocabulary of {vocab_size}; {remedy}")
    return tokens


def find_shards(path: str | os.PathLike[str], split: str) -> list[Path]:
    """The shards of a split ("train" or "val") in a folder, in order; a path to a file is that file alone."""
    place = Path(path)
    if os.path.isfile(place):
        return [place]
    state, files = (f"no *_{split}_*.bin in it", place.glob("*.bin")) if os.path.isdir(place) else ("no such folder", ())
    found = sorted(path for path in files if re.fullmatch(rf"[^.].*_{split}_\d+\.bin", path.name))
    if not found:
        raise DataError(f"{place}: {state}; make shards with scripts/prepare_data.py --out {place}")
    return found


class Stream:
    """Shards back to back as one read-only sequence of N tokens."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]], vocab_size: int | None = None) -> None:
        self.paths = [Path(path) for path in paths]
        self.shards = [read_shard(path, vocab_size) for path in self.paths]
        self.starts = np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def digests(self) -> list[str]:
        """Of each shard, as it was when first asked for."""
        return [digest(shard) for shard in self.shards]

    def read(self, start: int, stop: int) -> Tokens:
        """Tokens start…stop-1, (stop-start,): a view where one shard holds them all, else a copy."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        self._check_lengths(first, stop)
        parts = [self.shards[0][:0]]
        while start < stop:
            parts.append(self.shards[first][start - self.starts[first] : stop - self.starts[first]])
            first, start = first + 1, int(self.starts[first + 1])
        return np.concatenate(parts) if len(parts) > 2 else parts[-1]

    def _check_lengths(self, first: int, stop: int) -> None:
        """Raises ShardError for a shard that was cut: reading past a file's end kills the process (SIGBUS)."""
        for path, shard, start in zip(self.paths[first:], self.shards[first:], self.starts[first:], strict=False):
            if start >= stop:
                return
            if isinstance(shard, np.memmap) and shard.base.size() < HEADER_BYTES + shard.nbytes:  # type: ignore[union-attr, operator]
                raise ShardError(f"{path}: cut while it was being read; copy it again, then --resume")

    def check_unchanged(self) -> None:
        """Raises ShardError naming a shard whose tokens are not those of `digests`."""
        self._check_lengths(0, len(self))
        for path, shard, before in zip(self.paths, self.shards, self.digests, strict=True):
            if digest(shard) != before:
                raise ShardError(f"{path}: changed while it was being read; copy it again and start anew without --resume")


def predictable(paths: Iterable[str | os.PathLike[str]], vocab_size: int | None = None) -> Stream:
    """A stream to score.  Raises DataError where there is nothing in it: token 0 is given, so it needs two."""
    stream = Stream(paths, vocab_size)
    if len(stream) < 2:
        raise DataError(f"{stream.paths[0]}: {len(stream)} tokens, and so none to predict; make it again from more text")
    return stream


def permutation(count: int, seed: int, epoch: int) -> I64:
    """A shuffle of 0…count-1 that is a function of integers: (count,) int64."""
    stream = mix64(mix64(np.array([seed], dtype=np.uint64) + GAMMA) + np.uint64(epoch))
    return np.argsort(mix64(stream + np.arange(count, dtype=np.uint64) * GAMMA), kind="stable")


def holdout_start(stream: Stream, holdout_tokens: int, bos: int) -> int:
    """Where the held-out end begins: at the BOS nearest to holdout_tokens before the end; exactly there if none is within half that."""
    exact = len(stream) - holdout_tokens
    low = max(1, exact - holdout_tokens // 2)
    places = low + np.flatnonzero(stream.read(low, min(len(stream), exact + holdout_tokens // 2)) == bos)
    return int(places[np.argmin(np.abs(places - exact))]) if len(places) else exact


class Loader:
    """Rows of H + T tokens from training shards: H carried tokens, then T targets; inputs are `row[:, H-1:-1]`.

    Token 0 of the stream is given; row r has the targets 1 + r·T … (r+1)·T behind the H tokens before them (PAD before the
    beginning).  Rows come in one seeded permutation an epoch, epochs back to back; step s takes `batch_rows` of them, and rank k
    of W the k-th of W equal parts.  Rows of later epochs begin up to T-1 tokens earlier (docs/decisions.md).  The end of
    the stream (`holdout`) is in no row."""

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]], *, batch_rows: int, seq_len: int, history: int = 6, rank: int = 0, world: int = 1,
        seed: int = 0, holdout_tokens: int = 0, vocab_size: int | None = None, bos: int = BOS,
    ) -> None:
        """batch_rows: rows a step over all ranks, a multiple of them; bos: the token that begins documents.

        Raises ShardError for bad files, DataError for settings that leave no rows."""
        self.stream = Stream(paths, vocab_size)
        self.digests = self.stream.digests  # taken now: what the run sees at its end must be the same
        self.vocab_size = vocab_size or MAX_VOCAB
        self.batch_rows, self.seq_len, self.history, self.seed, self.bos = batch_rows, seq_len, history, seed, bos
        self.rows_per_rank = batch_rows // world
        self._offset = rank * self.rows_per_rank
        name = self.stream.paths[0]
        if holdout_tokens >= len(self.stream) - 1:
            what = f"{len(self.stream):,} tokens leave nothing after holding out {holdout_tokens:,}"
            raise DataError(f"{name}: {what}; lower --holdout-tokens, say to {len(self.stream) // 10}")
        self.train_tokens = holdout_start(self.stream, holdout_tokens, bos)
        self.rows_per_epoch = (self.train_tokens - 1) // seq_len
        if self.rows_per_epoch < 1:
            raise DataError(f"{name}: {self.train_tokens:,} training tokens make no row of {seq_len} targets; lower --seq-len or use more text")
        self._order = lru_cache(2)(partial(permutation, self.rows_per_epoch, seed))  # of an epoch; a batch of a tiny corpus straddles some

    def _global(self, step: int) -> I64:
        """(rows_per_rank,) places of this rank's rows in the endless sequence of epochs."""
        return step * self.batch_rows + self._offset + np.arange(self.rows_per_rank, dtype=np.int64)

    def row_indices(self, step: int) -> I64:
        """(rows_per_rank,) numbers of this rank's rows at a step, each in the division of its epoch."""
        epochs, places = np.divmod(self._global(step), self.rows_per_epoch)
        return np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64)

    def first_targets(self, step: int) -> I64:
        """(rows_per_rank,) places in the stream of the first target of each row of this rank at a step."""
        epochs = self._global(step) // self.rows_per_epoch
        shift = splitmix64(self.seed, epochs.astype(np.uint64)) % np.uint64(self.seq_len)
        return np.maximum(1, 1 + self.row_indices(step) * self.seq_len - np.where(epochs > 0, shift.astype(np.int64), 0))

    def _row(self, first_target: int, targets: int) -> Tokens:
        """(H + targets,) with PAD where history reaches before the stream."""
        missing = max(0, self.history - first_target)
        row = self.stream.read(first_target - self.history + missing, first_target + targets)
        return np.pad(row, (missing, 0), constant_values=pad_of(row.dtype)) if missing else row

    def batch(self, step: int) -> Tokens:
        """Rows of this rank at a step: (rows_per_rank, H+T), a fresh array."""
        rows = np.concatenate([self._row(first, self.seq_len) for first in self.first_targets(step).tolist()]).reshape(self.rows_per_rank, -1)
        if int(rows[:, self.history - 1 :].max()) >= self.vocab_size:  # on a GPU it would end the process
            what = f"step {step}: a token outside the vocabulary of {self.vocab_size}, a shard changed while it was being read"
            raise ShardError(f"{self.stream.paths[0].parent}: {what}; copy it again, then --resume")
        return rows

    def is_first_epoch(self, step: int) -> Mask:
        """(rows_per_rank,) bool: which rows of `batch(step)` are seen for the first time, and so are to be counted."""
        return self._global(step) < self.rows_per_epoch

    def remainder(self) -> Tokens:
        """The targets that fill no whole row, as one row with its history: (H + n,) uint16, 0 ≤ n < T."""
        done = self.rows_per_epoch * self.seq_len
        return np.array(self._row(1 + done, self.train_tokens - 1 - done))

    def holdout(self) -> Tokens:
        """The held-out end of the training stream, (n,) uint16; it is neither trained on nor counted."""
        return self.stream.read(self.train_tokens, len(self.stream))
