"""What the benches share: a parser, the book corpus, a clock, Markdown tables.  Loads no torch."""

import argparse
import lzma
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ngram.arrays import U16
from ngram.container import read_bytes
from ngram.errors import SeedgramError
from ngram.terminal import OneLineParser
from ngram.tokenizer import Tokenizer

BOOKS_HELP = "folder of the book corpus: train.txt.xz, test.txt.xz and bpe1024.model"


def make_parser(doc: str | None) -> OneLineParser:
    """A parser whose --help begins with the script's docstring as it stands, its usage lines included."""
    return OneLineParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


@dataclass(frozen=True)
class Books:
    """The book corpus as two streams, one BOS in front of each.

    train, test: (n,) uint16.  test_bytes: of the test text, which bits per byte are taken over."""

    train: U16
    test: U16
    test_bytes: int
    tokenizer: Tokenizer


def read_books(folder: Path) -> Books:
    """Reads and encodes the corpus.  Raises SeedgramError naming the file that is missing or damaged."""
    tokenizer = Tokenizer(read_bytes(folder / "bpe1024.model"), "bpe1024.model")
    texts = []
    for split in ("train", "test"):
        path = folder / f"{split}.txt.xz"
        try:
            texts.append(lzma.decompress(read_bytes(path)).decode())
        except (lzma.LZMAError, UnicodeDecodeError) as error:
            raise SeedgramError(f"{path}: {error}; fetch the book corpus again") from None
    train, test = tokenizer.encode_documents(texts)
    return Books(train, test, len(texts[1].encode()), tokenizer)


def fastest_s(task: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.thread_time) -> float:
    """Fewest seconds over some calls.  By default processor seconds of this thread, which other work disturbs least."""
    spent = []
    for _ in range(repeats):
        begin = clock()
        task()
        spent.append(clock() - begin)
    return min(spent)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
