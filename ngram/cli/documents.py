"""`python -m ngram score --jsonl`: each document apart, on all cores, in order, and on from where a killed run had got.

What is done stands in OUT.partial, a line a document, and OUT.partial.json says of which input and model; both go when OUT is whole.
Every process gets texts and gives lines; the model is loaded once and shared by the processes where the system can fork.
"""

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ngram.arrays import I64
from ngram.cli.options import ScoreDocumentsOptions
from ngram.container import check_writable
from ngram.documents import NAMED, batches, documents, find_inputs
from ngram.errors import SeedgramError
from ngram.json_line import emit_json
from ngram.library.model import NgramModel
from ngram.terminal import stage, track
from ngram.words import WordVocabulary

BATCH_CHARS = 1 << 20  # of text sent to a process at once
AHEAD = 3  # batches a process may be behind the reader
_MODEL: list[NgramModel] = []  # one, in every process


def score_documents(asked: ScoreDocumentsOptions) -> None:
    """Writes a line of JSON for each row of the input."""
    check_writable(f"{asked.out}.partial")
    paths = find_inputs([str(place) for place in asked.inputs], names=NAMED)
    partial, note = Path(f"{asked.out}.partial"), Path(f"{asked.out}.partial.json")
    with stage("loading the model"):
        _open(asked.model, asked.tokenizer)
    done = _resume(partial, note, _task(asked, paths))
    started, cpu, tokens, rows = time.perf_counter(), os.times(), 0, done
    texts = islice(documents(paths, asked.field, lambda read, total: None, keep_empty=True), done, None)
    with open(partial, "ab") as out, _pool(asked) as pool:
        for lines, scored, count in track(_in_order(pool, texts, asked.processes), "scoring"):
            out.write(lines)
            out.flush()
            tokens, rows = tokens + scored, rows + count
    os.replace(partial, asked.out)
    note.unlink()
    wall_s, used = time.perf_counter() - started, os.times()
    cpu_s = sum(used[:4]) - sum(cpu[:4])
    facts = {"documents": rows, "resumed_at": done, "tokens": tokens, "processes": asked.processes, "wall_s": round(wall_s, 3)}
    rates = {"tokens_per_s": round(tokens / wall_s, 1), "tokens_per_processor_s": round(tokens / max(cpu_s, 1e-9), 1)}
    emit_json({**facts, "cpu_s": round(cpu_s, 3), **rates, "out": str(asked.out)}, asked.json)


def _task(asked: ScoreDocumentsOptions, paths: Sequence[Path]) -> dict[str, Any]:
    """What a partial output must have been made from to be gone on with."""
    sizes = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in [asked.model, *paths]]
    return {"files": sizes, "field": asked.field, "tokenizer": str(asked.tokenizer)}


def _resume(partial: Path, note: Path, task: dict[str, Any]) -> int:
    """Rows that are already in the partial output, whose last line may be cut.  Raises SeedgramError when it is of another task."""
    if not partial.exists() or not note.exists():
        note.write_text(json.dumps(task))
        partial.write_bytes(b"")
        return 0
    if json.loads(note.read_text() or "null") != task:
        raise SeedgramError(f"{partial}: was begun with another model or input; remove it and {note.name} to begin anew")
    with open(partial, "r+b") as file:
        rows, whole = 0, 0
        for line in file:
            if line.endswith(b"\n"):
                rows, whole = rows + 1, whole + len(line)
        file.truncate(whole)
    return rows


def _open(model: Path, tokenizer: Path | None) -> None:
    """Loads the model into this process, its look-ups made and its kernels compiled."""
    _MODEL[:] = [NgramModel.load(model, tokenizer)]
    tokens, _ = _MODEL[0].vocabulary.encode_joined([""])
    _MODEL[0].static.log10_scores(tokens, 0, len(tokens))


def _pool(asked: ScoreDocumentsOptions) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(asked.processes, initializer=_begin, initargs=(asked.model, asked.tokenizer))


def _begin(model: Path, tokenizer: Path | None) -> None:
    """In every process: one that was forked has the model already."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to say a word about
    if not _MODEL:
        _open(model, tokenizer)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, killed perhaps: waiting for the next batch would never end."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _in_order(pool: ProcessPoolExecutor, texts: Iterator[str], processes: int) -> Iterator[tuple[bytes, int, int]]:
    """What `score_batch` gives for each batch, in order; reads only so far ahead that memory stays bounded."""
    waiting = deque[Future[tuple[bytes, int, int]]]()
    for batch in batches(texts, BATCH_CHARS, each=64):
        waiting.append(pool.submit(score_batch, batch))
        if len(waiting) > AHEAD * processes:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def score_batch(texts: list[str]) -> tuple[bytes, int, int]:
    """(lines of JSON, tokens scored, texts).  Of words, each line of a text is a sentence with its end, and blank lines are none."""
    model = _MODEL[0]
    tokens, ends = model.vocabulary.encode_joined(texts)
    log10_p = model.static.log10_scores(tokens, 0, len(tokens))[0]
    target = tokens != model.vocabulary.bos
    log10_p[~target] = 0.0
    if not np.isfinite(log10_p).all():
        token = int(tokens[int(np.argmin(np.isfinite(log10_p)))])
        raise SeedgramError(f"{model.static.name}: gives no probability to token {token} of a document; train on more text, or with <unk>")
    sums, counts = _of_each(log10_p, ends).tolist(), _of_each(target.astype(np.int64), ends).tolist()
    words = model.vocabulary if isinstance(model.vocabulary, WordVocabulary) else None
    unknown = _of_each((tokens == words.unknown).astype(np.int64), ends).tolist() if words else [None] * len(texts)
    lines = "".join(map(_line, sums, counts, unknown))
    return lines.encode(), sum(counts), len(texts)


def _of_each(values: npt.NDArray[Any], ends: I64) -> npt.NDArray[Any]:
    """(D,) sums of the values of each document; of one without tokens 0."""
    starts, sums = np.concatenate([[0], ends[:-1]]), np.zeros(len(ends), values.dtype)
    filled = starts < ends
    if filled.any():
        sums[filled] = np.add.reduceat(values, starts[filled])
    return sums


def _line(log10_p: float, tokens: int, unknown: int | None) -> str:
    perplexity = f"{10.0 ** min(300.0, -log10_p / tokens):.6g}" if tokens else "null"
    more = "" if unknown is None else f', "unknown": {unknown}'
    return f'{{"log10": {log10_p:.6f}, "tokens": {tokens}, "perplexity": {perplexity}{more}}}\n'
