"""Fixtures shared by the tests of whole runs: a corpus small enough to train on in a second.

Property tests draw the same examples every time, so that the suite is a function of the code; scripts/long_checks.sh draws
fresh ones (HYPOTHESIS_PROFILE=explore).
"""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

PIECES = 320


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of a lossless 320-piece tokenizer: 30 training documents, 4 validation documents."""
    from hybrid import tokenizer
    from hybrid.data import write_shards

    folder = tmp_path_factory.mktemp("tiny_data")
    rng = np.random.default_rng(5)
    words = [
        "seed",
        "gram",
        "map",
        "random",
        "adapter",
        "the",
        "of",
        "a",
        "counts",
        "token",
        "byte",
        "order",
        "context",
        "score",
        "first",
        "then",
    ]
    texts = [" ".join(rng.choice(words, 60)) + ".\n" for _ in range(34)]
    model = tokenizer.train(texts, PIECES)
    (folder / "tokenizer.model").write_bytes(model)
    pieces = tokenizer.load(model)
    streams = [np.concatenate(list(pieces.encode_documents(part))) for part in (texts[:30], texts[30:])]
    for split, stream in zip(("train", "val"), streams, strict=True):
        write_shards(folder, "tiny", split, stream)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny's artifact.bin and a shard of 20 validation documents; a module's own, so its tests may add files."""
    from hybrid.data import write_shard
    from tests import tiny

    folder = tmp_path_factory.mktemp("made")
    tiny.write_artifact(folder / "artifact.bin")
    write_shard(folder / "tiny_val_000000.bin", tiny.stream(seed=2, count=20))
    return folder
