"""Reads an ARPA text file of log10 probabilities and backoff weights into a model that scores token streams.

There are no counts in an ARPA file, so an ArpaModel is static: it scores and gives whole rows, and cannot learn.
Words are token ids, or a vocabulary of their own (`read_words`).  Of token ids, `<s>` stands for BOS where BOS has no word of
its own (KenLM's lmplz writes it so), `<unk>` for every token without a 1-gram, and n-grams with other words in angle brackets are
read past, since no token maps to them.  Read as they are found: gzip, a byte order mark, comments before `\\data\\`, IRSTLM's
iARPA, n-grams whose beginnings are not listed.
"""

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np

from ngram.arpa.complete import Listed
from ngram.arpa.lines import Lines
from ngram.arpa.model import END, UNKNOWN, ArpaModel, row_keys
from ngram.arpa.write import LOG_ZERO
from ngram.arrays import F64, I64
from ngram.errors import FileFormatError, SeedgramError
from ngram.table import MAX_ORDER, MAX_VOCAB
from ngram.terminal import track
from ngram.word_table import word_table
from ngram.words import BEGIN, MARKERS, WordVocabulary

LINE_BYTES = 4  # the shortest n-gram line, "0 1\n": bounds what a header may promise before anything is allocated
PACKED_BYTES = 1032  # bytes that gzip can make of one
MAX_LINE_BYTES = 1 << 12
LINES_PER_BLOCK = 1 << 16
ROUNDING = 1e-6  # log10 p of a certain token, written with few digits
MAX_LOG_BACKOFF = 38.0  # a float32's largest power of ten: more is no weight
ZERO = -90.0  # log10 of what is meant to be 0: writers put -99, or -98.9 with noise (CMU's toolkit)
SKIPPED, START = -1, -2  # stand for words that no token maps to, and for `<s>` until it is known whether BOS has a word
BEGINNING_BYTES = 1 << 16  # in which the line \data\ is looked for
GZIP_MAGIC, BYTE_ORDER_MARK = b"\x1f\x8b", b"\xef\xbb\xbf"


def import_arpa(path: str | os.PathLike[str], *, bos: int, vocab_size: int | None = None) -> ArpaModel:
    """The model in an ARPA file whose words are token ids, plain or packed by gzip.

    bos: id of BOS; vocab_size: pieces of the tokenizer, by default the largest word + 1.  Raises FileFormatError, naming
    file and line, for anything malformed; nothing is allocated from a promised count before it was held against the file's size."""
    with _unpacked(path) as (file, limit):
        return _Parser(file, os.fspath(path), limit, bos, vocab_size).model()


def read_words(path: str | os.PathLike[str]) -> tuple[ArpaModel, WordVocabulary]:
    """The model in an ARPA file and its words as a vocabulary, ids in the order of the file.

    A word of any text that is not among them is `<unk>`.  Raises FileFormatError as `import_arpa` does, and where all words are numbers: those are
    the tokens of a tokenizer, and a text read as words would be nothing but `<unk>`."""
    with _unpacked(path) as (file, limit):
        parser = _WordParser(file, os.fspath(path), limit)
        model, words = parser.model(), WordVocabulary(parser.names, parser.name)
    if all(word in MARKERS or word.isdigit() for word in words.words):
        raise FileFormatError(f"{words.name}: its words are token ids; give the tokenizer that they belong to (--tokenizer)")
    return model, words


def is_arpa_file(path: str | os.PathLike[str]) -> bool:
    """Whether a line in the beginning of a file, plain or packed by gzip, says `\\data\\`."""
    with _unpacked(path) as (file, _):
        return any(line.strip() == b"\\data\\" for line in file.read(BEGINNING_BYTES).removeprefix(BYTE_ORDER_MARK).splitlines())


@contextmanager
def _unpacked(path: str | os.PathLike[str]) -> Iterator[tuple[IO[bytes], int]]:
    """(the open file, unpacked; bytes that it can hold at most)."""
    try:
        with open(path, "rb") as raw:
            size_bytes = os.fstat(raw.fileno()).st_size
            if raw.peek(2).startswith(GZIP_MAGIC):
                with gzip.open(raw) as file:
                    yield file, size_bytes * PACKED_BYTES  # type: ignore[misc]
            else:
                yield raw, size_bytes
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise FileFormatError(f"{path}: cut or damaged, gzip cannot unpack it; copy it again") from None
    except OSError as error:
        raise SeedgramError(f"{path}: cannot read: {error.strerror}; check the path") from None


class _Parser:
    """One pass over the file, block by block."""

    def __init__(self, file: IO[bytes], name: str, size_bytes: int, bos: int, vocab_size: int | None) -> None:
        self.lines, self.name, self.size_bytes, self.bos = Lines(file, MAX_LINE_BYTES), name, size_bytes, bos
        self.limit = MAX_VOCAB if vocab_size is None else vocab_size
        self.fixed_vocab = vocab_size
        self.words: dict[bytes, int] = {}
        self.listed = Listed([], [], [])
        self.interpolated, self.decimals, self.restored = False, 0, 0

    def fail(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.name}: line {self.lines.number}: {what}; export the model again")

    def read_line(self) -> bytes:
        """The next line that is not blank, stripped."""
        while True:
            line = self.lines.next()
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
        if self.interpolated or self.restored:
            self.listed.settle(interpolated=self.interpolated)
        tokens = [word for word in self.words.values() if 0 <= word < UNKNOWN]
        vocab_size = self.fixed_vocab or max([self.bos, *tokens]) + 1
        listed = self.listed
        return ArpaModel(vocab_size, self.bos, listed.keys, listed.log10_p, listed.log10_b, self.name, self.decimals, self.restored)

    def header(self) -> list[int]:
        """Number of n-grams of each order; leaves the file after the line that opens section 1.

        Anything may stand before `\\data\\`: the format's first tools wrote their licence there."""
        line, read_bytes = b"", 0
        while line != b"\\data\\":
            raw = self.lines.next()
            read_bytes += len(raw)
            if not raw or read_bytes > BEGINNING_BYTES:
                self.lines.number = 1
                raise self.fail("not an ARPA file, no line says \\data\\")
            line = raw.removeprefix(BYTE_ORDER_MARK).strip()
            self.interpolated |= line == b"iARPA"
        sizes: list[int] = []
        while (line := self.read_line()) != b"\\1-grams:":
            head, _, count = line.partition(b"=")
            if head.split() != [b"ngram", str(len(sizes) + 1).encode()] or not count.strip().isdigit() or len(sizes) == MAX_ORDER:
                raise self.fail(f"expected 'ngram {len(sizes) + 1}=COUNT' (orders 1 to {MAX_ORDER}) or \\1-grams:")
            sizes.append(int(count) if len(count) < 16 else self.size_bytes)
            if sum(sizes) * LINE_BYTES > self.size_bytes:
                raise self.fail(f"promises {sum(sizes):,} n-grams, more than the file can hold")
        if not sizes:
            raise self.fail("no n-gram counts before \\1-grams:")
        return sizes

    def section(self, n: int, size: int) -> None:
        """Reads the lines of order n and sorts them."""
        if n > 1 and self.read_line() != f"\\{n}-grams:".encode():
            raise self.fail(
                f"expected \\{n}-grams:, after the {len(self.listed.keys[-1]):,} n-grams of order {n - 1} that the header promises"
            )
        if n == 2:
            self.table = word_table(self.words)
        blocks, values = [np.zeros((0, n), np.int32)], [np.zeros((0, 2))]
        step = LINES_PER_BLOCK if n > 1 else max(size, 1)  # the words are known all at once
        for start in track(range(0, size, step), f"reading order {n}"):
            words, numbers = self.block(n, min(step, size - start))
            if (words == START).any():
                self.settle_start(words, numbers)
            usable = (words >= 0).all(axis=1) & (words[:, :-1] != END).all(axis=1)
            blocks.append(words[usable].astype(np.int32))
            values.append(numbers[usable])
        all_words, all_values = np.concatenate(blocks), np.concatenate(values)
        self.restored += self.listed.restore(all_words)
        all_keys = row_keys(self.listed.rows_of(all_words[:, :-1]), all_words[:, -1])
        rank = np.argsort(all_keys, kind="stable")
        self.listed.keys.append(all_keys[rank])
        if (self.listed.keys[-1][1:] == self.listed.keys[-1][:-1]).any():
            raise self.fail(f"order {n} lists an n-gram twice")
        self.listed.log10_p.append(np.where(all_values[rank, 0] <= ZERO, -np.inf, all_values[rank, 0]))
        self.listed.log10_b.append(np.where(all_values[rank, 1] <= ZERO, -np.inf, all_values[rank, 1]))

    def block(self, n: int, lines: int) -> tuple[I64, F64]:
        """(lines, n) words and (lines, 2) log10 probability and backoff of the next lines."""
        if n == 1:  # each line names a new word
            read = [self.one_line(1) for _ in range(lines)]
            return np.array([row[0] for row in read], np.int64).reshape(lines, 1), np.array([row[1] for row in read]).reshape(lines, 2)
        words, numbers, filled = np.empty((lines, n), np.int64), np.empty((lines, 2)), 0
        while filled < lines:
            plain, decimals = self.lines.plain(self.table, (ROUNDING, MAX_LOG_BACKOFF), words[filled:], numbers[filled:])
            self.decimals, filled = max(self.decimals, decimals), filled + plain
            if filled < lines:
                words[filled], numbers[filled] = self.one_line(n)
                filled += 1
        return words, numbers

    def one_line(self, n: int) -> tuple[list[int], tuple[float, float]]:
        """Words, log10 probability and backoff of the next line, however it is written: the definition of what `lines.read_plain` does faster."""
        fields = self.read_line().split()
        if not n < len(fields) <= n + 2:
            raise self.fail(f"expected a probability, {n} words and perhaps a backoff weight")
        try:
            p, b = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
            self.decimals = max(self.decimals, len(fields[0].partition(b".")[2]))
            words = [self.words[w] for w in fields[1 : n + 1]] if n > 1 else [self.new_word(fields[1])]
        except ValueError:
            raise self.fail("a number cannot be read") from None
        except KeyError as error:
            raise self.fail(f"word {error.args[0][:20]!r} is not among the 1-grams") from None
        if not (p <= ROUNDING and b <= MAX_LOG_BACKOFF):  # also for "nan"
            raise self.fail("log10 of a probability above 1, or of an impossible backoff weight")
        return words, (p, b)

    def settle_start(self, words: I64, numbers: F64) -> None:
        """`<s>` is BOS unless BOS has its own word; an lmplz model has no probability for it, only a backoff weight."""
        own = str(self.bos).encode() in self.words
        self.words = {word: (SKIPPED if own else self.bos) if token == START else token for word, token in self.words.items()}
        numbers[words[:, 0] == START, 0] = LOG_ZERO
        words[words == START] = SKIPPED if own else self.bos

    def new_word(self, word: bytes) -> int:
        """The id of a 1-gram's word, UNKNOWN, END, START or SKIPPED."""
        if word.isdigit() and len(word) <= 6 and str(int(word)).encode() == word and int(word) < self.limit:
            token = int(word)
        elif word[:1] == b"<" and word[-1:] == b">":
            token = {b"<s>": START, b"</s>": END, b"<unk>": UNKNOWN}.get(word.lower(), SKIPPED)
        else:
            raise self.fail(f"word {word[:20]!r} is not a token id below {self.limit}; words must be the tokenizer's ids")
        if word in self.words:
            raise self.fail(f"word {word[:20]!r} is listed twice")
        self.words[word] = token
        return token


class _WordParser(_Parser):
    """Reads a file whose words are its own: a word's id is its place among the 1-grams."""

    def __init__(self, file: IO[bytes], name: str, size_bytes: int) -> None:
        super().__init__(file, name, size_bytes, -1, None)
        self.names: list[bytes] = []

    def new_word(self, word: bytes) -> int:
        name = word.lower() if word.lower() in MARKERS else word
        if name in self.words or len(self.names) == UNKNOWN:
            raise self.fail(f"word {word[:20]!r} is listed twice" if name in self.words else f"more than {UNKNOWN:,} words")
        self.words[name] = self.words[word] = len(self.names)
        self.names.append(name)
        return len(self.names) - 1

    def block(self, n: int, lines: int) -> tuple[I64, F64]:
        words, numbers = super().block(n, lines)
        if n == 1 and BEGIN in self.words:  # lmplz gives it probability 1, others 10^-99: it is never predicted
            self.bos = self.words[BEGIN]
            numbers[self.bos, 0] = LOG_ZERO
        return words, numbers
