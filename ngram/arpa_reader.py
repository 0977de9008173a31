"""ARPA in: a text file of log10 probabilities and backoffs → a model that scores token streams.

There are no counts in an ARPA file, so an ArpaModel is static: it scores and gives whole rows, and cannot learn.
Words must be token ids; `<s>` stands for BOS where BOS has no word of its own (KenLM's lmplz writes it so), `<unk>` gives
the floor, and n-grams with other words in angle brackets are read past, since no token maps to them.  Probabilities are
taken as they are: what a foreign file does not normalise stays so, and `rows` shows it.
"""

import os
from typing import IO

import numpy as np

from ngram.arpa import LOG_ZERO
from ngram.arpa_model import I64, U64, ArpaModel, find_rows, row_keys
from ngram.cli import track
from ngram.errors import FileFormatError, SeedgramError
from ngram.table import F64, MAX_ORDER, PAD

LINE_BYTES = 4  # the shortest n-gram line, "0 1\n": bounds what a header may promise before anything is allocated
MAX_LINE_BYTES = 1 << 12
LINES_PER_BLOCK = 1 << 16
ROUNDING = 1e-6  # log10 p of a certain token, written with few digits
MAX_LOG_BACKOFF = 38.0  # a float32's largest power of ten: more is no weight
SKIPPED, START = -1, -2  # stand for words that no token maps to, and for `<s>` until it is known whether BOS has a word


def import_arpa(path: str | os.PathLike[str], *, bos: int, vocab_size: int | None = None) -> ArpaModel:
    """The model in an ARPA file whose words are token ids.

    bos: id of BOS; vocab_size: pieces of the tokenizer, by default the largest word + 1.  Raises FileFormatError, naming
    file and line, for anything malformed; nothing is allocated from a promised count before it was held against the file's size."""
    try:
        with open(path, "rb") as file:
            return _Parser(file, os.fspath(path), bos, vocab_size).model()
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; check the path") from None


class _Parser:
    """One pass over the file, block by block; `line` is the number of the line last read, from 1."""

    def __init__(self, file: IO[bytes], name: str, bos: int, vocab_size: int | None) -> None:
        self.file, self.name, self.bos, self.line = file, name, bos, 0
        self.limit = PAD if vocab_size is None else vocab_size
        self.fixed_vocab = vocab_size
        self.words: dict[bytes, int] = {}
        self.floor = LOG_ZERO
        self.keys: list[U64] = []
        self.log10_p: list[F64] = []
        self.log10_b: list[F64] = []

    def fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.name}: line {self.line}: {what}; export the model again")

    def read_line(self) -> bytes:
        """The next line that is not blank, stripped."""
        while True:
            line = self.file.readline(MAX_LINE_BYTES)
            self.line += 1
            if not line:
                raise self.fail("the file ends too early")
            if len(line) == MAX_LINE_BYTES:
                raise self.fail(f"longer than {MAX_LINE_BYTES} bytes")
            if line.strip():
                return line.strip()

    def model(self) -> ArpaModel:
        sizes = self.header()
        for n, size in enumerate(sizes, 1):
            self.section(n, size)
        if self.read_line() != b"\\end\\":
            raise self.fail("expected \\end\\")
        largest = int((self.keys[0] & np.uint64(0xFFFF)).max(initial=np.uint64(self.bos)))
        vocab_size = self.fixed_vocab or largest + 1
        return ArpaModel(vocab_size, self.bos, self.keys, self.log10_p, self.log10_b, self.floor)

    def header(self) -> list[int]:
        """Number of n-grams of each order; leaves the file after the line that opens section 1."""
        if self.read_line() != b"\\data\\":
            raise self.fail("not an ARPA file, expected \\data\\")
        size_bytes = os.fstat(self.file.fileno()).st_size
        sizes: list[int] = []
        while (line := self.read_line()) != b"\\1-grams:":
            head, _, count = line.partition(b"=")
            if head.split() != [b"ngram", str(len(sizes) + 1).encode()] or not count.strip().isdigit() or len(sizes) == MAX_ORDER:
                raise self.fail(f"expected 'ngram {len(sizes) + 1}=COUNT' (orders 1 to {MAX_ORDER}) or \\1-grams:")
            sizes.append(int(count) if len(count) < 16 else size_bytes)
            if sum(sizes) * LINE_BYTES > size_bytes:
                raise self.fail(f"promises {sum(sizes):,} n-grams, more than {size_bytes:,} bytes hold")
        if not sizes:
            raise self.fail("no n-gram counts before \\1-grams:")
        return sizes

    def section(self, n: int, size: int) -> None:
        """Reads the lines of order n and sorts them."""
        if n > 1 and self.read_line() != f"\\{n}-grams:".encode():
            raise self.fail(f"expected \\{n}-grams:, after the {len(self.keys[-1]):,} n-grams of order {n - 1} that the header promises")
        keys, values = [np.zeros(0, np.uint64)], [np.zeros((0, 2))]
        step = LINES_PER_BLOCK if n > 1 else max(size, 1)  # the words are known all at once
        for start in track(range(0, size, step), f"reading order {n}"):
            words, numbers = self.block(n, min(step, size - start))
            if (words == START).any():
                self.settle_start(words, numbers)
            usable = (words >= 0).all(axis=1)
            keys.append(self.block_keys(words[usable]))
            values.append(numbers[usable])
        all_keys, all_values = np.concatenate(keys), np.concatenate(values)
        rank = np.argsort(all_keys, kind="stable")
        self.keys.append(all_keys[rank])
        if (self.keys[-1][1:] == self.keys[-1][:-1]).any():
            raise self.fail(f"order {n} lists an n-gram twice")
        self.log10_p.append(all_values[rank, 0])
        self.log10_b.append(all_values[rank, 1])

    def block(self, n: int, lines: int) -> tuple[I64, F64]:
        """(lines, n) words and (lines, 2) log10 probability and backoff of the next lines."""
        words: list[int] = []
        numbers: list[float] = []
        for _ in range(lines):
            fields = self.read_line().split()
            if not n < len(fields) <= n + 2:
                raise self.fail(f"expected a probability, {n} words and perhaps a backoff weight")
            try:
                p, b = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
                words += [self.words[w] for w in fields[1 : n + 1]] if n > 1 else [self.new_word(fields[1], p)]
            except ValueError:
                raise self.fail("a number cannot be read") from None
            except KeyError as error:
                raise self.fail(f"word {error.args[0][:20]!r} is not among the 1-grams") from None
            if not (p <= ROUNDING and b <= MAX_LOG_BACKOFF):  # also for "nan"
                raise self.fail("log10 of a probability above 1, or of an impossible backoff weight")
            numbers += (p, b)
        return np.array(words, np.int64).reshape(lines, n), np.array(numbers).reshape(lines, 2)

    def settle_start(self, words: I64, numbers: F64) -> None:
        """`<s>` is BOS unless BOS has its own word; an lmplz model has no probability for it, only a backoff weight."""
        own = str(self.bos).encode() in self.words
        self.words[b"<s>"] = SKIPPED if own else self.bos
        numbers[words[:, 0] == START, 0] = LOG_ZERO
        words[words == START] = self.words[b"<s>"]

    def new_word(self, word: bytes, log10_p: float) -> int:
        """The id of a 1-gram's word, START or SKIPPED; the probability of `<unk>` becomes the floor."""
        if word.isdigit() and len(word) <= 5 and str(int(word)).encode() == word and int(word) < self.limit:
            token = int(word)
        elif word[:1] == b"<" and word[-1:] == b">":
            token = START if word == b"<s>" else SKIPPED
            if word.lower() == b"<unk>":
                self.floor = log10_p
        else:
            raise self.fail(f"word {word[:20]!r} is not a token id below {self.limit}; words must be the tokenizer's ids")
        if word in self.words:
            raise self.fail(f"word {word[:20]!r} is listed twice")
        self.words[word] = token
        return token

    def block_keys(self, words: I64) -> U64:
        """Keys of n-grams: the row of all words but the last, found order by order, then the last word."""
        rows = np.zeros(len(words), np.int64)
        for k in range(words.shape[1] - 1):
            rows = find_rows(self.keys[k], rows, words[:, k])
            if (rows < 0).any():
                bad = words[int(np.argmax(rows < 0))]
                raise self.fail(f"n-gram {' '.join(map(str, bad))} has no entry for its first {k + 1} words")
        return row_keys(rows, words[:, -1])
