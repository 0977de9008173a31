"""From a trained model and counted n-grams to an artifact: merge, quantise, prune to the budget, fit the gate, pack."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from hybrid import artifact, evaluate, gptq, quantise, windows
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.config import Config
from hybrid.data import Loader
from hybrid.distributed import Ranks, peers
from hybrid.log import RunLog
from hybrid.model import HybridLM
from ngram import prune
from ngram.cache import NgramCache
from ngram.cli import stage
from ngram.runs import Run, build_table
from ngram.sync import all_reduce_run
from ngram.table import F64, U16, NgramTable

GATE_BYTES = 24_000  # kept free for the gate while the cache is fitted to the budget
LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built


def merge_counts(cache: NgramCache | None, ranks: Ranks, log: RunLog) -> Run | None:
    """Every rank's counts as one exact run, the same on all; None without a cache."""
    if cache is None:
        return None
    begin = time.monotonic()
    run = cache.run()
    if ranks.world > 1:
        with peers():
            run = all_reduce_run(run, group=ranks.patient_group)
    digest = xxhash.xxh3_128()
    for column in run.columns():
        digest.update(column.view(np.uint8).data)
    log.show("merged", ngrams=len(run), positions=run.total(), merge_s=time.monotonic() - begin, digest=digest.hexdigest())
    return run


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
) -> dict[str, int]:
    """Writes `out`/artifact.bin and returns its books ({section: bytes}).  Rank 0 only.

    The gate is fitted on what a reader of the file will have: dequantised weights, decoded cache, and the training text that
    was held out from both training and counting.  The loss through quantisation is measured on that text, too."""
    packer = artifact.Packer(config, tokenizer, model.map_checksums())
    with _phase("quantised", log):
        meta, sections = quantise.encode_state(model.state_dict(), config.quant, _calibration(config, model, loader, ranks))
        packer.add_weights(meta, sections)
        reloaded = copy.deepcopy(model).eval()
        reloaded.load_state_dict(quantise.decode_state(meta, sections))
    _log_gap(config, model, reloaded, loader.holdout(), tokenizer, ranks, log)
    if run is not None:
        table = _fit_cache(config, run, packer, log)
        with _phase("gate", log):
            packer.add("gate", evaluate.fit_gate(reloaded, table, loader.holdout(), ranks.device, config))
    return packer.write(out / "artifact.bin")


def _fit_cache(config: Config, run: Run, packer: artifact.Packer, log: RunLog) -> NgramTable:
    """Adds the section "ngram", filling what the budget leaves; returns the table that a reader gets."""
    orders = config.cache.ngram_order
    threshold = [1 if n <= 3 else 2 for n in range(1, orders + 1)] if run.total() > LARGE_CORPUS else None
    with _phase("table", log) as figures:
        exact = build_table(run, config.model.vocab_size, 1, (2, orders), threshold)
        figures["ngrams"] = sum(exact.sizes())
    with _phase("cache", log) as figures:
        table, coded = prune.fit_bytes(exact, packer.room(reserve=GATE_BYTES))
        packer.add("ngram", coded)
        figures |= {"ngrams": sum(table.sizes()), "bytes": len(coded), "bits_an_ngram": 8 * len(coded) / max(1, sum(table.sizes()))}
    return table


def _log_gap(config: Config, model: HybridLM, reloaded: HybridLM, holdout: U16, tokenizer: bytes, ranks: Ranks, log: RunLog) -> None:
    """Bits per byte of the held-out training text before and after quantisation."""
    size = int(TokenBytes.from_model(tokenizer).count(holdout).sum()) if len(holdout) > 1 else 0
    if size:
        bpb = [
            bits_per_byte(float(windows.neural_scores(m, holdout, config.train.seq_len, 0, ranks.device).nll_nats.sum()), size)
            for m in (model, reloaded)
        ]
        log.show("held out", neural_bpb=bpb[0], quantised_bpb=bpb[1], gap_bpb=bpb[1] - bpb[0])


@contextmanager
def _phase(name: str, log: RunLog) -> Iterator[dict[str, Any]]:
    """Shows that something is going on, then logs the figures put into the dict and the seconds it took."""
    begin, figures = time.monotonic(), dict[str, Any]()
    with stage(name):
        yield figures
    log.show(name, **figures, seconds=time.monotonic() - begin)
