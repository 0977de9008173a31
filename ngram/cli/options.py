"""What each command of `python -m ngram` was asked to do, checked as far as that goes without reading a file."""

from dataclasses import dataclass
from pathlib import Path

from ngram.container import STANDARD
from ngram.terminal import UsageError

DEFAULT_ORDERS = "2-7"
MAX_COUNT = 1 << 31
LEAST_MEMORY = 1 << 25
SIZES = {"K": 10, "M": 20, "G": 30, "T": 40}
MAX_WORDS = 1 << 18  # of a vocabulary: what seven of them leave room for in the keys of counting


@dataclass(frozen=True)
class Outputs:
    """What `train` and `merge` write: a model (shaped by max_bytes and min_count), exact counts, or both."""

    model: Path | None
    counts: Path | None
    max_bytes: int | None  # largest model file, tokenizer included
    min_count: str | None  # smallest raw count kept at orders 1, 2, …; the last one holds above

    def __post_init__(self) -> None:
        if self.model is None and self.counts is None:
            raise UsageError("nothing to write; give --out, --counts-out or both")
        if self.model is None and (self.max_bytes or self.min_count):
            raise UsageError("--max-bytes and --min-count shape the model; give --out")

    def thresholds(self, order: int) -> list[int] | None:
        """Smallest raw count kept at each order, None for everything."""
        return None if self.min_count is None else parse_thresholds(self.min_count, order)


@dataclass(frozen=True)
class TrainOptions:
    texts: list[Path]  # UTF-8, one document each
    tokenizer: Path | None  # None: words
    words: int | None  # most types of a vocabulary of words, built from the texts
    order: int
    outputs: Outputs
    memory: int | None = None  # bytes for counts and table, None: as much as it takes
    work: Path | None = None  # folder for what does not fit, None: beside the model

    def __post_init__(self) -> None:
        self.outputs.thresholds(self.order)  # refused before the counting, not after it
        if self.memory is None:
            if self.work is not None:
                raise UsageError("--work names a folder for what does not fit into --memory; give both")
        elif self.memory < LEAST_MEMORY:
            raise UsageError(f"--memory {self.memory}: give at least {LEAST_MEMORY >> 20}M")
        elif str(self.outputs.model or self.outputs.counts) == STANDARD and self.work is None:
            raise UsageError("--memory with an output - needs --work, a folder for what does not fit")
        if self.words is not None and not 3 <= self.words <= MAX_WORDS:
            raise UsageError(f"--words {self.words}: <unk>, <s> and </s> are 3 of them; give 3 to {MAX_WORDS}")


@dataclass(frozen=True)
class MergeOptions:
    counts: list[Path]
    order: int | None  # None: all that were counted
    outputs: Outputs


@dataclass(frozen=True)
class ScoreOptions:
    model: Path  # a model file, or an ARPA file and then a tokenizer
    tokenizer: Path | None
    test: Path
    online: str | None  # "mix", "kn", or None for a model that stays as it is
    chunk_tokens: int  # tokens scored before they are learned
    json: Path | None


@dataclass(frozen=True)
class ScoreDocumentsOptions:
    """Each row of the inputs by itself."""

    model: Path
    tokenizer: Path | None
    inputs: list[Path]
    field: str  # key or column of the text
    out: Path  # one line of JSON a row
    processes: int
    json: Path | None


@dataclass(frozen=True)
class PruneOptions:
    model: Path
    out: Path
    max_bytes: int | None
    max_ngrams: int | None

    def __post_init__(self) -> None:
        if (self.max_bytes is None) == (self.max_ngrams is None):
            raise UsageError("give one of --max-bytes and --max-ngrams")


@dataclass(frozen=True)
class InfoOptions:
    model: Path
    json: bool


@dataclass(frozen=True)
class ArpaOptions:
    model: Path
    out: Path


@dataclass(frozen=True)
class WarmUpOptions:
    """Nothing to choose."""


Options = TrainOptions | MergeOptions | ScoreOptions | ScoreDocumentsOptions | PruneOptions | InfoOptions | ArpaOptions | WarmUpOptions


def parse_orders(text: str) -> int:
    """ "2-7" → 7, the order of the longest n-grams.  All shorter ones are always in the model, so "1-7" says the same.

    Raises UsageError unless the low end is 1 or 2 and the high end at most 8."""
    low, dash, high = text.partition("-")
    if not (dash and low.isdecimal() and high.isdecimal() and len(text) <= 5):
        raise UsageError(f"--orders {text!r}: expected LOW-HIGH; write for example 2-7")
    if int(low) not in (1, 2) or not max(2, int(low)) <= int(high) <= 8:
        raise UsageError(f"--orders {text}: the low order must be 1 or 2 and the high one 2 to 8; write for example 2-7")
    return int(high)


def parse_size(text: str) -> int:
    """ "4G" → bytes, with K, M, G or T of 1,024.  Raises UsageError."""
    number, shift = (text[:-1], SIZES[text[-1].upper()]) if text[-1:].upper() in SIZES else (text, 0)
    if not number.isdecimal() or not 0 < int(number) << shift < 1 << 62:
        raise UsageError(f"--memory {text!r}: expected bytes; write for example 4G or 500M")
    return int(number) << shift


def parse_thresholds(text: str, order: int) -> list[int]:
    """ "1,1,1,2" → smallest raw count kept at orders 1…order; the last one holds for the orders above it.

    Raises UsageError when they decrease: an n-gram kept without the shorter ones inside it would have no place in the model."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < MAX_COUNT for part in parts) or len(parts) > order:
        raise UsageError(f"--min-count {text!r}: expected at most {order} counts with commas; write for example 1,1,1,2")
    values = [max(1, int(part)) for part in parts]
    values += [values[-1]] * (order - len(values))
    if values != sorted(values) or values[0] > 1:
        raise UsageError(f"--min-count {text}: must begin with 1 (every single token stays) and never decrease; write for example 1,1,1,2")
    return values
