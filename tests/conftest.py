"""Fixtures shared by the tests of whole runs: a corpus small enough to train on in a second.

Property tests draw the same examples every time, so that the suite is a function of the code; scripts/checks/long_checks.sh draws
fresh ones (HYPOTHESIS_PROFILE=explore).
"""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import loaded

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def no_word_about_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests call in this process print the same whether or not their kernels are in the cache."""
    monkeypatch.setattr("ngram.compiled.ANNOUNCE_AFTER_S", math.inf)


@pytest.fixture(autouse=True, scope="session")
def memory_goes_back() -> Iterator[None]:
    """Commands that tests and fixtures call in this process leave its allocator alone: other tests look at what is allocated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybrid.parallel.ranks.Ranks.keep_memory", lambda _: None)
        yield


@pytest.fixture
def loaded_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that commands start with sys.executable begin with torch loaded; see tests/support/loaded.py for what that leaves out."""
    monkeypatch.setattr(sys, "executable", loaded.python())


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny's tokenizer.model and shards: 45 training documents, 6 validation documents."""
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("tiny_data")
    tiny.write_data(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny's artifact.bin and a shard of 20 validation documents; a module's own, so its tests may add files."""
    from hybrid.data.write_shards import write_shard
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("made")
    tiny.write_artifact(folder / "artifact.bin")
    write_shard(folder / "tiny_val_000000.bin", tiny.stream(seed=2, count=20))
    return folder
