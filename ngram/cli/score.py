"""`python -m ngram score`: bits per byte of a text under a model or ARPA file, score-first where the model learns."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ngram.arpa.from_table import static_model
from ngram.arpa.model import ArpaModel
from ngram.arpa.read import import_arpa, is_arpa_file, read_words
from ngram.arrays import F64, Tokens
from ngram.cli.options import ScoreOptions
from ngram.cli.reading import encoded
from ngram.counting.counter import NgramCache
from ngram.errors import SeedgramError
from ngram.json_line import emit_json
from ngram.mixture.context_sets import word_classes
from ngram.mixture.mixture import Mixture
from ngram.online.cache import OnlineCache
from ngram.score_first import ScoreFirst
from ngram.storing.model_file import read_model
from ngram.table import NgramTable
from ngram.terminal import UsageError, stage, track, warn
from ngram.tokenizer import Tokenizer
from ngram.vocabulary import Vocabulary
from ngram.words import WordVocabulary

BLOCK_TOKENS = 1 << 16  # tokens between two movements of a progress bar
LOWEST_SUM = 0.98  # of an ARPA file's distribution, below which it is worth a word


class TargetScores:
    """A part for ScoreFirst around an OnlineCache or a Mixture: probabilities of targets only, (n,) float64.

    given: a token that is no target where it stands in the stream (`<s>`): its probability is 1, and it is not learned."""

    def __init__(self, cache: OnlineCache | Mixture, given: int | None = None) -> None:
        self.cache, self.given, self.digest = cache, given, cache.digest

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        prob = self.cache.score(tokens, start, stop, features=False).prob
        if self.given is not None:
            prob[tokens[start:stop] == self.given] = 1.0
        return prob

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        for first, last in self._targets(tokens, start, stop):
            self.cache.update(tokens, first, last)

    def score_then_update(self, tokens: Tokens, start: int, stop: int) -> F64:
        prob = np.ones(stop - start)
        for first, last in self._targets(tokens, start, stop):
            prob[first - start : last - start] = self.cache.score_then_update(tokens, first, last, features=False).prob
        return prob

    def _targets(self, tokens: Tokens, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The ranges between given tokens."""
        given = [] if self.given is None else (start + np.flatnonzero(tokens[start:stop] == self.given)).tolist()
        return ((a, b) for a, b in zip([start, *(place + 1 for place in given)], [*given, stop], strict=True) if a < b)


@dataclass(frozen=True)
class Scored:
    prob: F64
    wall_s: float


def score(asked: ScoreOptions) -> None:
    """Bits per byte of a text, as one line of JSON."""
    path, model = asked.model, _loaded(asked)
    vocabulary = model[1]
    facts: dict[str, Any] = {}
    tokens, size_bytes, lost = _read(asked.test, vocabulary)
    words = vocabulary if isinstance(vocabulary, WordVocabulary) else None
    targets = tokens[1:] if words is None else tokens[1:][tokens[1:] != words.bos]
    if isinstance(model[0], NgramTable) and words is not None and not asked.online:  # as its ARPA file would score
        scored, _ = _score_arpa(static_model(model[0], words.words), tokens, words, path)
    elif isinstance(model[0], NgramTable):
        scored = _score_model(model[0], vocabulary, tokens, asked.online, asked.chunk_tokens)
    else:
        scored, facts = _score_arpa(model[0], tokens, words, path)
    count, bits = len(targets), _bits(scored.prob, path)
    if words is not None:
        facts |= {"perplexity": 2 ** (bits / count), "unknown": int((targets == words.unknown).sum())}
    emit_json(
        {
            "bpb": bits / size_bytes,
            "tokens": count,
            "bytes": size_bytes,
            "tokens_per_s": round(count / max(scored.wall_s, 1e-9), 1),
            "bits_per_token": bits / count,
            "wall_s": round(scored.wall_s, 4),
            "lossless": lost == 0 and words is None,
            "online": asked.online is not None,
            "expert": asked.online or "kn",
            "chunk_tokens": asked.chunk_tokens if asked.online else None,
            "order": model[0].order,
            "model_bytes": path.stat().st_size,
            **facts,
        },
        asked.json,
    )


def _loaded(asked: ScoreOptions) -> tuple[NgramTable | ArpaModel, Vocabulary]:
    """Table or ARPA model, and its vocabulary."""
    path, given = asked.model, asked.tokenizer
    if not is_arpa_file(path):
        if given is not None:
            raise UsageError(f"{path}: has its tokenizer inside; leave --tokenizer out")
        model = read_model(path)
        return model.table, model.tokenizer
    if asked.online:
        raise UsageError(f"{path}: an ARPA file has no counts to go on from; leave --online out or train a model")
    if given is not None:
        tokenizer = Tokenizer(given)
        return import_arpa(path, bos=tokenizer.bos, vocab_size=tokenizer.vocab_size), tokenizer
    return read_words(path)


def _read(test: Path, vocabulary: Vocabulary) -> tuple[Tokens, int, int]:
    """The tokens of a text, its bytes as far as they stand for it, and the bytes that they lack."""
    documents = list(encoded([test], vocabulary))
    size_bytes, lost = sum(document.size_bytes for document in documents), sum(document.lost_bytes for document in documents)
    if lost:
        share = lost / (lost + size_bytes)
        warn(f"{test}: the tokenizer has no byte pieces and loses {share:.2%} of this text; bits per byte are about the rest")
    return np.concatenate([document.tokens for document in documents]), size_bytes, lost


def _score_arpa(model: ArpaModel, tokens: Tokens, words: WordVocabulary | None, path: Path) -> tuple[Scored, dict[str, Any]]:
    sums = _checked_sums(model, tokens, path)
    _ = model.index  # made now, so that tokens_per_s is about scoring
    model.log10_scores(tokens[:2], 1, 2)
    started = time.perf_counter()
    if words is None:
        prob = model.score(tokens, 1, len(tokens))
    else:
        prob = 10.0 ** model.log10_scores(tokens, 1, len(tokens))[0]
        prob[tokens[1:] == words.bos] = max(1.0, sums[1])
    wall_s = time.perf_counter() - started
    # what rounding adds to a row is no gain
    return Scored(prob / max(1.0, sums[1]), wall_s), {"row_sums": sums, "restored_ngrams": model.restored}


def _checked_sums(model: ArpaModel, tokens: Tokens, path: Path) -> tuple[float, float]:
    """(smallest, largest) sum of distributions that the text meets; says so where they fall short of 1."""
    sums = model.check_sums(tokens)
    if sums[0] < LOWEST_SUM:
        warn(
            f"{path}: after some contexts of this text its probabilities sum to {sums[0]:.4f}: what is missing makes bits per byte too large"
        )
    return sums


def _bits(prob: F64, model_path: Path) -> float:
    if not len(prob) or prob.min() <= 0:
        raise SeedgramError(f"{model_path}: gives probability 0 to a token of the text; train on more text")
    return float(-np.log2(prob).sum())


def _score_model(table: NgramTable, tokenizer: Vocabulary, tokens: Tokens, online: str | None, chunk_tokens: int) -> Scored:
    with stage("compiling and loading"):
        _warm_up(table, tokenizer, tokens, online, chunk_tokens)
        part = _part(table, tokenizer, online)
    started = time.perf_counter()
    prob = _score_stream(part, tokens, online is not None, chunk_tokens)
    return Scored(prob, time.perf_counter() - started)


def _part(table: NgramTable, tokenizer: Vocabulary, online: str | None) -> TargetScores:
    given = tokenizer.bos if isinstance(tokenizer, WordVocabulary) else None
    return TargetScores(Mixture(table, word_classes(tokenizer.pieces())) if online == "mix" else OnlineCache(table), given)


def _warm_up(table: NgramTable, tokenizer: Vocabulary, tokens: Tokens, online: str | None, chunk_tokens: int) -> None:
    """Compiles the kernels on a few tokens and no counts, so that tokens_per_s is about scoring."""
    small = NgramCache(table.vocab_size, table.order, table.bos, buffer_positions=64)
    small.count_stream(tokens[:8])
    _score_stream(_part(small.table(), tokenizer, online), tokens[:8], online is not None, chunk_tokens)


def _score_stream(part: TargetScores, tokens: Tokens, online: bool, chunk_tokens: int) -> F64:
    """(N-1,) probabilities of all targets through the one ScoreFirst loop."""
    loop = ScoreFirst(tokens, {"cache": part}, frozen=not online)
    fused = online and chunk_tokens == 1
    out: list[F64] = []
    size = chunk_tokens if online and not fused else BLOCK_TOKENS
    for start, stop in track(list(loop.chunks(size)), "scoring"):
        if fused:
            out.append(loop.score_then_update(start, stop)["cache"])
        else:
            out.append(loop.score(start, stop)["cache"])
            if online and stop < len(tokens):
                loop.update(start, stop)
    return np.concatenate(out)
