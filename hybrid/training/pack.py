"""From a trained model and counted n-grams to an artifact: merge, quantise, prune to the budget, fit the gate, pack."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid.data.shards import SCAN_TOKENS, Loader
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import map_checksums
from hybrid.parallel.ranks import Ranks, peers
from hybrid.scoring import windows
from hybrid.settings.config import Config
from hybrid.storing import artifact, gptq, quantise
from hybrid.training.fit_gate import fit_gate
from hybrid.training.run_log import RunLog
from ngram.arrays import F64, U16, digest
from ngram.blending import fit
from ngram.counting.all_reduce import all_reduce_run
from ngram.counting.build_table import build_table
from ngram.counting.row_counter import RowCounter
from ngram.counting.run import Run
from ngram.storing.fit_bytes import fit_bytes
from ngram.table import NgramTable
from ngram.terminal import stage, warn

GATE_BYTES = 24_000  # kept free for the gate while the cache is fitted to the budget
LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built


def merge_counts(cache: RowCounter | None, ranks: Ranks, log: RunLog) -> Run | None:
    """The counts of all ranks merged into one exact run, the same on every rank; None if nothing was counted."""
    if cache is None:
        return None
    begin = time.monotonic()
    run = cache.run()
    if ranks.world > 1:
        with peers():
            run = all_reduce_run(run, group=ranks.patient_group)
    log.show("merged", ngrams=len(run), positions=run.total(), merge_s=time.monotonic() - begin, digest=digest(*run.columns()))
    return run


def _token_counts(config: Config, loader: Loader) -> F64:
    """How often each token occurs in the training text, (V,)."""
    counts = np.zeros(config.model.vocab_size)
    for begin in range(0, loader.train_tokens, SCAN_TOKENS):
        counts += np.bincount(loader.stream.read(begin, min(begin + SCAN_TOKENS, loader.train_tokens)), minlength=len(counts))
    return counts


def _calibration(config: Config, model: HybridLM, loader: Loader, ranks: Ranks) -> dict[str, F64] | None:
    """Second moments of the matrices' inputs over the first --gptq-tokens training tokens; None without GPTQ."""
    rows = -(-config.quant.gptq_tokens // config.train.seq_len)
    if not rows:
        return None
    tokens = loader.stream.read(0, min(rows * config.train.seq_len, loader.train_tokens)).astype("int64")
    windows = torch.from_numpy(tokens[: len(tokens) // config.train.seq_len * config.train.seq_len].reshape(-1, config.train.seq_len))
    return gptq.second_moments(model, (window.to(ranks.device) for window in windows.split(4)))


def pack(
    config: Config, model: HybridLM, run: Run | None, loader: Loader, tokenizer: bytes, ranks: Ranks, out: Path, log: RunLog
) -> dict[str, Any]:
    """Writes `out`/artifact.bin; returns its books as "bytes" ({section: bytes}), and what the "gate" is.  Rank 0 only.

    The gate is fitted on what a reader of the file will have: dequantised weights, decoded cache, and the training text that
    was held out from both training and counting.  The loss through quantisation is measured on that text, too."""
    packer = artifact.Packer(config, tokenizer, map_checksums(model))
    with _phase("quantised", log):
        calibration = _calibration(config, model, loader, ranks), _token_counts(config, loader)
        meta, sections = quantise.encode_state(model.state_dict(), config.quant, *calibration)
        packer.add_weights(meta, sections)
        reloaded = copy.deepcopy(model).eval()
        reloaded.load_state_dict(quantise.decode_state(meta, sections))
    _log_gap(config, model, reloaded, loader.holdout(), tokenizer, ranks, log)
    gate = _fit_gate(config, reloaded, run, loader, ranks, packer, log) if run is not None else None
    return {"bytes": packer.write(out / "artifact.bin"), "gate": gate}


def _fit_gate(config: Config, model: HybridLM, run: Run, loader: Loader, ranks: Ranks, packer: artifact.Packer, log: RunLog) -> dict[str, Any]:
    """Adds the sections "ngram" and "gate"; returns the gate's kind and the held-out positions that it was fitted on."""
    table, holdout = _fit_cache(config, run, loader.bos, packer, log), loader.holdout()
    with _phase("gate", log) as figures:
        gate = fit_gate(model, table, holdout, ranks.device, config)
        figures |= {"kind": gate.kind, "positions": max(0, len(holdout) - 1)}
        packer.add({"gate": gate.to_bytes()})
    if figures["positions"] < fit.SMALLEST:
        how = f"{gate.kind} weights, chosen by cross-validation" if figures["positions"] else "85 % of the network, not fitted at all"
        warn(f"gate: {how}: {figures['positions']:,} held-out positions are fewer than {fit.SMALLEST:,}; raise --holdout-tokens for a better one")
    return figures


def _fit_cache(config: Config, run: Run, bos: int, packer: artifact.Packer, log: RunLog) -> NgramTable:
    """Adds the section "ngram", filling what the budget leaves; returns the table that a reader gets."""
    orders = config.cache.ngram_order
    threshold = [1 if n <= 3 else 2 for n in range(1, orders + 1)] if run.total() > LARGE_CORPUS else None
    with _phase("table", log) as figures:
        exact = build_table(run, config.model.vocab_size, bos, orders, threshold)
        figures["ngrams"] = sum(exact.sizes())
    with _phase("cache", log) as figures:
        table, coded = fit_bytes(exact, packer.room(reserve=GATE_BYTES))
        packer.add({"ngram": coded})
        figures |= {"ngrams": sum(table.sizes()), "bytes": len(coded), "bits_an_ngram": 8 * len(coded) / max(1, sum(table.sizes()))}
    return table


def _log_gap(config: Config, model: HybridLM, reloaded: HybridLM, holdout: U16, tokenizer: bytes, ranks: Ranks, log: RunLog) -> None:
    """Bits per byte of the held-out training text before and after quantisation."""
    size = TokenBytes.from_model(tokenizer).total(holdout)
    if size:
        bpb = [
            bits_per_byte(float(windows.neural_nats(m, holdout, config.train.seq_len, Ranks(0, 1, ranks.device)).sum()), size)
            for m in (model, reloaded)
        ]
        log.show("held out", neural_bpb=bpb[0], quantised_bpb=bpb[1], gap_bpb=bpb[1] - bpb[0])


@contextmanager
def _phase(name: str, log: RunLog) -> Iterator[dict[str, Any]]:
    """Shows `name` on a terminal while the body runs, then logs the figures that the body put into the dict, and the seconds."""
    begin, figures = time.monotonic(), dict[str, Any]()
    with stage(name):
        yield figures
    log.show(name, **figures, seconds=time.monotonic() - begin)
