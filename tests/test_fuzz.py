"""A sample of the fuzzer's inputs in every suite; scripts/checks/long_checks.sh runs 100,000 a parser.  And bombs, by hand."""

import gzip
import hashlib
import json
import lzma
import random
import time
from pathlib import Path

import brotli
import numpy as np
import pytest
import torch

from hybrid.data.shards import DataError
from hybrid.model.hybrid_lm import HybridLM
from hybrid.settings.config import Config
from hybrid.storing import artifact
from ngram import container, documents
from ngram.errors import FileFormatError, SeedgramError
from ngram.storing import model_file, table_codec
from ngram.storing.header import Head, pack_head
from tests.support import fuzz
from tests.support.mutants import Sealed
from tests.support.parsers import Parser, build

SAMPLE = 25  # inputs a parser
NAMES = ["container", "artifact", "model", "counts", "checkpoint", "stream", "codec", "gate", "arpa", "shard", "tokenizer"]
NAMES += ["texts.txt.xz", "texts.jsonl", "texts.jsonl.gz", "texts.jsonl.zst"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def parsers(folder: Path) -> dict[str, Parser]:
    return build(folder)


def test_every_parser_is_sampled(parsers: dict[str, Parser]) -> None:
    assert list(parsers) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_is_read_or_refused_by_name_quickly_and_in_little_memory(name: str, parsers: dict[str, Parser], folder: Path) -> None:
    assert fuzz.attack(name, parsers[name], 1, range(SAMPLE), folder) == []


def test_mutants_get_past_the_checksums(parsers: dict[str, Parser], folder: Path) -> None:
    """Were digests not repaired, every mutant of a sealed file would be refused for its digest."""
    for name in ("artifact", "model", "checkpoint", "stream"):
        said = []
        for number in range(30):
            path = folder / f"past-{name}"
            path.write_bytes(parsers[name].mutant(random.Random(number)))
            try:
                parsers[name].read(path)
            except SeedgramError as error:
                said.append(str(error))
        assert not any("digest" in words for words in said) and len({words.rsplit(";")[0] for words in said}) >= 5, name


def test_the_fuzzer_sees_a_crash_a_hang_and_greed(folder: Path) -> None:
    def crash(path: Path) -> None:
        raise IndexError("list index out of range")

    def hang(path: Path) -> None:
        while True:
            time.sleep(0)
            if time.process_time() > started + 0.4:
                return

    def greed(path: Path) -> bytes:
        return bytes(fuzz.ROOM * 2)

    started = time.process_time()
    for read, words in ((hang, " s"), (crash, "IndexError"), (greed, "more than ROOM")):
        with fuzz.limited_memory():
            assert words in str(fuzz.complaint(Parser(read, lambda draw: b"x", b"x"), b"x", folder / "x", limit_s=0.3))


def reseal(sealed: Sealed, path: Path) -> Path:
    path.write_bytes(container.pack(sealed.magic, sealed.version, sealed.header, sealed.sections))
    return path


def test_code_words_that_no_encoder_writes_are_one_line(parsers: dict[str, Parser], folder: Path) -> None:
    """Found by the fuzzer once in 10,000 inputs: the coder's own assertion came through."""
    sealed, noise, refused = Sealed.open(parsers["stream"].seed), random.Random(1), 0
    for _ in range(20):
        sealed.sections["p"] = b"\xff" * noise.choice((4, 8, 12, 16)) + noise.randbytes(8)
        try:
            parsers["stream"].read(reseal(sealed, folder / "impossible"))
        except FileFormatError as error:
            refused += "does not decode" in str(error)
    assert refused > 5


@pytest.mark.parametrize("name", ["artifact", "model", "counts", "checkpoint", "stream"])
def test_another_version_is_refused_by_name(name: str, parsers: dict[str, Parser], folder: Path) -> None:
    data = bytearray(parsers[name].seed[: -container.DIGEST_BYTES])
    version = int.from_bytes(data[8:12], "little")
    data[8:12] = (version + 6).to_bytes(4, "little")
    (folder / name).write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(FileFormatError, match=f"format version {version + 6}, this program reads {version}"):
        parsers[name].read(folder / name)


def test_an_artifact_that_unpacks_to_far_more_than_its_size_is_refused(parsers: dict[str, Parser], folder: Path) -> None:
    sealed = Sealed.open((folder / "artifact.bin").read_bytes())
    bomb = brotli.compress(bytes(80 << 20), quality=5)
    sealed.sections["weights.matrices"], sealed.header["codecs"]["weights.matrices"] = bomb, ["brotli", 80 << 20]
    with fuzz.limited_memory(), pytest.raises(FileFormatError, match="claims to hold 83886080"):
        artifact.load(reseal(sealed, folder / "bomb"))


def test_maps_that_no_file_pays_for_are_refused_before_they_are_made(parsers: dict[str, Parser], folder: Path) -> None:
    """Frozen parts without adapters store nothing, so width alone decides how much memory they take."""
    sealed = Sealed.open((folder / "artifact.bin").read_bytes())
    shape = sealed.header["config"]["model"]
    shape.update(mlp_mult=64.0, rank_attention=0, rank_mlp=0, d_model=8192, heads=2, layers=64)
    with fuzz.limited_memory(), pytest.raises(FileFormatError, match="different models"):
        artifact.load(reseal(sealed, folder / "wide"))
    config = Config.from_json(sealed.header["config"])
    with torch.device("meta"):
        honest = HybridLM(config.model, fill_maps=False).state_dict()
    with pytest.raises(FileFormatError, match="entries of random maps"):
        artifact._check_shapes(config, honest)


def test_a_tokenizer_bomb_in_a_model_is_refused(parsers: dict[str, Parser], folder: Path) -> None:
    sealed = Sealed.open(parsers["model"].seed)
    sealed.sections["tokenizer"] = lzma.compress(bytes(60 << 20), lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=0)
    sealed.header["tokenizer_bytes"] = 60 << 20
    with fuzz.limited_memory(), pytest.raises(FileFormatError, match="claim to hold a tokenizer"):
        model_file.read_model(reseal(sealed, folder / "bomb"))


def test_a_table_that_claims_more_n_grams_than_its_bytes_can_hold_is_refused(parsers: dict[str, Parser]) -> None:
    """All n-grams of a vocabulary of 65,535 cost no code at all: only the bound stands between 100 kB and 4 billion of them."""
    head = Head(2, 65535, 1, 0, np.zeros((2, 3)), [65535, 65535**2], [(1, 1), (1, 2)])
    with fuzz.limited_memory(), pytest.raises(FileFormatError, match="impossible sizes"):
        table_codec.decode(pack_head(head) + bytes(100_000))


@pytest.mark.parametrize("name", ["bomb.txt.xz", "bomb.jsonl.gz"])
def test_a_text_that_unpacks_without_end_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 1 << 20)
    plain = json.dumps({"text": "a" * (2 << 20)}).encode() if "jsonl" in name else bytes(2 << 20)
    (tmp_path / name).write_bytes(gzip.compress(plain) if name.endswith("gz") else lzma.compress(plain))
    with pytest.raises(DataError, match="a document of more than 1,048,576 bytes"):
        list(documents.documents([tmp_path / name], "text", lambda done, total: None))

