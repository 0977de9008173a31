"""Decoded n-gram tables in the user's cache folder, for commands that read one artifact again and again.

Decoding two million n-grams takes longer than everything else that a second start does.  What is kept follows from the section's bytes and
the program's code, which name it; it lies in the private folder of private_files.py, beside the kernels, and any fault of it costs a
decoding, never a result.  What proves a figure (eval, audit, certify) reads nothing but the artifact, and so not this.
"""

import hashlib
import io
import os
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from hybrid.storing import artifact
from ngram.compiled import machine_key
from ngram.private_files import Store, store_of
from ngram.storing import table_codec
from ngram.table import NgramTable

LEAST_BYTES, MOST_BYTES = 1 << 20, 1 << 26  # of a table that is kept: 80,000 to 6 million n-grams; at most 9 lie there beside those of the last ten minutes
NAME = "table"


def load(path: str | os.PathLike[str]) -> artifact.Artifact:
    """What artifact.load gives, sooner from the second time on.  Raises what it raises."""
    return artifact.load(path, decode)


def decode(section: bytes) -> NgramTable:
    """What table_codec.decode gives, kept for the next process that asks for the same bytes.  Raises FileFormatError as it does."""
    store = _store(section)
    kept = store.load(NAME)
    if kept is not None:
        try:
            return _from_bytes(kept)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            pass  # of another time: decoded again
    table = table_codec.decode(section)
    if LEAST_BYTES <= sum(column.nbytes for column in _columns(table).values()) <= MOST_BYTES:
        store.save(NAME, _to_bytes(table))
    return table


def _store(section: bytes) -> Store:
    return store_of("tables", lambda: hashlib.sha256(machine_key().encode() + section).hexdigest()[:32])


def _columns(table: NgramTable) -> dict[str, npt.NDArray[Any]]:
    """Every array of a table without raw counts, by a name for each."""
    named = {f"{kind}{n}": column for kind in ("tokens", "parents", "counts", "pruned") for n, column in enumerate(getattr(table, kind))}
    excess = {f"excess{part}{n}": column for n, both in table.excess.items() for part, column in zip("iv", both, strict=True)}
    return {**named, **excess, "discounts": table.discounts, "numbers": np.array([table.vocab_size, table.bos, table.order])}


def _to_bytes(table: NgramTable) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **_columns(table))
    return buffer.getvalue()


def _from_bytes(kept: bytes) -> NgramTable:
    with np.load(io.BytesIO(kept), allow_pickle=False) as found:
        vocab_size, bos, order = found["numbers"].tolist()
        tokens, parents, counts, pruned = ([found[f"{kind}{n}"] for n in range(order)] for kind in ("tokens", "parents", "counts", "pruned"))
        excess = {n: (found[f"excessi{n}"], found[f"excessv{n}"]) for n in range(1, order + 1) if f"excessi{n}" in found}
        return NgramTable(vocab_size, bos, tokens, parents, counts, pruned, found["discounts"], excess)
