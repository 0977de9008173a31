"""From a trained model and counted n-grams to an artifact: merge, quantise, prune to the budget, fit the gate, pack."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid.data.shards import SCAN_TOKENS, Loader
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import map_checksums
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import windows
from hybrid.settings.config import Config
from hybrid.storing import artifact, gptq, quantise
from hybrid.training.fit_gate import fit_gate
from hybrid.training.run_log import RunLog
from hybrid.training.table_ahead import TableAhead
from ngram.arrays import F64, U16
from ngram.blending import fit
from ngram.counting.all_reduce import all_reduce_run
from ngram.terminal import warn

GATE_BYTES = 24_000  # kept free for the gate while the cache is fitted to the budget


def merge_counts(ahead: TableAhead | None, ranks: Ranks, log: RunLog) -> None:
    """Merges the counts of all ranks into one exact run and begins its table, unless training has."""
    if ahead is None or ahead.begun:
        return
    with log.phase("merged"):
        run = ahead.cache.run()
        if ranks.world > 1:
            run = all_reduce_run(run, group=ranks.patient_group)
    if ranks.is_first:
        ahead.begin(run)


def _token_counts(config: Config, loader: Loader) -> F64:
    """How often each token occurs in the training text, (V,)."""
    counts = np.zeros(config.model.vocab_size)
    for begin in range(0, loader.train_tokens, SCAN_TOKENS):
        counts += np.bincount(loader.stream.read(begin, min(begin + SCAN_TOKENS, loader.train_tokens)), minlength=len(counts))
    return counts


def _calibration(config: Config, model: HybridLM, loader: Loader, ranks: Ranks) -> dict[str, F64] | None:
    """Second moments of the matrices' inputs over the first --gptq-tokens training tokens; None without GPTQ."""
    length = config.train.seq_len
    rows = min(-(-config.quant.gptq_tokens // length), loader.train_tokens // length)
    if not config.quant.gptq_tokens:
        return None
    windows = torch.from_numpy(loader.stream.read(0, rows * length).astype("int64").reshape(-1, length))
    return gptq.second_moments(model, (window.to(ranks.device) for window in windows.split(4)))


def pack(config: Config, model: HybridLM, ahead: TableAhead | None, loader: Loader, tokenizer: bytes, ranks: Ranks, out: Path, log: RunLog) -> dict[str, Any]:
    """Writes `out`/artifact.bin; returns its books as "bytes" ({section: bytes}), and what the "gate" is.  Rank 0 only.

    The gate is fitted on what a reader of the file will have, dequantised weights and decoded cache, over the training text that was
    neither trained on nor counted.  The loss through quantisation is measured on that text, too."""
    packer = artifact.Packer(config, tokenizer, map_checksums(model))
    with log.phase("quantised"):
        calibration = _calibration(config, model, loader, ranks), _token_counts(config, loader)
        meta, sections = quantise.encode_state(model.state_dict(), config.quant, *calibration)
        reloaded = copy.deepcopy(model).eval()
        reloaded.load_state_dict(quantise.decode_state(meta, sections))
    with log.phase("compressed"):
        packer.add_weights(meta, sections)
    with log.phase("held out") as figures:
        figures |= _gap(config, model, reloaded, loader.holdout(), tokenizer, ranks)
    gate = _fit_gate(config, reloaded, ahead, loader, ranks, packer, log) if ahead is not None else None
    return {"bytes": packer.write(out / "artifact.bin"), "gate": gate}


def _fit_gate(config: Config, model: HybridLM, ahead: TableAhead, loader: Loader, ranks: Ranks, packer: artifact.Packer, log: RunLog) -> dict[str, Any]:
    """Adds "ngram", which fills what the budget leaves, and "gate"; returns the gate's kind and the positions it was fitted on."""
    with log.phase("table") as figures:  # what is left of it
        stages = ahead.stages()
        figures |= ahead.figures
    with log.phase("cache") as figures:
        table, coded = stages.fit(packer.room(reserve=GATE_BYTES))
        packer.add({"ngram": coded})
        figures |= {"ngrams": sum(table.sizes()), "bytes": len(coded), "bits_an_ngram": 8 * len(coded) / max(1, sum(table.sizes()))}
    holdout = loader.holdout()
    with log.phase("gate") as figures:
        gate = fit_gate(model, table, holdout, ranks.device, config)
        figures |= {"kind": gate.kind, "positions": max(0, len(holdout) - 1)}
        packer.add({"gate": gate.to_bytes()})
    if figures["positions"] < fit.SMALLEST:
        how = f"{gate.kind} weights, chosen by cross-validation" if figures["positions"] else "85 % of the network, not fitted at all"
        warn(f"gate: {how}: {figures['positions']:,} held-out positions are fewer than {fit.SMALLEST:,}; raise --holdout-tokens for a better one")
    return figures


def _gap(config: Config, model: HybridLM, reloaded: HybridLM, holdout: U16, tokenizer: bytes, ranks: Ranks) -> dict[str, float]:
    """Bits per byte of the held-out training text before and after quantisation; nothing of none."""
    size = TokenBytes.from_model(tokenizer).total(holdout)
    if not size:
        return {}
    rank = Ranks(0, 1, ranks.device)
    bpb = [bits_per_byte(float(windows.neural_nats(m, holdout, config.train.seq_len, rank).sum()), size) for m in (model, reloaded)]
    return {"neural_bpb": bpb[0], "quantised_bpb": bpb[1], "gap_bpb": bpb[1] - bpb[0]}
