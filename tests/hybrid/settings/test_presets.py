"""The family as configurations: parameter counts are the published ones."""

import dataclasses
import json
import re
import subprocess
from typing import Any

import pytest
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import count_frozen, describe
from hybrid.settings import config, presets
from hybrid.settings.config import Config, ConfigError
from tests.support import loaded
from tests.support.paths import ROOT
from tests.support.training import environment

FAMILY = "seed1095 random1113 random1295 basis1684 selective1301 progressive1301 upfrozen1228 adapter2058 gaussian874 dense9".split()


def counts(name):
    return describe(presets.get(name))


def test_every_system_has_a_preset():
    assert presets.names() == ["best16mb", *FAMILY, "quickstart"]


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="seed1095"):
        presets.get("seed1096")


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_nothing_but_a_checked_configuration(name):
    config = presets.get(name)
    assert config.preset == name
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_seed1095_freezes_exactly_five_times_2359296():
    described = counts("seed1095")
    assert described["frozen_parameters"] == 11_796_480 == 5 * 2_359_296
    adapters = sum(
        p.numel() for n, p in HybridLM(presets.get("seed1095").model, fill_maps=False).named_parameters() if ".a." in n or ".b." in n
    )
    assert adapters == 2_457_600


def test_random1113_trains_and_freezes_the_published_numbers():
    described = counts("random1113")
    assert abs(described["trained_parameters"] / 3_744_892 - 1) < 0.001
    assert described["frozen_parameters"] == 25_952_256


def test_adapter2058_stores_the_published_number():
    assert counts("adapter2058")["trained_parameters"] == 17_853_536


def test_dense9_is_the_baseline_with_nothing_frozen():
    described = counts("dense9")
    assert described["frozen_parameters"] == 0
    assert described["trained_parameters"] == 17_059_912  # 524,288 + 9 · 1,835,008 + 9 · 2,056 + 4 · 512


def test_best16mb_learns_everything_and_has_two_value_tables_of_its_vocabulary():
    described = counts("best16mb")
    assert described["frozen_parameters"] == 0
    dense = counts("dense9")["trained_parameters"] - 1024 * 512 - 4 * 9  # without embedding; half the query gains
    added = 8192 * 512 + 2 * (8192 * 256 + 2 * 32) + 8192 * 64 + 64 * 512 + 1 + 512  # embedding, tables and their gates, bigrams, smear gate
    assert described["trained_parameters"] == dense + added


def test_basis1684_has_about_14_5_million_stored_parameters_and_a_gate_per_hidden_unit():
    assert round(counts("basis1684")["trained_parameters"] / 1e6, 1) == 14.5
    model = HybridLM(presets.get("basis1684").model, fill_maps=False)
    assert model.blocks[0].mlp.hidden_gate.shape == (8192,)


def test_selective1301_freezes_37_percent_of_its_block_matrices():
    model = HybridLM(presets.get("selective1301").model, fill_maps=False)
    learned = sum(p.numel() for n, p in model.named_parameters() if ".weights." in n)
    assert round(100 * count_frozen(model) / (learned + count_frozen(model))) == 37


def test_progressive1301_stores_everything_and_freezes_the_same_parts_later():
    selective, progressive = counts("selective1301"), counts("progressive1301")
    assert progressive["frozen_parameters"] == 0
    assert progressive["trained_parameters"] == selective["effective_parameters"]
    model = HybridLM(presets.get("progressive1301").model, fill_maps=False)
    model.freeze_learned()
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == selective["frozen_parameters"]
    assert 0 < presets.get("progressive1301").train.freeze_at < 1


def test_upfrozen1228_freezes_the_up_projection_of_five_layers():
    assert counts("upfrozen1228")["frozen_parameters"] == 5 * 512 * 1536


@pytest.mark.parametrize("name", presets.names())
def test_effective_parameters_are_the_sum(name):
    described = counts(name)
    assert described["effective_parameters"] == described["trained_parameters"] + described["frozen_parameters"]
    assert described["layers"] == presets.get(name).model.layers
    json.dumps(described)


@pytest.mark.parametrize("name", presets.names())
def test_a_small_relative_of_every_preset_trains_a_step(name):
    big = presets.get(name).model
    shrunk: dict[str, Any] = {"d_model": 32, "heads": 4, "kv_heads": 2, "layers": min(big.layers, 4), "vocab_size": 64, "rope_dims": min(big.rope_dims, 8)}
    shrunk |= {"bigram_buckets": min(big.bigram_buckets, 32), "bigram_dim": 8, "value_embed_dim": min(big.value_embed_dim, 8)}
    shrunk |= {"rank_attention": min(big.rank_attention, 4), "rank_mlp": min(big.rank_mlp, 4), "mlp_mult": min(big.mlp_mult, 4)}
    torch.manual_seed(0)
    model = HybridLM(dataclasses.replace(big, **shrunk))
    tokens = torch.randint(0, 64, (2, 9))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_describing_regenerates_no_map():
    code = (
        "from hybrid.model import parameters, random_maps; from hybrid.settings import presets; random_maps.map_bits = None; "
        "print(parameters.describe(presets.get('seed1095'))['layers'])"
    )
    assert subprocess.run([loaded.python(), "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True).stdout.strip() == "5"


def test_settings_of_published_systems_are_set_by_their_presets_and_by_no_other():
    """The group of that name in --help: a setting that one of our own presets uses belongs elsewhere."""
    numbered = [name for name in presets.names() if re.search(r"\d{3,4}$", name)]
    own = set(presets.names()) - set(numbered)
    assert own >= {"dense9", "quickstart"} and len(numbered) >= 9

    def changed(key, names):
        group, name = key.split(".")
        default = getattr(getattr(Config(), group), name)
        return [preset for preset in names if getattr(getattr(presets.get(preset), group), name) != default]

    published = [key for key, field in config.FIELDS.items() if field.metadata["section"] == config.PUBLISHED]
    assert len(published) >= 10
    for key in published:
        assert changed(key, numbered) and not changed(key, own), key
