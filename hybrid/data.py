"""Token shards in the challenge's format, and a loader that is a pure function of the step number.

A shard is 256 little-endian int32 (`[20240520, 1, n_tokens, 0…]`), then n_tokens little-endian uint16, at most 10^8
of them; BOS stands before each document.  Shards are read through memory maps, never copied whole.

Shapes: N tokens of a stream, T = seq_len, H = history (tokens carried before each row).
"""

import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from ngram.container import atomic_write
from ngram.errors import FileFormatError, SeedgramError
from ngram.table import PAD, U16

SHARD_MAGIC = 20240520  # the challenge's, as its format version, header and shard length
SHARD_VERSION = 1
HEADER_INTS = 256
SHARD_TOKENS = 10**8
BOS = 1
SCAN_TOKENS = 1 << 24  # vocabulary checks read this many tokens at a time: 32 MB


class DataError(SeedgramError):
    """Token data that is missing, too short or does not fit the settings."""


class ShardError(FileFormatError):
    """A file that is not a whole shard of this vocabulary."""


def read_shard(path: str | os.PathLike[str], vocab_size: int | None = None) -> U16:
    """The tokens of one shard as a read-only memory map, (n,) uint16.

    vocab_size: when given, every token is checked to be below it.  Raises ShardError naming the file and the remedy."""
    name = os.fspath(path)
    header_bytes = 4 * HEADER_INTS
    try:
        size = os.path.getsize(name)
        header = np.fromfile(name, dtype="<i4", count=HEADER_INTS)
    except OSError as error:
        raise ShardError(f"{name}: cannot read: {error.strerror}; check the path") from None
    if len(header) < HEADER_INTS or header[0] != SHARD_MAGIC:
        raise ShardError(f"{name}: not a token shard; make shards with scripts/prepare_data.py")
    if header[1] != SHARD_VERSION:
        raise ShardError(
            f"{name}: shard version {header[1]}, this program reads {SHARD_VERSION}; make it again with scripts/prepare_data.py"
        )
    promised, found = int(header[2]), size - header_bytes
    if promised < 0 or found != 2 * promised:
        raise ShardError(f"{name}: header promises {promised:,} tokens, file holds {found / 2:,g}; copy or download it again")
    if promised == 0:
        return np.zeros(0, dtype=np.uint16)
    tokens = np.memmap(name, dtype="<u2", mode="r", offset=header_bytes, shape=(promised,))
    if vocab_size is not None:
        for start in range(0, promised, SCAN_TOKENS):
            part = tokens[start : start + SCAN_TOKENS]
            if int(part.max()) >= vocab_size:
                place = start + int(np.argmax(part >= vocab_size))
                raise ShardError(
                    f"{name}: token {int(tokens[place])} at {place:,} is outside the vocabulary of {vocab_size}; use the tokenizer it was made with"
                )
    return tokens


def write_shard(path: str | os.PathLike[str], tokens: npt.NDArray[np.integer] | Sequence[int]) -> None:
    """Writes one shard; the file appears whole or not at all.  tokens: (n,) integers in 0…65534, n ≤ 10^8."""
    array = np.asarray(tokens)
    if array.ndim != 1 or len(array) > SHARD_TOKENS:
        raise DataError(f"{os.fspath(path)}: a shard holds one row of at most {SHARD_TOKENS:,} tokens; split it with write_shards")
    if len(array) and not 0 <= int(array.min()) <= int(array.max()) < PAD:
        raise DataError(f"{os.fspath(path)}: tokens must lie in 0…{PAD - 1}; use a tokenizer of at most {PAD:,} pieces")
    header = np.zeros(HEADER_INTS, dtype="<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(array)
    atomic_write(path, header.tobytes() + array.astype("<u2").tobytes())


def write_shards(folder: str | os.PathLike[str], name: str, split: str, tokens: U16, shard_tokens: int = SHARD_TOKENS) -> list[Path]:
    """Cuts a stream into `<name>_<split>_000000.bin`, …; (n,) uint16 tokens, shard_tokens a file."""
    paths = []
    for number, start in enumerate(range(0, max(len(tokens), 1), shard_tokens)):
        paths.append(Path(folder) / f"{name}_{split}_{number:06d}.bin")
        write_shard(paths[-1], tokens[start : start + shard_tokens])
    return paths


def find_shards(path: str | os.PathLike[str], split: str) -> list[Path]:
    """The shards of a split ("train" or "val") in a folder, in order; a path to a file is that file alone."""
    place = Path(path)
    if place.is_file():
        return [place]
    found = sorted(path for path in place.glob("*.bin") if re.fullmatch(rf"[^.].*_{split}_\d+\.bin", path.name))
    if not found:
        state = "no such folder" if not place.is_dir() else f"no *_{split}_*.bin in it"
        raise DataError(f"{place}: {state}; make shards with scripts/prepare_data.py --out {place}")
    return found


class Stream:
    """Shards back to back as one read-only sequence of N uint16 tokens."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]], vocab_size: int | None = None) -> None:
        self.paths = [Path(path) for path in paths]
        self.shards = [read_shard(path, vocab_size) for path in self.paths]
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def digests(self) -> list[str]:
        """Of each shard, as it was when this was first asked for."""
        return [digest(shard) for shard in self.shards]

    def read(self, start: int, stop: int) -> U16:
        """Tokens start…stop-1, (stop-start,) uint16: a view where one shard holds them all, else a copy."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        if stop <= start:
            return np.zeros(0, dtype=np.uint16)
        self._check_lengths(first, stop)
        if stop <= self.starts[first + 1]:
            return self.shards[first][start - self.starts[first] : stop - self.starts[first]]
        parts = []
        while start < stop:
            parts.append(self.shards[first][start - self.starts[first] : stop - self.starts[first]])
            first, start = first + 1, int(self.starts[first + 1])
        return np.concatenate(parts)

    def _check_lengths(self, first: int, stop: int) -> None:
        """Raises ShardError when a shard that is about to be read was cut: reading past a file's end kills the process (SIGBUS)."""
        for path, shard, start in zip(self.paths[first:], self.shards[first:], self.starts[first:], strict=False):
            if start >= stop:
                return
            if isinstance(shard, np.memmap) and shard.base.size() < 4 * HEADER_INTS + 2 * len(shard):  # type: ignore[union-attr, operator]
                raise ShardError(f"{path}: cut while it was being read; copy it again, then --resume")

    def check_unchanged(self) -> None:
        """Raises ShardError naming a shard whose tokens are not those of `digests`."""
        self._check_lengths(0, len(self))
        for path, shard, before in zip(self.paths, self.shards, self.digests, strict=True):
            if digest(shard) != before:
                raise ShardError(f"{path}: changed while it was being read; copy it again and start anew without --resume")


def digest(tokens: U16) -> str:
    """xxh3_128 of a stream, (n,) uint16, a block at a time."""
    state = xxhash.xxh3_128()
    for start in range(0, len(tokens), SCAN_TOKENS):
        state.update(np.ascontiguousarray(tokens[start : start + SCAN_TOKENS]).data)
    return state.hexdigest()


def load_stream(path: str | os.PathLike[str], split: str, vocab_size: int | None = None) -> U16:
    """All tokens of a split as one (N,) uint16 array, memory-mapped when one shard holds them.

    Raises DataError when there is nothing to score: token 0 is given, so a stream needs two."""
    stream = Stream(find_shards(path, split), vocab_size)
    if len(stream) < 2:
        raise DataError(f"{stream.paths[0]}: the {split} set has {len(stream)} tokens and so none to predict; make it again from more text")
    return stream.read(0, len(stream))


def _mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64, (n,) uint64: the same shuffle on every machine.  Steele, Lea & Flood (2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permutation(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A shuffle of 0…count-1 that is a function of integers: (count,) int64."""
    stream = _mix64(_mix64(np.array([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(epoch))
    return np.argsort(_mix64(stream + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)), kind="stable")


def holdout_start(stream: Stream, holdout_tokens: int, bos: int = BOS) -> int:
    """Where the held-out end begins: at the BOS nearest to holdout_tokens before the end; exactly there when no BOS
    lies within half that distance (one long document)."""
    exact = len(stream) - holdout_tokens
    if holdout_tokens == 0:
        return exact
    low = max(1, exact - holdout_tokens // 2)
    places = low + np.flatnonzero(stream.read(low, min(len(stream), exact + holdout_tokens // 2)) == bos)
    return int(places[np.argmin(np.abs(places - exact))]) if len(places) else exact


class Loader:
    """Rows of H + T tokens from training shards: H carried tokens, then T targets; inputs are `row[:, H-1:-1]`.

    Token 0 of the stream is given; row r has the targets 1 + r·T … (r+1)·T, preceded by the H tokens before them (PAD
    before the beginning).  Global row order is one seeded permutation an epoch, epochs back to back; step s takes
    `batch_rows` of it, and rank k of W the k-th of W equal parts: what is seen does not depend on W, and
    `batch(step)` on nothing but the step.  The end of the stream (`holdout`) is in no row."""

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        batch_rows: int,
        seq_len: int,
        history: int = 6,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        holdout_tokens: int = 0,
        vocab_size: int | None = None,
        bos: int = BOS,
    ) -> None:
        """batch_rows: rows a step over all ranks.  Raises ShardError for bad files, DataError for settings that do not fit."""
        if not 0 <= rank < world or batch_rows % world or batch_rows < 1:
            raise DataError(f"a batch of {batch_rows} rows does not divide over {world} ranks; choose a multiple of {world}")
        if seq_len < 1 or history < 1 or holdout_tokens < 0:
            raise DataError(f"seq_len {seq_len} and history {history} must be at least 1, holdout_tokens {holdout_tokens} at least 0")
        self.stream = Stream(paths, vocab_size)
        self.digests = self.stream.digests  # taken now: what the run sees at its end must be the same
        self.vocab_size = PAD + 1 if vocab_size is None else vocab_size
        self.batch_rows, self.seq_len, self.history, self.seed = batch_rows, seq_len, history, seed
        self.rows_per_rank = batch_rows // world
        self._offset = rank * self.rows_per_rank
        name = self.stream.paths[0] if self.stream.paths else "training data"
        if holdout_tokens >= len(self.stream) - 1:
            raise DataError(
                f"{name}: {len(self.stream):,} tokens leave nothing after holding out {holdout_tokens:,}; lower --holdout-tokens"
            )
        self.train_tokens = holdout_start(self.stream, holdout_tokens, bos)
        self.rows_per_epoch = max(self.train_tokens - 1, 0) // seq_len
        if self.rows_per_epoch == 0:
            raise DataError(
                f"{name}: {self.train_tokens:,} training tokens make no row of {seq_len} targets; lower --seq-len or use more text"
            )
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every row has been seen once; not whole when batches straddle epochs."""
        return self.rows_per_epoch / self.batch_rows

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._orders:
            if len(self._orders) > 1:  # a batch straddles at most a few epochs of a tiny corpus; do not keep them all
                self._orders.clear()
            self._orders[epoch] = permutation(self.rows_per_epoch, self.seed, epoch)
        return self._orders[epoch]

    def _global(self, step: int) -> npt.NDArray[np.int64]:
        """(rows_per_rank,) places of this rank's rows in the endless sequence of epochs."""
        return step * self.batch_rows + self._offset + np.arange(self.rows_per_rank, dtype=np.int64)

    def row_indices(self, step: int) -> npt.NDArray[np.int64]:
        """(rows_per_rank,) indices of the corpus rows of this rank at a step."""
        epochs, places = np.divmod(self._global(step), self.rows_per_epoch)
        return np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)], dtype=np.int64)

    def _row(self, first_target: int, targets: int) -> U16:
        """(H + targets,) uint16 with PAD where history reaches before the stream."""
        missing = max(0, self.history - first_target)
        row = self.stream.read(first_target - self.history + missing, first_target + targets)
        return np.concatenate([np.full(missing, PAD, dtype=np.uint16), row]) if missing else row

    def batch(self, step: int) -> U16:
        """Rows of this rank at a step: (rows_per_rank, H+T) uint16, a fresh array."""
        rows = np.empty((self.rows_per_rank, self.history + self.seq_len), dtype=np.uint16)
        for place, index in enumerate(self.row_indices(step)):
            rows[place] = self._row(1 + int(index) * self.seq_len, self.seq_len)
        if int(rows[:, self.history - 1 :].max()) >= self.vocab_size:  # checked at the start: on a GPU it would end the process
            raise ShardError(
                f"{self.stream.paths[0].parent}: step {step}: a token outside the vocabulary of {self.vocab_size}, a shard changed while "
                "it was being read; copy it again, then --resume"
            )
        return rows

    def is_first_epoch(self, step: int) -> npt.NDArray[np.bool_]:
        """(rows_per_rank,) bool: which rows of `batch(step)` are seen for the first time, and so are to be counted."""
        return self._global(step) < self.rows_per_epoch

    def remainder(self) -> U16:
        """The targets that fill no whole row, as one row with its history: (H + n,) uint16, 0 ≤ n < T."""
        done = self.rows_per_epoch * self.seq_len
        return np.array(self._row(1 + done, self.train_tokens - 1 - done))

    def holdout(self) -> U16:
        """The held-out end of the training stream, (n,) uint16; it is neither trained on nor counted."""
        return self.stream.read(self.train_tokens, len(self.stream))
