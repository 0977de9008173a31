"""An artifact as a model of lm-evaluation-harness.

    python -m hybrid.hf.harness --model seedgram --model_args artifact=runs/x/artifact.bin --tasks wikitext

is lm_eval's own command with the model `seedgram` known to it; in a program of your own, importing this module is enough.  Each request
begins from the artifact's counts and gate, so that no request's figure depends on another's; within it the blend learns, score-first.
`pip install 'seedgram[lm-eval]'` brings lm_eval.
"""

import math
from contextlib import closing
from typing import Any

import numpy as np

from hybrid.coding.compress import with_bos
from hybrid.data import tokenizer
from hybrid.extras import missing
from hybrid.parallel import ranks
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead, predictor_of
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact as storage
from ngram.arrays import U16
from ngram.errors import SeedgramError, run_cli
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError:

    def _missing() -> None:
        raise missing("lm_eval")

    run_cli(_missing) if __name__ == "__main__" else _missing()

TURNS = ("True", "true", "1", True), ("False", "false", "0", False)


@register_model("seedgram")
class SeedgramLM(LM):  # type: ignore[misc]
    """A model of the harness: log-likelihoods in nats, of texts (`loglikelihood_rolling`) and of continuations (`loglikelihood`).

    artifact: its path.  device: auto, cuda or cpu.  stride: new targets a window, 0: windows side by side.  online: the blend learns within
    a request.  Raises SeedgramError for bad files and settings, and for tasks that need generated text."""

    def __init__(self, artifact: str, device: str = "cpu", stride: int = 0, online: Any = True, batch_size: Any = 1, max_batch_size: Any = None) -> None:
        super().__init__()
        if online not in TURNS[0] + TURNS[1]:
            raise SeedgramError(f"online={online}: must be True or False")
        self.art = storage.load(artifact)
        self.codec = tokenizer.load(self.art.tokenizer)
        self.options = EvalOptions(stride=int(stride), online=online in TURNS[0])
        self.ranks = ranks.start("auto" if device == "cuda:0" else device or "cpu")  # the harness says cuda:0 where nobody named a device

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> "SeedgramLM":
        more = {key: value for key, value in (additional_config or {}).items() if value is not None}
        return cls(**{**more, **arg_dict})

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each from its beginning: the sum over all tokens, which decode to exactly the text."""
        return [self._text(request.args[0]) for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of continuations, and whether each of their tokens is the likeliest at its place."""
        return [self._continuation(*request.args) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise SeedgramError("the harness's model seedgram gives log-likelihoods only; leave out tasks that generate text (generate_until)")

    def _tokens(self, text: str) -> U16:
        return with_bos(self.codec, text.encode("utf-8", "surrogatepass"))

    def _text(self, text: str) -> float:
        tokens = self._tokens(text)
        if len(tokens) < 2:
            return 0.0
        scores = evaluate.score_tokens(self.art, tokens, self.options, self.ranks)
        return -float(scores.bits.sum()) * math.log(2)

    def _continuation(self, context: str, continuation: str) -> tuple[float, bool]:
        """A token across the border counts as the continuation's."""
        tokens, before = self._tokens(context + continuation), self._tokens(context)
        shared = min(len(tokens), len(before))
        differs = np.flatnonzero(tokens[:shared] != before[:shared])
        first = int(differs[0]) if len(differs) else shared
        if first >= len(tokens):
            return 0.0, True
        nats, greedy = 0.0, True
        network = network_ahead(self.art, tokens, self.options, self.ranks)
        with closing(predictor_of(self.art, network, self.options, ranks=self.ranks)) as predictor:
            order = ScoreFirst(tokens, {"blend": predictor}, frozen=not self.options.online)
            take = order.score_then_update if self.options.online else order.score
            if first > 1:
                take(1, first)
            for t in range(first, len(tokens)):
                row_V = row_at(order, t)["blend"]
                greedy &= int(row_V.argmax()) == int(tokens[t])
                nats += math.log(float(take(t, t + 1)["blend"].mixed[0]))
        return nats, greedy


def main() -> None:
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    run_cli(main)
