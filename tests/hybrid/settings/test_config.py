"""Settings: checked on construction, JSON both ways, one flag a field, presets and environment through one table."""

import argparse
import dataclasses
import json

import pytest

from hybrid.settings import config
from hybrid.settings.challenge_env import CHALLENGE_NAMES, challenge_settings
from hybrid.settings.config import CacheConfig, Config, ConfigError, ModelConfig, TrainConfig
from ngram.errors import SeedgramError
from ngram.terminal import OneLineParser


def test_json_round_trip_is_exact() -> None:
    original = Config(model=ModelConfig(layers=7), train=TrainConfig(adam_betas=(0.8, 0.9)))
    assert Config.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_json_of_before_windows_means_none_and_no_other_group_takes_their_names() -> None:
    old = Config().to_json()
    for name in ("window", "whole_layers"):
        del old["model"][name]
    assert Config.from_json(old) == Config()
    with pytest.raises(ConfigError, match=r"unknown or missing fields: \['window'\]"):
        Config.from_json({**old, "train": {**old["train"], "window": 0}})


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"preset": 3}, {"model": []}, {"model": {"layers": 5}}],
)
def test_foreign_json_is_one_clear_error(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Config.from_json({**Config().to_json(), **change})


@pytest.mark.parametrize(
    "values", [{"heads": 3}, {"kv_heads": 5}, {"layers": 0}, {"basis": "fourier"}, {"rope_dims": 7}, {"vocab_size": 70000}, {"bigram_buckets": 1},
               {"window": -1}, {"whole_layers": 1}, {"whole_layers": 6, "window": 8}]
)
def test_values_out_of_range_are_refused_by_name(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        ModelConfig(**values)  # type: ignore[arg-type]


def test_every_field_is_a_flag_with_its_default_in_the_help() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    text = " ".join(parser.format_help().split())
    for group in config.GROUPS:
        for field in dataclasses.fields(getattr(Config(), group)):
            assert f"--{field.name.replace('_', '-')}" in text
            assert f"[{field.default}]" in text


def test_flags_override_only_what_they_name() -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    given = vars(parser.parse_args(["--layers", "3", "--no-compile", "--adam-betas", "0.5", "0.6", "--cap-bytes", "99"]))
    changed = config.override(Config(), given)
    assert changed.model == ModelConfig(layers=3)
    assert changed.train == TrainConfig(compile=False, adam_betas=(0.5, 0.6))
    assert changed.cache == CacheConfig(cap_bytes=99)


def test_an_unknown_flag_is_one_line() -> None:
    parser = OneLineParser(prog="p")
    with pytest.raises(SeedgramError, match="--nonsense"):
        parser.parse_args(["--nonsense"])


def test_challenge_names_reach_their_settings() -> None:
    values = {
        "DATA_PATH": "d",
        "TOKENIZER_PATH": "t",
        "RUN_ID": "r",
        "VOCAB_SIZE": "512",
        "MAX_WALLCLOCK_SECONDS": "9.5",
        "ITERATIONS": "7",
    }
    values |= {"SEED": "3", "TRAIN_BATCH_TOKENS": "64", "TRAIN_SEQ_LEN": "16", "VAL_LOSS_EVERY": "2"}
    assert set(values) == set(CHALLENGE_NAMES)
    found = challenge_settings(values)
    assert (found["data"], found["tokenizer"], found["out"]) == ("d", "t", "runs/r")
    changed = config.override(Config(), found)
    assert changed.model.vocab_size == 512
    assert (changed.train.seconds, changed.train.steps, changed.train.seed, changed.train.batch_tokens) == (9.5, 7, 3, 64)
    assert (changed.train.seq_len, changed.train.val_every) == (16, 2)


def test_a_challenge_name_of_the_wrong_type_is_named() -> None:
    with pytest.raises(ConfigError, match="ITERATIONS"):
        challenge_settings({"ITERATIONS": "many"})
