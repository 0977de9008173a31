"""Documents → table, within a budget of memory where one is given."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ngram.arrays import Tokens
from ngram.counting.build_table import build_table
from ngram.counting.documents import count_documents, count_into, predicted
from ngram.counting.run import Run
from ngram.counting.run_file import RunFile
from ngram.counting.spill import SpillingCache
from ngram.counting.table_in_parts import build_in_parts
from ngram.errors import SeedgramError
from ngram.table import NgramTable
from ngram.vocabulary import Vocabulary

AnyRun = TypeVar("AnyRun", Run, RunFile)


@contextmanager
def table_of(
    documents: Iterable[Tokens], vocabulary: Vocabulary, order: int, min_raw: Sequence[int], max_bytes: int | None
) -> Iterator[NgramTable]:
    """The table of some documents, for the while: with max_bytes, its columns lie in temporary files.

    min_raw as in build_table.  Raises SeedgramError when there is nothing to count."""
    size, bos = vocabulary.vocab_size, vocabulary.bos
    if max_bytes is None:
        yield build_table(_filled(count_documents(documents, vocabulary, order)), size, bos, min_raw=min_raw, spent=True)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # a mapped file cannot be deleted everywhere
        cache = SpillingCache(size, order, bos, Path(name), max_bytes, None)
        count_into(cache, documents, vocabulary)
        yield build_in_parts(_filled(cache.finish(predicted(vocabulary))), size, bos, Path(name, "table"), max_bytes, min_raw=min_raw)


def _filled(run: AnyRun) -> AnyRun:
    if not len(run):
        raise SeedgramError("the texts hold nothing to count; give at least one with a word in it")
    return run
