"""Inputs and prepared folders for tests of data preparation."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.data import tokenizer
from hybrid.data.manifest import read_manifest
from hybrid.data.prepare import PrepareConfig, prepare
from hybrid.data.shards import Stream, find_shards


def write(path: Path, content: bytes | str) -> str:
    """The file's name after writing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def jsonl(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({field: text, "source": "x"}) + "\n" for text in texts).encode()


def prepare_into(out: Path, *inputs: str, **settings: Any) -> dict[str, Any]:
    return prepare(PrepareConfig(**{"out": str(out), "inputs": inputs, "vocab_size": 350, **settings}))


def read_back(out: Path, split: str) -> list[bytes]:
    """The bytes of the documents in the shards of a prepared folder."""
    stream = Stream(find_shards(out, split))
    codec = tokenizer.load(out / "tokenizer.model")
    tokens = stream.read(0, len(stream))
    assert codec.bos == read_manifest(out)["bos"] == tokens[0]
    return [codec.decode_bytes(part.tolist()) for part in np.split(tokens, np.flatnonzero(tokens == codec.bos))[1:]]
