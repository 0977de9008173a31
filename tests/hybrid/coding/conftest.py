"""A tiny artifact, and one stream that was coded with it."""

import pytest
import torch

from hybrid.coding import stream_coder
from hybrid.storing import artifact
from tests.support import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path)
    return path


@pytest.fixture(scope="module")
def coded(tiny_file):
    """(artifact, its digest, tokens, file, Coded) of one encoded stream."""
    art, sha = artifact.load(tiny_file), stream_coder.artifact_sha256(tiny_file)
    tokens = tiny.stream(seed=2, count=10)
    return art, sha, tokens, *stream_coder.encode(art, sha, tokens, stream_coder.Settings(len(tokens), 5, "text"), CPU, b"")
