"""`python -m ngram train --memory`: counts and table within a budget, in a folder of files that a killed command goes on with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ngram.arrays import digest
from ngram.cli import options
from ngram.cli.reading import Losses, encoded
from ngram.counting.documents import count_into, predicted
from ngram.counting.spill import SpillingCache
from ngram.counting.table_in_parts import build_in_parts
from ngram.storing.model_file import Counts, write_counts
from ngram.table import NgramTable
from ngram.terminal import stage
from ngram.vocabulary import Vocabulary


@contextmanager
def table_within(
    asked: options.TrainOptions, paths: list[Path], vocabulary: Vocabulary, losses: Losses
) -> Iterator[tuple[NgramTable | None, dict[str, Any]]]:
    """The table, if a model is asked for, and what there is to report; its columns lie in the folder of files, which goes when the body ends well.

    A file of exact counts, if asked for, is written on the way.

    Raises SeedgramError when the folder was begun for other texts or settings."""
    assert asked.memory is not None
    folder = asked.work or Path(f"{asked.outputs.model or asked.outputs.counts}.work")
    cache = SpillingCache(vocabulary.vocab_size, asked.order, vocabulary.bos, folder, asked.memory, _task(asked, paths, vocabulary))
    losses.lost, losses.total = cache.noted.get("losses", (0, 0))
    with stage("counting"):
        if cache.whole is None:
            found = encoded(paths, vocabulary, skip=cache.documents)
            count_into(cache, _noting(losses.noted(found), cache, losses), vocabulary)
        files = len(cache.files)
        whole = cache.finish(predicted(vocabulary))
    report: dict[str, Any] = {"tokens": whole.positions, "order": asked.order, "runs_in_files": files, "resumed_at": cache.resumed_at}
    if asked.outputs.counts is not None:
        write_counts(asked.outputs.counts, Counts(whole, vocabulary, whole.positions))
        report["counts_out"] = str(asked.outputs.counts)
    table = None
    if asked.outputs.model is not None:
        with stage("estimating"):
            size, bos = vocabulary.vocab_size, vocabulary.bos
            table = build_in_parts(whole, size, bos, folder / "table", asked.memory, min_raw=asked.outputs.thresholds(asked.order))
    yield table, report
    shutil.rmtree(folder, ignore_errors=True)


def _noting(found: Iterator[Any], cache: SpillingCache, losses: Losses) -> Iterator[Any]:
    """The documents; when the next one is asked for, the cache's files say what those before it have lost."""
    for tokens in found:
        cache.noted = {"losses": (losses.lost, losses.total)}
        yield tokens


def _task(asked: options.TrainOptions, paths: list[Path], vocabulary: Vocabulary) -> dict[str, Any]:
    """What a folder must have been begun for to be gone on with."""
    sizes = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    return {"files": sizes, "vocabulary": digest(np.frombuffer(vocabulary.model, np.uint8)), "order": asked.order}
