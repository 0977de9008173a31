"""What the subcommands of `python -m ngram` do; __main__.py has their flags, score_text.py scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ngram import prune
from ngram.arpa import export_arpa
from ngram.cache import NgramCache
from ngram.cli import UsageError, emit_json, parse_thresholds, stage, track, warn
from ngram.container import atomic_write, read_bytes
from ngram.errors import SeedgramError
from ngram.model_file import Counts, fit_model, is_counts_file, read_counts, read_model, write_counts
from ngram.runs import build_table, merge
from ngram.table import NgramTable
from ngram.text import TextTokenizer, read_stream


@dataclass(frozen=True)
class Outputs:
    """What `train` and `merge` write: a model (shaped by max_bytes and min_count) and exact counts, at least one of them."""

    model: Path | None
    counts: Path | None
    max_bytes: int | None
    min_count: str | None

    def __post_init__(self) -> None:
        if self.model is None and self.counts is None:
            raise UsageError("nothing to write; give --out, --counts-out or both")
        if self.model is None and (self.max_bytes or self.min_count):
            raise UsageError("--max-bytes and --min-count shape the model; give --out")

    def thresholds(self, order: int) -> list[int] | None:
        """Smallest raw count kept at each order, None for everything."""
        return None if self.min_count is None else parse_thresholds(self.min_count, order)


def train(texts: Sequence[Path], tokenizer_path: Path, orders: tuple[int, int], outputs: Outputs) -> None:
    """Counts the texts, one document each, and writes a model, exact counts, or both."""
    tokenizer = TextTokenizer(read_bytes(tokenizer_path), str(tokenizer_path))
    cache = NgramCache(tokenizer.vocab_size, orders, tokenizer.bos)
    outputs.thresholds(orders[1])
    for path in texts:
        tokens, lossless, _ = read_stream(path, tokenizer)
        if not lossless:
            warn(f"{path}: this tokenizer does not keep the text exactly; the model learns what the tokenizer keeps of it")
        with stage(f"counting {path.name}"):
            cache.count_stream(tokens)  # each document by itself, so that counts of parts add up to counts of the whole
    _finish(Counts(cache.run(), tokenizer, cache.positions), orders, outputs)


def merge_counts(paths: Sequence[Path], orders: tuple[int, int] | None, outputs: Outputs) -> None:
    """Adds counts files up, and writes a model, exact counts, or both."""
    total = read_counts(paths[0])
    for path in track(paths[1:], "adding"):
        more = read_counts(path)
        if more.tokenizer.model != total.tokenizer.model:
            raise SeedgramError(f"{path}: was counted with another tokenizer than {paths[0]}; count both with the same one")
        if more.run.order != total.run.order:
            raise SeedgramError(
                f"{path}: has orders up to {more.run.order}, {paths[0]} up to {total.run.order}; count both with the same --orders"
            )
        total = Counts(merge(total.run, more.run), total.tokenizer, total.positions + more.positions)
    if orders and orders[1] > total.run.order:
        raise UsageError(
            f"--orders {orders[0]}-{orders[1]}: {paths[0]} was counted up to order {total.run.order}; choose a high order up to that"
        )
    _finish(total, orders or (2, total.run.order), outputs)


def _finish(counts: Counts, orders: tuple[int, int], outputs: Outputs) -> None:
    report: dict[str, Any] = {"tokens": counts.positions, "order": counts.run.order}
    started = time.perf_counter()
    thresholds = outputs.thresholds(orders[1])
    if outputs.counts is not None:
        write_counts(outputs.counts, counts)
        report["counts_out"] = str(outputs.counts)
    if outputs.model is not None:
        with stage("estimating and encoding"):
            table = build_table(counts.run, counts.tokenizer.vocab_size, counts.tokenizer.bos, orders, thresholds)
            _write_model(table, counts.tokenizer, outputs.model, outputs.max_bytes, report)
    emit_json({**report, "wall_s": round(time.perf_counter() - started, 3)}, None)


def _write_model(table: NgramTable, tokenizer: TextTokenizer, out: Path, max_bytes: int | None, report: dict[str, Any]) -> None:
    fitted, data = fit_model(table, tokenizer, max_bytes)
    atomic_write(out, data)
    report |= {"out": str(out), "file_bytes": len(data), "ngrams": sum(fitted.sizes()), "order": fitted.order}


def prune_model(path: Path, out: Path, max_bytes: int | None, max_ngrams: int | None) -> None:
    """A smaller model from a model: the n-grams that save the most bits stay."""
    if (max_bytes is None) == (max_ngrams is None):
        raise UsageError("give one of --max-bytes and --max-ngrams")
    model, report, started = read_model(path), dict[str, Any](), time.perf_counter()
    with stage("pruning"):
        if max_ngrams is not None and max_ngrams < model.table.vocab_size:
            raise UsageError(f"--max-ngrams {max_ngrams}: too small, single tokens alone are {model.table.vocab_size}; allow at least that")
        table = model.table if max_ngrams is None else prune.prune(model.table, max_ngrams)
        _write_model(table, model.tokenizer, out, max_bytes, report)
    emit_json({**report, "wall_s": round(time.perf_counter() - started, 3)}, None)


def arpa(model_path: Path, out: Path) -> None:
    """Writes a model's static probabilities as an ARPA file."""
    model = read_model(model_path)
    export_arpa(model.table, out)
    emit_json({"out": str(out), "file_bytes": out.stat().st_size, "ngrams": sum(model.table.sizes())}, None)


def info(path: Path, as_json: bool) -> None:
    """What is in a model or counts file."""
    facts = _counts_facts(path) if is_counts_file(path) else _model_facts(path)
    if as_json:
        emit_json(facts, None)
        return
    orders = facts.pop("orders", [])
    for key, value in facts.items():
        print(f"{key:20} {value}" if isinstance(value, str) else f"{key:20} {value:,}")
    if orders:
        print(f"{'order':>5} {'n-grams':>12} {'largest count':>14} {'left out':>12}   D1     D2     D3+")
    for row in orders:
        discounts = "  ".join(f"{d:.3f}" for d in row["discounts"])
        print(f"{row['order']:5} {row['ngrams']:12,} {row['largest_count']:14,} {row['left_out']:12,}   {discounts}")


def _model_facts(path: Path) -> dict[str, Any]:
    model = read_model(path)
    table, ngrams = model.table, sum(model.table.sizes())
    orders = [
        {
            "order": n,
            "ngrams": size,
            "largest_count": int(table.exact_counts(n).max(initial=0)),
            "left_out": int(table.pruned[n - 1].sum(dtype=np.int64)),
            "discounts": [round(float(d), 6) for d in table.discounts[n - 1]],
        }
        for n, size in enumerate(table.sizes(), 1)
    ]
    sizes = {f"{name}_bytes": size for name, size in model.section_bytes.items()}
    return {
        "kind": "model",
        "file_bytes": model.file_bytes,
        **sizes,
        "vocabulary": table.vocab_size,
        "bos": table.bos,
        "ngrams": ngrams,
        "bits_per_ngram": round(8 * model.section_bytes["table"] / ngrams, 3),
        "orders": orders,
    }


def _counts_facts(path: Path) -> dict[str, Any]:
    counts = read_counts(path)
    run = counts.run
    return {
        "kind": "counts",
        "file_bytes": path.stat().st_size,
        "vocabulary": counts.tokenizer.vocab_size,
        "bos": counts.tokenizer.bos,
        "order": run.order,
        "tokens": counts.positions,
        "ngrams": len(run),
        "largest_count": int(run.exact_counts().max(initial=0)),
    }
