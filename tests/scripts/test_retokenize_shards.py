"""Shards in another tokenizer: the same bytes, also where a document begins with a space or ends inside a character."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hybrid.data import tokenizer
from hybrid.data.shards import read_shard
from hybrid.data.token_bytes import TokenBytes
from hybrid.data.write_shards import write_shard
from tests.support import loaded
from tests.support.paths import ROOT

TEXTS = [" begins with a space, naïve café\n\n", "  and this with two ▁ of them", "", "plain words and words and words", "cut in a café"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, pieces in (("old", 290), ("new", 305)):
        (folder / name).write_bytes(tokenizer.train([text * 3 for text in TEXTS if text], pieces))
    return folder / "old", folder / "new"


def retokenize(models: tuple[Path, Path], source: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [loaded.python(), "-W", "error", str(ROOT / "scripts/queue/retokenize_shards.py"), str(source)]
    command += ["--from", str(models[0]), "--to", str(models[1]), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_byte_of_every_document_is_kept_and_counted_alike(models: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = (tokenizer.load(str(model)) for model in models)
    stream = np.concatenate(list(old.encode_documents(TEXTS)))
    cut = [old.bos, *old.encode_bytes("café".encode()[:-1])]  # a prefix of a stream may end inside a character
    write_shard(tmp_path / "old.bin", np.concatenate([stream, cut]))
    done = retokenize(models, tmp_path / "old.bin", tmp_path / "new.bin")
    assert done.returncode == 0, done.stderr
    before, after = read_shard(tmp_path / "old.bin"), read_shard(tmp_path / "new.bin")
    documents = ["".join(map(chr, old.decode_bytes(part.tolist()))) for part in np.split(before, np.flatnonzero(before == old.bos))[1:]]
    assert documents == [
        "".join(map(chr, new.decode_bytes(part.tolist()))) for part in np.split(after, np.flatnonzero(after == new.bos))[1:]
    ]
    total = TokenBytes.from_model(old.model).total(before)
    assert total == TokenBytes.from_model(new.model).total(after) == sum(len(text.encode()) for text in TEXTS) - 2 + 4
    assert len(after) != len(before) and f"{total:,} bytes both" in done.stdout


def test_a_stream_that_begins_inside_a_document_is_refused_in_one_line(models: tuple[Path, Path], tmp_path: Path) -> None:
    write_shard(tmp_path / "part.bin", np.array([270, 271, 1, 272]))
    done = retokenize(models, tmp_path / "part.bin", tmp_path / "new.bin")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "does not begin with a document" in done.stderr
    assert not (tmp_path / "new.bin").exists()
