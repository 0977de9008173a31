"""What the blend of a foreign model is made of: the model as a network, its tokenizer, counts of the same tokens, a gate.

Shapes: B sequences, L positions, S scored positions, V pieces of the tokenizer (a model may have more: padding, which is cut off).
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hybrid.extras import missing
from hybrid.model.hybrid_lm import HybridLM
from hybrid.scoring.mixture import Mixture, load_gate
from hybrid.scoring.options import READ_TOKENS
from hybrid.settings.config import Config
from hybrid.training import fit_gate as fitting
from ngram import huggingface
from ngram.arrays import U16
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError
from ngram.online.cache import OnlineCache
from ngram.online.match import MatchModel
from ngram.storing.model_file import read_model
from ngram.table import NgramTable
from ngram.tokenizer import Tokenizer

MOST_WINDOW = 1024  # tokens, where none is asked for: a longer context is a choice
BATCH_ENTRIES = 1 << 25  # logits computed at once, float64: 256 MB
READ_ENTRIES = 1 << 24  # of the cache's rows that the product reads at once: 128 MB
CHUNK_TOKENS = 1024  # targets between two steps of the gate


def load(folder: str | os.PathLike[str], **settings: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a folder on this machine: weights from safetensors alone, no code of the folder's, nothing from a network.

    settings: for `AutoModelForCausalLM.from_pretrained`, for example torch_dtype.  Raises SeedgramError where that cannot be kept."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise missing("transformers") from None
    if wrong := sorted({"trust_remote_code", "use_safetensors", "local_files_only"} & set(settings)):
        raise SeedgramError(f"{', '.join(wrong)}: not a setting here; to load a model otherwise, load it yourself and pass it on")
    if not os.path.isdir(folder):  # of a name, the library asks its hub for something even where it is told not to
        raise SeedgramError(f"{folder}: cannot load: no folder of this name here, and nothing is fetched; download the model first")
    try:
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        model = AutoModelForCausalLM.from_pretrained(os.fspath(folder), use_safetensors=True, **safe, **settings)
        return model.eval(), AutoTokenizer.from_pretrained(os.fspath(folder), **safe)
    except (OSError, ValueError) as error:
        raise SeedgramError(f"{folder}: cannot load: {' '.join(str(error).split())[:300]}") from None


def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """A fast tokenizer of the library transformers, a path, or one of our own.  Raises TokenizerError or SeedgramError."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | os.PathLike):
        return Tokenizer(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SeedgramError(f"{type(tokenizer).__name__} has no tokenizer.json; use the fast tokenizer, or give the path of a SentencePiece model")
    settings = {key: getattr(tokenizer, key, None) for key in ("bos_token", "eos_token")}
    name = getattr(tokenizer, "name_or_path", "") or "tokenizer"
    return Tokenizer(huggingface.convert_text(backend.to_str(), json.dumps(settings), name), name)


def count(tokenizer: Any, texts: Iterable[str], *, order: int = 5) -> NgramTable:
    """The n-grams of documents up to an order, exactly counted: what `ngram` is in all of this package.  Takes seconds for megabytes.

    tokenizer: the model's.  Raises SeedgramError where there is no text, or the tokenizer cannot hold it."""
    codec = tokenizer_of(tokenizer)
    cache = NgramCache(codec.vocab_size, order, codec.bos)
    for tokens in codec.encode_documents(texts):
        cache.count_stream(tokens)
    if not cache.positions:
        raise SeedgramError("no text to count; give documents with some")
    return cache.table()


def table_of(ngram: Any, codec: Tokenizer | None = None) -> NgramTable:
    """What `count` made, a model file of `python -m ngram train`, or anything with such a `table`.  Raises SeedgramError if of other tokens."""
    if isinstance(ngram, str | os.PathLike):
        ngram = read_model(ngram)
    own = getattr(ngram, "tokenizer", None)
    table = ngram if isinstance(ngram, NgramTable) else getattr(ngram, "table", None)
    if not isinstance(table, NgramTable):
        raise SeedgramError(f"{type(ngram).__name__} is no n-gram model; make one with hybrid.hf.count, or give a file of python -m ngram train")
    foreign = codec is not None and ((table.vocab_size, table.bos) != (codec.vocab_size, codec.bos) or own is not None and own.model != codec.model)
    if foreign:
        raise SeedgramError("the n-gram model was counted with another tokenizer than the model's; count again with hybrid.hf.count")
    return table


class CausalNetwork(torch.nn.Module):
    """A causal model of the library transformers as the network that scoring asks: float64 logits of the pieces that the tokenizer has.

    Raises SeedgramError for a model with fewer logits, or one that looks at tokens to its right."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        super().__init__()
        self.inner, self.vocab_size = model.eval(), vocab_size
        with torch.inference_mode():
            first, other = (self._logits(torch.tensor([[0, second]], device=model.device))[0, 0] for second in (0, 1))
        if first.shape[-1] < vocab_size:
            raise SeedgramError(f"a model of {first.shape[-1]:,} logits beside a tokenizer of {vocab_size:,} pieces; give the model's own tokenizer")
        if not torch.allclose(first, other, rtol=1e-3, atol=1e-3):
            raise SeedgramError(f"{type(model).__name__}: what it says of a token changes with those behind it; give a causal model")

    def _logits(self, tokens_BL: Tensor) -> Tensor:
        logits: Tensor = self.inner(input_ids=tokens_BL, use_cache=False).logits
        return logits

    def logits_at(self, tokens_BL: Tensor, places_S: Tensor) -> Tensor:
        """(S, V) float64, of the flattened positions `places_S`."""
        logits_BLV = self._logits(tokens_BL)
        return logits_BLV.flatten(0, 1)[places_S, : self.vocab_size].double()


@dataclass(frozen=True)
class Parts:
    """A model, its tokenizer and n-grams, checked against each other, and how they are blended; see `blend_perplexity`."""

    network: CausalNetwork
    codec: Tokenizer
    table: NgramTable
    window: int
    stride: int
    gate: bytes | None
    match: bool
    product: bool
    online: bool

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, ngram: Any, *, window: int = 0, stride: int = 0, gate: bytes | None = None,
        match: bool = True, product: bool = True, online: bool = True,
    ) -> "Parts":  # fmt: skip
        codec = tokenizer_of(tokenizer)
        table = table_of(ngram, codec)
        network = CausalNetwork(model, codec.vocab_size)
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if window < 0 or (longest and window > longest):
            raise SeedgramError(f"a window of {window} tokens: the model takes 1…{longest}")
        return cls(network, codec, table, window or min(longest or MOST_WINDOW, MOST_WINDOW), stride, gate, match and online, product, online)

    @property
    def device(self) -> torch.device:
        return torch.device(self.network.inner.device)

    @property
    def as_model(self) -> HybridLM:
        """The network where scoring asks for one of ours: it calls `logits_at` and nothing else."""
        return cast(HybridLM, self.network)

    @property
    def batch_windows(self) -> int:
        return max(1, BATCH_ENTRIES // (self.window * self.codec.vocab_size))

    @property
    def read_tokens(self) -> int:
        return max(1, min(READ_TOKENS, READ_ENTRIES // self.codec.vocab_size))

    def experts(self) -> tuple[OnlineCache, MatchModel | None, Mixture]:
        """Cache, match model and mixture as they are before the first token."""
        return experts(self.table, self.gate, match=self.match, product=self.product, online=self.online)

    def stream(self, texts: Iterable[str]) -> tuple[U16, int]:
        """The documents' tokens, what begins each in front of it, and their bytes of UTF-8.  Raises SeedgramError where there are none."""
        size_bytes, parts = 0, list[U16]()

        def noted() -> Iterable[str]:
            nonlocal size_bytes
            for text in texts:
                size_bytes += len(text.encode("utf-8", "surrogatepass"))
                yield text

        parts += self.codec.encode_documents(noted())
        if not size_bytes:
            raise SeedgramError("no text to score; give documents with some")
        return np.concatenate(parts), size_bytes


def experts(table: NgramTable, gate: bytes | None, *, match: bool, product: bool, online: bool) -> tuple[OnlineCache, MatchModel | None, Mixture]:
    """Those of a table and a gate (None: the fallback), before the first token."""
    matcher = MatchModel(table.vocab_size, table.bos) if match else None
    mixture = Mixture(load_gate(gate, learning=online), CHUNK_TOKENS, match=match, product=product)
    return OnlineCache(table), matcher, mixture


def fit_gate(model: Any, tokenizer: Any, texts: Iterable[str], ngram: Any, *, window: int = 0) -> bytes:
    """A gate for `blend_perplexity` and `NgramLogitsProcessor`, fitted on documents that were neither trained on nor counted.

    A few documents are enough: little text fits a smaller gate.  hybrid/training/fit_gate.py is what fits an artifact's, too."""
    parts = Parts.of(model, tokenizer, ngram, window=window)
    base = Config()
    config = replace(base, train=replace(base.train, seq_len=parts.window))
    return fitting.fit_gate(parts.as_model, parts.table, parts.stream(texts)[0], parts.device, config).to_bytes()
