"""A reader who does not know the text computes no more than a target needs, and on a GPU by graphs with the model's own bits."""

from dataclasses import replace

import pytest
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.recorded import RecordedModel
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import windows
from hybrid.scoring.options import AdaptConfig
from hybrid.scoring.stepwise import AdaptedForward
from hybrid.settings import presets
from tests.support import tiny


def test_a_learning_network_of_single_windows_computes_one_of_them_a_target(monkeypatch):
    """With a stride of 64 a chunk of 2,048 targets has 32."""
    length, computed = 16, list[int]()
    honest = windows._scored

    def counting(model, tokens, part, *more):
        computed.append(len(part))
        return honest(model, tokens, part, *more)

    monkeypatch.setattr(windows, "_scored", counting)
    text = tiny.stream(seed=3, count=20)[:100]
    forward = AdaptedForward(HybridLM(tiny.config(length).model), length, 4, AdaptConfig(), Ranks(0, 1, torch.device("cpu")), exact=True)
    for t in (1, 16, 17, 24, 63, 99):
        found = forward.around(text, t)
        assert found.first <= t < found.stop
    assert computed == [1] * 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("preset", ["best16mb", "seed1095"])
def test_recorded_logits_are_the_models_to_the_bit(preset):
    config = presets.get(preset).model
    fewer = {name: min(1, getattr(config, name)) for name in ("xsa_layers", "value_tables", "whole_layers")}
    model = HybridLM(replace(config, layers=2, **fewer)).cuda().eval()
    recorded = RecordedModel(model)
    with torch.inference_mode():
        for seed, (length, scored) in enumerate([(2048, 2048), (700, 64), (2048, 2048), (700, 64), (2048, 64)]):
            torch.manual_seed(seed)
            tokens, places = torch.randint(config.vocab_size, (1, length), device="cuda"), torch.arange(length - scored, length, device="cuda")
            assert torch.equal(recorded.logits_at(tokens, places), model.logits_at(tokens, places))
