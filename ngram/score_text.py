"""`python -m ngram score`: bits per byte of a text under a model or ARPA file, score-first where the model learns."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ngram.arpa_reader import import_arpa
from ngram.cache import NgramCache
from ngram.cli import UsageError, emit_json, stage, track, warn
from ngram.container import read_bytes
from ngram.context_sets import word_classes
from ngram.errors import SeedgramError
from ngram.mixing import Mixture
from ngram.model_file import is_arpa_file, read_model
from ngram.online import OnlineCache
from ngram.score_first import ScoreFirst
from ngram.table import F64, U16, NgramTable
from ngram.text import TextTokenizer, read_stream

BLOCK_TOKENS = 1 << 16  # tokens between two movements of a progress bar


class TargetScores:
    """A part for ScoreFirst around an OnlineCache or a Mixture: probabilities of targets only, (n,) float64."""

    def __init__(self, cache: OnlineCache | Mixture) -> None:
        self.cache = cache
        self.update, self.digest = cache.update, cache.digest

    def score(self, tokens: U16, start: int, stop: int) -> F64:
        return self.cache.score(tokens, start, stop, features=False).prob

    def score_then_update(self, tokens: U16, start: int, stop: int) -> F64:
        return self.cache.score_then_update(tokens, start, stop, features=False).prob


@dataclass(frozen=True)
class Scored:
    prob: F64
    wall_s: float


def score(model_path: Path, tokenizer_path: Path | None, test: Path, online: str | None, chunk_tokens: int, json_path: Path | None) -> None:
    """Bits per byte of a text, as one line of JSON.  online: "mix", "kn", or None for a model that stays as it is."""
    arpa = is_arpa_file(model_path)
    if arpa != (tokenizer_path is not None):
        remedy = "an ARPA file has no tokenizer inside; give --tokenizer" if arpa else "has its tokenizer inside; leave --tokenizer out"
        raise UsageError(f"{model_path}: {remedy}")
    if arpa and online:
        raise UsageError(f"{model_path}: an ARPA file has no counts to go on from; leave --online out or train a model")
    model = None if arpa else read_model(model_path)
    tokenizer = model.tokenizer if model else TextTokenizer(read_bytes(tokenizer_path or ""), str(tokenizer_path))
    tokens, lossless, size_bytes = read_stream(test, tokenizer)
    if not lossless:
        warn(f"{test}: this tokenizer does not keep the text exactly, so bits per byte leave out what it drops; train a lossless one")
    if model:
        scored, order = _score_model(model.table, model.tokenizer, tokens, online, chunk_tokens), model.table.order
    else:
        loaded = import_arpa(model_path, bos=tokenizer.bos, vocab_size=tokenizer.vocab_size)
        started = time.perf_counter()
        scored, order = Scored(loaded.score(tokens, 1, len(tokens)), time.perf_counter() - started), loaded.order
    count = len(tokens) - 1
    emit_json(
        {
            "bpb": _bits(scored.prob, model_path) / size_bytes,
            "tokens": count,
            "bytes": size_bytes,
            "tokens_per_s": round(count / max(scored.wall_s, 1e-9), 1),
            "bits_per_token": _bits(scored.prob, model_path) / count,
            "wall_s": round(scored.wall_s, 4),
            "lossless": lossless,
            "online": online is not None,
            "expert": online or "kn",
            "chunk_tokens": chunk_tokens if online else None,
            "order": order,
            "model_bytes": model_path.stat().st_size,
        },
        json_path,
    )


def _bits(prob: F64, model_path: Path) -> float:
    if not len(prob) or prob.min() <= 0:
        raise SeedgramError(f"{model_path}: gives probability 0 to a token of the text; train on more text")
    return float(-np.log2(prob).sum())


def _score_model(table: NgramTable, tokenizer: TextTokenizer, tokens: U16, online: str | None, chunk_tokens: int) -> Scored:
    with stage("compiling and loading"):
        _warm_up(table, tokenizer, tokens, online, chunk_tokens)
        part = _part(table, tokenizer, online)
    started = time.perf_counter()
    prob = _score_stream(part, tokens, online is not None, chunk_tokens)
    return Scored(prob, time.perf_counter() - started)


def _part(table: NgramTable, tokenizer: TextTokenizer, online: str | None) -> TargetScores:
    return TargetScores(Mixture(table, word_classes(tokenizer.pieces())) if online == "mix" else OnlineCache(table))


def _warm_up(table: NgramTable, tokenizer: TextTokenizer, tokens: U16, online: str | None, chunk_tokens: int) -> None:
    """Compiles the kernels on a few tokens and no counts, so that tokens_per_s is about scoring."""
    small = NgramCache(table.vocab_size, (2, max(2, table.order)), table.bos, buffer_positions=64)
    small.count_stream(tokens[:8])
    _score_stream(_part(small.table(), tokenizer, online), tokens[:8], online is not None, chunk_tokens)


def _score_stream(part: TargetScores, tokens: U16, online: bool, chunk_tokens: int) -> F64:
    """(N-1,) probabilities of all targets through the one ScoreFirst loop."""
    order = ScoreFirst(tokens, {"cache": part}, frozen=not online)
    fused = online and chunk_tokens == 1
    out: list[npt.NDArray[np.float64]] = []
    size = chunk_tokens if online and not fused else BLOCK_TOKENS
    for start, stop in track(list(order.chunks(size)), "scoring"):
        if fused:
            out.append(order.score_then_update(start, stop)["cache"])
        else:
            out.append(order.score(start, stop)["cache"])
            if online and not order.done:
                order.update(start, stop)
    return np.concatenate(out)
