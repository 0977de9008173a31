"""Audit of somebody's own scorer: a Hugging Face causal model blended with a home-made cache.

    python examples/audit_your_cache.py [--model NAME_OR_FOLDER] [--leak]

Without --model a toy network with the same calling convention (`model(input_ids=…).logits`) stands in, so that nothing needs to
be downloaded and `transformers` need not be installed.  --leak adds the mistake that published caches made: the cache looks
up only the token that came, so its "probabilities" do not sum to 1, and the audit says so.  Exit code 1 when it fails.
"""

import argparse
import functools
import sys
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hybrid.auditing.audit import audit_scorer

Tokens = npt.NDArray[np.uint16]
F64 = npt.NDArray[np.float64]


class ToyCausalModel(torch.nn.Module):
    """Stands in for `AutoModelForCausalLM`: logits of each position from the running mean of the tokens before it."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size, max_position_embeddings=64)
        self.table = torch.nn.Embedding(vocab_size, 32)

    def forward(self, input_ids: torch.Tensor) -> Any:
        x = self.table(input_ids)
        mean = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[None, :, None]
        return SimpleNamespace(logits=(x + mean) @ self.table.weight.T)


class ModelWithCache:
    """What `audit_scorer` asks for: vocab_size, reset, score, rows, update, and a digest of the state."""

    def __init__(self, model: Any, leak: bool = False, weight: float = 0.3) -> None:
        self.model, self.leak, self.weight = model.eval(), leak, weight
        self.vocab_size: int = model.config.vocab_size
        self.window: int = model.config.max_position_embeddings
        self.reset()

    def reset(self) -> None:
        self.counts: defaultdict[int, Counter[int]] = defaultdict(Counter)

    @torch.inference_mode()
    def _network(self, tokens: Tokens, start: int, stop: int) -> F64:
        """(n, V): windows lie side by side, so a row's context is the same however the stream is cut into chunks."""
        rows = []
        for window in range((start - 1) // self.window, (stop - 2) // self.window + 1):
            begin = window * self.window
            inputs = torch.from_numpy(tokens[begin : begin + self.window].astype(np.int64))[None]
            probs = torch.softmax(self.model(input_ids=inputs).logits[0].double(), -1).numpy()
            rows.append(probs[max(0, start - 1 - begin) : stop - 1 - begin])
        return np.concatenate(rows)

    def _cache(self, context: int) -> F64:
        """The cache's view after one token of context: counts over their sum; flat where it has seen nothing."""
        seen = self.counts[context] if context in self.counts else Counter[int]()
        row = np.zeros(self.vocab_size)
        for token, count in seen.items():
            row[token] = count
        if self.leak:  # "c / (c + 1)" of each token on its own: a score, not a distribution
            return row / (row + 1)
        return row / row.sum() if seen else np.full(self.vocab_size, 1 / self.vocab_size)

    def rows(self, tokens: Tokens, start: int, stop: int) -> F64:
        cache = np.stack([self._cache(int(token)) for token in tokens[start - 1 : stop - 1]])
        return (1 - self.weight) * self._network(tokens, start, stop) + self.weight * cache

    def score(self, tokens: Tokens, start: int, stop: int) -> F64:
        return self.rows(tokens, start, stop)[np.arange(stop - start), tokens[start:stop]]

    def update(self, tokens: Tokens, start: int, stop: int) -> None:
        for context, token in zip(tokens[start - 1 : stop - 1].tolist(), tokens[start:stop].tolist(), strict=True):
            self.counts[context][token] += 1

    def digest(self) -> str:
        return str(hash(tuple((c, tuple(sorted(n.items()))) for c, n in sorted(self.counts.items()))))


def make(name: str | None, leak: bool) -> ModelWithCache:
    """The scorer, from nothing but a name: two processes of the auditor call this, and neither has seen what the other has."""
    if name is None:
        torch.manual_seed(0)
        return ModelWithCache(ToyCausalModel(256), leak)
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]

    return ModelWithCache(AutoModelForCausalLM.from_pretrained(name), leak)


def stream(name: str | None) -> Tokens:
    """The text of this file in the model's tokens."""
    with open(__file__, "rb") as file:
        text = file.read()
    if name is None:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    from transformers import AutoTokenizer

    return np.array(AutoTokenizer.from_pretrained(name)(text.decode())["input_ids"], dtype=np.uint16)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", help="name or folder of a Hugging Face causal model with at most 65,535 pieces; left out: a toy")
    parser.add_argument("--leak", action="store_true", help="the cache looks up only the token that came")
    flags = parser.parse_args()
    scorer = functools.partial(make, flags.model, flags.leak)
    # float32 networks repeat to about 1e-6 where windows end elsewhere; 200 positions are quick, the report says what they are worth
    report = audit_scorer(scorer, stream(flags.model), positions=200, chunk_tokens=64, tolerance=1e-4, name="model with cache")
    print(report.text())
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
