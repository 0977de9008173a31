"""From a trained model and counted n-grams to an artifact: merge, quantise, prune to the budget, fit the gate, pack."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid.data.shards import SCAN_TOKENS
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import map_checksums
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import windows
from hybrid.settings.config import Config
from hybrid.storing import artifact, gptq, quantise
from hybrid.training.fit_gate import fit_gate
from hybrid.training.inputs import Inputs
from hybrid.training.run_log import RunLog
from hybrid.training.table_ahead import TableAhead
from ngram.arrays import U16
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


def _encoded(config: Config, inputs: Inputs, ranks: Ranks) -> tuple[list[Any], dict[str, bytes]]:
    """The model's weights by `encode_state`, which knows how often each token occurs in the training text, and for GPTQ the second moments
    of the matrices' inputs over its first --gptq-tokens."""
    model, stream, length, end = inputs.model, inputs.loader.stream, config.train.seq_len, inputs.loader.train_tokens
    moments = None
    if config.quant.gptq_tokens:
        rows = min(-(-config.quant.gptq_tokens // length), end // length)
        windows_NL = torch.from_numpy(stream.read(0, rows * length).astype("int64").reshape(-1, length))
        moments = gptq.second_moments(model, (some.to(ranks.device) for some in windows_NL.split(4)))
    blocks = (stream.read(begin, min(begin + SCAN_TOKENS, end)) for begin in range(0, end, SCAN_TOKENS))
    counts_V = np.sum([np.bincount(block, minlength=config.model.vocab_size) for block in blocks], axis=0)
    return quantise.encode_state(model.state_dict(), config.quant, moments, counts_V)


def pack(config: Config, inputs: Inputs, ahead: TableAhead | None, ranks: Ranks, out: Path, log: RunLog) -> dict[str, Any]:
    """Writes `out`/artifact.bin; returns its books as "bytes" ({section: bytes}), and what the "gate" is.  Rank 0 only.

    The gate is fitted on what a reader of the file will have, dequantised weights and decoded cache, over the training text that was
    neither trained on nor counted.  The loss through quantisation is measured on that text, too."""
    model, holdout = inputs.model, inputs.loader.holdout()
    packer = artifact.Packer(config, inputs.tokenizer, map_checksums(model))
    if ahead is not None:
        ahead.code()
    with log.phase("quantised"):
        meta, sections = _encoded(config, inputs, ranks)
        reloaded = copy.deepcopy(model).eval()
        reloaded.load_state_dict(quantise.decode_state(meta, sections))
    with log.phase("compressed"):
        packer.add_weights(meta, sections)
    with log.phase("held out") as figures:
        if size := TokenBytes.from_model(inputs.tokenizer).total(holdout):
            nats = (windows.neural_nats(m, holdout, config.train.seq_len, Ranks(0, 1, ranks.device)).sum() for m in (model, reloaded))
            before, after = (bits_per_byte(float(total), size) for total in nats)
            figures |= {"neural_bpb": before, "quantised_bpb": after, "gap_bpb": after - before}
    gate = _fit_gate(config, reloaded, ahead, holdout, ranks, packer, log) if ahead is not None else None
    return {"bytes": packer.write(out / "artifact.bin"), "gate": gate}


def _fit_gate(config: Config, model: HybridLM, ahead: TableAhead, holdout: U16, ranks: Ranks, packer: artifact.Packer, log: RunLog) -> dict[str, Any]:
    """Adds "ngram", which fills what the budget leaves, and "gate"; returns the gate's kind and the positions it was fitted on."""
    with log.phase("table") as figures:  # what is left of it
        stages = ahead.stages()
        figures |= ahead.figures
    with log.phase("cache") as figures:
        table, coded = stages.fit(packer.room(reserve=GATE_BYTES))
        packer.add({"ngram": coded})
        figures |= {"ngrams": sum(table.sizes()), "bytes": len(coded), "bits_an_ngram": 8 * len(coded) / max(1, sum(table.sizes()))}
    with log.phase("gate") as figures:
        gate = fit_gate(model, table, holdout, ranks.device, config)
        figures |= {"kind": gate.kind, "positions": max(0, len(holdout) - 1)}
        packer.add({"gate": gate.to_bytes()})
    if figures["positions"] < fit.SMALLEST:
        how = f"{gate.kind} weights, chosen by cross-validation" if figures["positions"] else "85 % of the network, not fitted at all"
        warn(f"gate: {how}: {figures['positions']:,} held-out positions are fewer than {fit.SMALLEST:,}; raise --holdout-tokens for a better one")
    return figures
