"""From a trained model and counted n-grams to an artifact: merge, quantise, prune to the budget, fit the gate, pack."""

import copy
import time
from pathlib import Path

import numpy as np
import torch
import xxhash

from hybrid import artifact, evaluate, gptq, quantise
from hybrid.config import Config
from hybrid.data import Loader
from hybrid.distributed import Ranks
from hybrid.log import RunLog
from hybrid.model import HybridLM
from ngram import prune
from ngram.cache import NgramCache
from ngram.runs import Run, build_table
from ngram.sync import all_reduce_run
from ngram.table import F64

GATE_BYTES = 24_000  # kept free for the gate while the cache is fitted to the budget
LARGE_CORPUS = 10_000_000  # positions from which singletons of long n-grams are dropped before anything is built


def merge_counts(cache: NgramCache | None, ranks: Ranks, log: RunLog) -> Run | None:
    """Every rank's counts as one exact run, the same on all; None without a cache."""
    if cache is None:
        return None
    begin = time.monotonic()
    run = cache.run()
    if ranks.world > 1:
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
    was held out from both training and counting."""
    begin = time.monotonic()
    meta, sections = quantise.encode_state(model.state_dict(), config.quant, _calibration(config, model, loader, ranks))
    packer = artifact.Packer(config, tokenizer, model.map_checksums())
    packer.add_weights(meta, sections)
    reloaded = copy.deepcopy(model).eval()
    reloaded.load_state_dict(quantise.decode_state(meta, sections))
    log.show("quantised", seconds=time.monotonic() - begin)
    table = None
    if run is not None:
        begin = time.monotonic()
        orders = config.cache.ngram_order
        threshold = [1 if n <= 3 else 2 for n in range(1, orders + 1)] if run.total() > LARGE_CORPUS else None
        exact = build_table(run, config.model.vocab_size, 1, (2, orders), threshold)
        log.show("table", ngrams=sum(exact.sizes()), seconds=time.monotonic() - begin)
        begin = time.monotonic()
        table, coded = prune.fit_bytes(exact, packer.room(reserve=GATE_BYTES))
        packer.add("ngram", coded)
        log.show(
            "cache",
            ngrams=sum(table.sizes()),
            bytes=len(coded),
            bits_an_ngram=8 * len(coded) / max(1, sum(table.sizes())),
            seconds=time.monotonic() - begin,
        )
        begin = time.monotonic()
        packer.add("gate", evaluate.fit_gate(reloaded, table, loader.holdout(), ranks.device, config))
        log.show("gate", seconds=time.monotonic() - begin)
    return packer.write(out / "artifact.bin")
