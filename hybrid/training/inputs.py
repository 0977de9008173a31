"""What a run reads, checked before its first step: tokenizer, shards, and a model of the right size."""

from dataclasses import dataclass

import torch

from hybrid.data.manifest import check_shards
from hybrid.data.overlap import check_manifest, check_overlap
from hybrid.data.shards import Loader, find_shards, predictable
from hybrid.model.hybrid_lm import HybridLM
from hybrid.parallel.ranks import Ranks
from hybrid.settings.config import Config, ConfigError
from hybrid.training.batches import Batches
from ngram.arrays import U16
from ngram.pieces import Pieces


@dataclass(frozen=True)
class Places:
    """What a run reads and writes, and what it does beside training; the flags of train_gpt.py have the same names."""

    data: str
    tokenizer: str
    out: str
    resume: str | None = None
    allow_overlap: bool = False
    no_score: bool = False
    keep_checkpoint: bool = False


@dataclass(frozen=True)
class Inputs:
    """loader: of this rank's training rows.  model: with its first weights, on this rank's device.  tokenizer: the bytes of its file.
    val_tokens: (n,) uint16, scored by --val-every, never trained on."""

    loader: Loader
    model: HybridLM
    tokenizer: bytes
    val_tokens: U16


def read_inputs(places: Places, settings: Config, ranks: Ranks) -> Inputs:
    """Reads and checks all that a run of `settings` needs.  Raises SeedgramError, naming the file or setting."""
    pieces, train = Pieces(places.tokenizer), settings.train
    if pieces.vocab_size != settings.model.vocab_size:
        raise ConfigError(f"{places.tokenizer}: {pieces.vocab_size} pieces, the model has {settings.model.vocab_size}; set --vocab-size")
    val = predictable(find_shards(places.data, "val"), pieces.vocab_size)
    compared = check_shards(val, pieces.model)
    loader = Loader(
        find_shards(places.data, "train"), batch_rows=train.batch_tokens // train.seq_len, seq_len=train.seq_len,
        history=max(settings.cache.ngram_order - 1, 1), rank=ranks.rank, world=ranks.world, seed=train.seed,
        holdout_tokens=train.holdout_tokens, vocab_size=pieces.vocab_size, bos=pieces.bos,
    )
    Batches(settings, loader, ranks)  # raises TrainError while nothing is written
    compared = check_shards(loader.stream, pieces.model) and compared
    if ranks.is_first and compared:  # sides in one manifest were compared when it was written
        check_manifest(val.paths, allowed=places.allow_overlap)
    elif ranks.is_first:
        check_overlap(loader.stream, val, pieces.bos, allowed=places.allow_overlap)
    torch.manual_seed(train.seed)
    return Inputs(loader, HybridLM(settings.model).to(ranks.device), pieces.model, val.read(0, len(val)))
