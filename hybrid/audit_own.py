"""Audit of this project's own scorers: network, n-gram cache and their blend, as eval.py uses them."""

from collections import OrderedDict
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hybrid import evaluate, windows
from hybrid.adapt import AdaptConfig, AdaptedNetwork
from hybrid.audit import audit_scorer
from hybrid.audit_report import AuditReport
from hybrid.blend import MATCH, NEURAL, NGRAM, PRODUCT
from hybrid.distributed import Ranks
from hybrid.product_scores import ProductScorer
from ngram.cli import track
from ngram.contexts import histories
from ngram.gate import F32, F64, mix
from ngram.match import MatchModel
from ngram.online import OnlineCache
from ngram.product import fill_product_rows
from ngram.score_first import Tokens

if TYPE_CHECKING:
    from hybrid.artifact import Artifact

MAX_TOKENS = 65536  # of the validation stream, from its beginning: what an audit drives its scorers over by default
KINDS = ("network", "product", "n-gram cache", "match model", "blend")
MIXTURES = ("product", "blend")  # made of the others
CPU = torch.device("cpu")


class Network:
    """Whole float64 distributions of the network, window by window as eval.py lays them; stride as there."""

    def __init__(self, model: torch.nn.Module, seq_len: int, stride: int, device: torch.device) -> None:
        self.model, self.seq_len, self.stride, self.device = model.eval().to(device), seq_len, stride, device
        self._kept: OrderedDict[bytes, F64] = OrderedDict()

    def use(self, model: torch.nn.Module) -> None:
        """The network from now on, or the same with other weights: nothing computed before is used."""
        self.model = model.eval()
        self._kept.clear()

    def logp(self, tokens: Tokens, start: int, stop: int) -> F64:
        """(n, V) float64 log-probabilities for targets start … stop-1."""
        parts = []
        for begin, end, first in windows.windows(len(tokens), self.seq_len, self.stride):
            if first < stop and end >= start:  # the window whole, with what comes after its targets: C1 must not see it
                parts.append(self._window(tokens[begin:end])[max(first, start) - 1 - begin : min(end, stop - 1) - begin])
        return np.concatenate(parts)

    @torch.inference_mode()
    def _window(self, inputs: Tokens) -> F64:
        key = inputs.tobytes()
        if key not in self._kept:
            logits_BLV = self.model(torch.from_numpy(inputs.astype(np.int64))[None].to(self.device))
            self._kept[key] = torch.log_softmax(logits_BLV[0].double(), dim=-1).cpu().numpy()
            while len(self._kept) > 2:
                self._kept.popitem(last=False)
        return self._kept[key]


class HybridScorer:
    """One of KINDS as an audit.Scorer: `score` takes the fast path to the target alone, `rows` whole distributions."""

    def __init__(
        self, art: "Artifact", kind: str, device: torch.device, *, online: bool = True, adapt: AdaptConfig | None = None, stride: int = 0
    ) -> None:
        self.art, self.kind, self.online, self.vocab_size = art, kind, online, art.config.model.vocab_size
        self.adapt, self.device = adapt, device
        self.network = Network(art.model, art.config.train.seq_len, stride, device)
        self.reset()

    def reset(self) -> None:
        table = self.art.table
        self.cache = OnlineCache(table) if table is not None and self.kind in ("n-gram cache", *MIXTURES) else None
        self.match = MatchModel(self.vocab_size, table.bos) if table is not None and self.kind in ("match model", *MIXTURES) else None
        self.gate = evaluate.load_gate(self.art, learning=self.online)
        self.adapted = None
        if self.adapt is not None and self.kind in ("network", *MIXTURES):
            self.adapted = AdaptedNetwork(self.art.model, self.network.seq_len, self.network.stride, self.adapt, Ranks(0, 1, self.device))
            self.network.use(self.adapted.learner.model)

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        if self.kind == "n-gram cache":
            return self._the_cache.score(tokens, start, stop).prob
        if self.kind == "match model":
            return self._the_match.score(tokens, start, stop).prob
        if self.kind == "network":
            return np.exp(self.network.logp(tokens, start, stop)[np.arange(stop - start), tokens[start:stop]])
        features, probs = self._experts(tokens, start, stop)
        return probs[:, PRODUCT] if self.kind == "product" else mix(self.gate.weights(features), probs)

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        where = np.arange(start, stop)
        if self.kind == "network":
            return np.exp(self.network.logp(tokens, start, stop))
        if self.kind == "match model":
            return self._the_match.rows(tokens, where)
        past = histories(tokens, where, self._the_cache.order, self._the_cache.bos)
        ngram = self._the_cache.rows(past)
        if self.kind == "n-gram cache":
            return ngram
        logp = self.network.logp(tokens, start, stop)
        told = self._the_match.score(tokens, start, stop).features  # of the context alone, which C1 and C2 put to the test
        features = _features(logp, self._the_cache.row_features(past), told)
        neural, product = np.exp(logp), np.empty_like(logp)
        fill_product_rows(0, len(where), neural, ngram, self.gate.exponents(features), product)
        if self.kind == "product":
            return product
        weights = self.gate.weights(features)
        mixed = np.zeros_like(logp)
        for k, rows in ((NEURAL, neural), (PRODUCT, product), (NGRAM, ngram), (MATCH, self._the_match.rows(tokens, where))):
            mixed += weights[:, k : k + 1] * rows
        return mixed

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        if not self.online:
            return
        if self.kind in MIXTURES:  # looked up again: an audit may have scored another stream in between
            self.gate.update(*self._experts(tokens, start, stop))
        for part in (self.cache, self.match, self.adapted):
            if part is not None:
                part.update(tokens, start, stop)
        if self.adapted is not None:
            self.network.use(self.adapted.learner.model)

    def digest(self) -> str:
        return "".join(part.digest() for part in (self.cache, self.match, self.gate, self.adapted) if part is not None)

    @property
    def _the_cache(self) -> OnlineCache:
        assert self.cache is not None
        return self.cache

    @property
    def _the_match(self) -> MatchModel:
        assert self.match is not None
        return self.match

    def _experts(self, tokens: Tokens, start: int, stop: int) -> tuple[F32, F64]:
        """Features (n, F) and the experts' probabilities (n, K) of the targets."""
        ngram, copied = self._the_cache.score(tokens, start, stop), self._the_match.score(tokens, start, stop)
        logp = self.network.logp(tokens, start, stop)
        features = _features(logp, ngram.features, copied.features)
        with closing(ProductScorer(self._the_cache, stop - start)) as scorer:
            scorer.read(tokens, start, stop, CPU)
            product = scorer.score(torch.from_numpy(logp), self.gate.exponents(features), tokens[start:stop])
        neural = np.exp(logp[np.arange(stop - start), tokens[start:stop]])
        return features, np.stack([neural, product, ngram.prob, copied.prob], axis=1)


def _features(logp: F64, *others: F32) -> F32:
    entropy = -(np.exp(logp) * logp).sum(1)
    return np.concatenate([np.stack([entropy, logp.max(1)], axis=1).astype(np.float32), *others], axis=1)


def audit_artifact(
    art: "Artifact", shards: list[Path], positions: int, max_tokens: int, ranks: Ranks, adapt: AdaptConfig | None = None, stride: int = 0
) -> dict[str, AuditReport]:
    """Reports by name for all scorers of an artifact, over the first max_tokens of the validation stream."""
    tokens = evaluate.load_tokens(shards, art.config.model.vocab_size, art.config.train.seq_len, "full")[:max_tokens]
    reports = {}
    for kind in KINDS if art.table is not None else KINDS[:1]:
        wrap = partial(track, title=f"auditing {kind}")
        reports[kind] = audit_scorer(HybridScorer(art, kind, ranks.device, adapt=adapt, stride=stride), tokens, positions=positions, name=kind, wrap=wrap)
    return reports


def verdict(reports: dict[str, AuditReport]) -> tuple[str, dict[str, Any], bool]:
    """Text for people, JSON values, and whether everything passed."""
    passed = all(report.passed for report in reports.values())
    text = "\n\n".join(report.text() for report in reports.values())
    return text, {"passed": passed, "scorers": {name: report.to_json() for name, report in reports.items()}}, passed
