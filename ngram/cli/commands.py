"""What the commands of `python -m ngram` do; parser.py has their flags, score.py scores."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from ngram.arpa.write import export_arpa
from ngram.cli import options
from ngram.cli.reading import Losses, encoded
from ngram.cli.score import score
from ngram.cli.warm_up import warm_up
from ngram.compiled import KernelCache
from ngram.container import atomic_write
from ngram.counting.build_table import build_table
from ngram.counting.documents import count_documents
from ngram.counting.run import Run, merge
from ngram.documents import NAMED, documents, input_files
from ngram.errors import SeedgramError
from ngram.json_line import emit_json
from ngram.storing import prune
from ngram.storing.model_file import Counts, fit_model, is_counts_file, read_counts, read_model, write_counts
from ngram.table import NgramTable
from ngram.terminal import UsageError, stage, track, warn
from ngram.tokenizer import Tokenizer, silence_sentencepiece
from ngram.vocabulary import Vocabulary, kind_of
from ngram.words import WordVocabulary


def carry_out(asked: options.Options) -> None:
    """Does what a command line asks for."""
    silence_sentencepiece()
    KernelCache.announces = True
    match asked:
        case options.TrainOptions():
            train(asked)
        case options.MergeOptions():
            merge_counts(asked)
        case options.ScoreOptions():
            score(asked)
        case options.ScoreDocumentsOptions():
            from ngram.cli.documents import score_documents  # processes and all: not for every command

            score_documents(asked)
        case options.PruneOptions():
            prune_model(asked)
        case options.InfoOptions():
            info(asked)
        case options.ArpaOptions():
            export(asked)
        case options.WarmUpOptions():
            warm_up()


def train(asked: options.TrainOptions) -> None:
    """Counts the texts, one document each, and writes a model, exact counts, or both."""
    started, losses = time.perf_counter(), Losses()
    with input_files([str(place) for place in asked.texts], names=NAMED) as paths:  # pipes become files: words are read twice
        vocabulary = _vocabulary(asked, paths)
        if asked.memory is not None:
            from ngram.cli.within_memory import table_within  # files and all: not for every command

            with table_within(asked, paths, vocabulary, losses) as (table, report):
                if table is not None and asked.outputs.model is not None:
                    with stage("encoding"):
                        _write_model(table, vocabulary, asked.outputs.model, asked.outputs.max_bytes, report)
        else:
            with stage("counting"):
                run = count_documents(losses.noted(encoded(paths, vocabulary)), vocabulary, asked.order)
            report = _finish(Counts(run, vocabulary, run.total()), asked.order, asked.outputs)
    if losses.lost:
        warn(f"{asked.tokenizer}: has no byte pieces and loses {losses.lost / losses.total:.2%} of the texts; the model learns the rest")
    emit_json({**report, "wall_s": round(time.perf_counter() - started, 3)}, None)


def _vocabulary(asked: options.TrainOptions, paths: list[Path]) -> Vocabulary:
    if asked.tokenizer is not None:
        return Tokenizer(asked.tokenizer)
    with stage("collecting words"):
        return WordVocabulary.build(documents(paths, "text", lambda done, total: None), asked.words or options.MAX_WORDS)


def merge_counts(asked: options.MergeOptions) -> None:
    """Adds counts files up, and writes a model, exact counts, or both."""
    started = time.perf_counter()
    first, total = asked.counts[0], read_counts(asked.counts[0])
    for path in track(asked.counts[1:], "adding"):
        more = read_counts(path)
        if more.tokenizer.model != total.tokenizer.model:
            raise SeedgramError(f"{path}: was counted with another tokenizer than {first}; count both with the same one")
        if more.run.order != total.run.order:
            raise SeedgramError(
                f"{path}: has orders up to {more.run.order}, {first} up to {total.run.order}; count both with the same --orders"
            )
        total = Counts(merge(total.run, more.run), total.tokenizer, total.positions + more.positions)
    if asked.order and asked.order > total.run.order:
        raise UsageError(f"--orders 2-{asked.order}: {first} was counted up to order {total.run.order}; choose a high order up to that")
    report = _finish(total, asked.order or total.run.order, asked.outputs)
    emit_json({**report, "wall_s": round(time.perf_counter() - started, 3)}, None)


def _finish(counts: Counts[Run], order: int, outputs: options.Outputs) -> dict[str, Any]:
    report: dict[str, Any] = {"tokens": counts.positions, "order": counts.run.order}
    thresholds = outputs.thresholds(order)
    if outputs.counts is not None:
        write_counts(outputs.counts, counts)
        report["counts_out"] = str(outputs.counts)
    if outputs.model is not None:
        with stage("estimating and encoding"):
            table = build_table(counts.run, counts.tokenizer.vocab_size, counts.tokenizer.bos, order, thresholds, spent=True)
            _write_model(table, counts.tokenizer, outputs.model, outputs.max_bytes, report)
    return report


def _write_model(table: NgramTable, tokenizer: Vocabulary, out: Path, max_bytes: int | None, report: dict[str, Any]) -> None:
    fitted, data = fit_model(table, tokenizer, max_bytes)
    atomic_write(out, data)
    report |= {"out": str(out), "file_bytes": len(data), "ngrams": sum(fitted.sizes()), "order": fitted.order}


def prune_model(asked: options.PruneOptions) -> None:
    """A smaller model from a model: the n-grams that save the most bits stay."""
    started = time.perf_counter()
    model, report, most = read_model(asked.model), dict[str, Any](), asked.max_ngrams
    with stage("pruning"):
        if most is not None and most < model.table.vocab_size:
            raise UsageError(f"--max-ngrams {most}: too small, single tokens alone are {model.table.vocab_size}; allow at least that")
        table = model.table if most is None else prune.prune(model.table, most)
        _write_model(table, model.tokenizer, asked.out, asked.max_bytes, report)
    emit_json({**report, "wall_s": round(time.perf_counter() - started, 3)}, None)


def export(asked: options.ArpaOptions) -> None:
    """Writes a model's static probabilities as an ARPA file."""
    model = read_model(asked.model)
    export_arpa(model.table, asked.out, model.tokenizer.words if isinstance(model.tokenizer, WordVocabulary) else None)
    size_bytes = asked.out.stat().st_size if asked.out.is_file() else None
    emit_json({"out": str(asked.out), "file_bytes": size_bytes, "ngrams": sum(model.table.sizes())}, None)


def info(asked: options.InfoOptions) -> None:
    """What is in a model or counts file."""
    facts = _counts_facts(asked.model) if is_counts_file(asked.model) else _model_facts(asked.model)
    if asked.json:
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
        "tokens": kind_of(model.tokenizer) or "pieces",
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
