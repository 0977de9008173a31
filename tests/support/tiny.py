"""A whole artifact small enough for tests: 320 pieces, two layers of random weights, a cache of a few thousand tokens, a gate."""

import functools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from hybrid.data import tokenizer
from hybrid.data.write_shards import write_shards
from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import map_checksums
from hybrid.scoring.mixture import load_gate
from hybrid.settings.config import Config, ModelConfig
from hybrid.storing import artifact, quantise
from ngram.counting.counter import NgramCache
from ngram.errors import run_cli
from ngram.storing import table_codec

WORDS = "the of a cache and every token scores before counts after model stream chunk gate is was not an honest order byte".split()
VOCAB = 320


@functools.cache
def documents(count=60, seed=0):
    random = np.random.default_rng(seed)
    return tuple(" ".join(random.choice(WORDS, 40)) + ".\n" for _ in range(count))


@functools.cache
def tokenizer_bytes():
    return tokenizer.train(documents(), VOCAB)


@functools.cache
def stream(seed=0, count=60):
    return np.concatenate(list(tokenizer.load(tokenizer_bytes()).encode_documents(documents(count, seed))))


def write_data(folder, train=45, val=6):
    """Writes tokenizer.model and the shards tiny_train and tiny_val with so many documents into `folder`."""
    (folder / "tokenizer.model").write_bytes(tokenizer_bytes())
    write_shards(folder, "tiny", "train", stream(seed=3, count=train))
    write_shards(folder, "tiny", "val", stream(seed=4, count=val))


def config(seq_len=32):
    model = ModelConfig(
        vocab_size=VOCAB, layers=2, d_model=32, heads=2, kv_heads=1, rope_dims=4, basis="hadamard", rank_attention=4, rank_mlp=4
    )
    base = Config(preset="tiny", model=model)
    return replace(base, train=replace(base.train, seq_len=seq_len), cache=replace(base.cache, ngram_order=4, chunk_tokens=64))


def write_artifact(path, *, cache=True, gate=None, documents=30, vocabulary=None):
    """Writes the artifact to `path` and returns its configuration.  vocabulary: the model of another tokenizer of 320 pieces than tiny's own."""
    settings = config()
    torch.manual_seed(0)
    model = HybridLM(settings.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    packer = artifact.Packer(settings, vocabulary or tokenizer_bytes(), map_checksums(model))
    packer.add_weights(*quantise.encode_state(model.state_dict(), settings.quant))
    if cache:
        counts = NgramCache(VOCAB, 4)
        counts.count_stream(stream(seed=1, count=documents))
        packer.add({"ngram": table_codec.encode(counts.table())})
        packer.add({"gate": gate or load_gate().to_bytes()})
    packer.write(path)
    return settings


def exit_code(module, *argv):
    """That of a command's `main` with these arguments, run in this process."""
    old, sys.argv = sys.argv, [module.__name__, *map(str, argv)]
    try:
        with pytest.raises(SystemExit) as ended:
            run_cli(module.main)
    finally:
        sys.argv = old
    return ended.value.code
