"""Bytes are the documents' bytes from preparation to the certificate: prepare → score → certify → decode returns the very texts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.coding import certify, compress, stream_coder
from hybrid.data import tokenizer
from hybrid.data.decoded_text import check_documents, text_bytes
from hybrid.data.load_stream import load_stream
from hybrid.data.shards import DataError, find_shards
from hybrid.data.write_shards import write_shard
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import DEFAULTS
from hybrid.storing import artifact
from tests.support import tiny
from tests.support.folders import jsonl, prepare_into, write
from tests.support.tokenizers import NASTY

ONE = Ranks(0, 1, torch.device("cpu"))
TEXTS = [" " + tiny.documents()[3], *(text for text in NASTY if text), *tiny.documents(4, seed=8)]
BYTES = b"".join(text.encode("utf-8", "surrogatepass") for text in TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact, and validation documents full of what public tokenizers lose, prepared for its tokenizer."""
    folder = tmp_path_factory.mktemp("documents")
    tiny.write_artifact(folder / "artifact.bin")
    val, model = write(folder / "val.jsonl", jsonl(TEXTS)), write(folder / "m.model", tiny.tokenizer_bytes())
    prepare_into(folder / "data", val=(val,), tokenizer=model)
    prepare_into(folder / "challenge", val=(val,), tokenizer=model, challenge_encoding=True)
    return folder


def test_eval_divides_by_the_bytes_of_the_documents_and_says_how_they_are_counted(folder: Path) -> None:
    art = artifact.load(folder / "artifact.bin")
    result = evaluate.evaluate(art, find_shards(folder / "data", "val"), ONE)[0]
    assert (result["bytes"], result["bytes_are"]) == (len(BYTES), "bytes of the documents")
    result = evaluate.evaluate(art, find_shards(folder / "challenge", "val"), ONE)[0]
    assert result["bytes_are"] == "bytes as the challenge counts them"


@pytest.mark.usefixtures("loaded_processes")
def test_the_certificate_returns_the_documents_byte_for_byte(folder: Path) -> None:
    wanted = certify.CertifyOptions(len(BYTES), 120, streams=3)
    result = certify.certify(str(folder / "artifact.bin"), str(folder / "data"), str(folder / "F"), wanted, ONE)
    assert result["passed"], result["faults"]
    assert (result["bytes"], result["documents"]) == (len(BYTES), len(TEXTS))
    assert "whole documents as they were read" in certify.text(result)
    compress.decompress(folder / "F", folder / "whole", folder / "artifact.bin")
    compress.decompress(folder / "F.order", folder / "beginning", folder / "artifact.bin")
    assert (folder / "whole").read_bytes() == BYTES
    beginning = (folder / "beginning").read_bytes()
    assert beginning[:1] == b" " and len(beginning) >= 120 and BYTES.startswith(beginning)


@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.lists(st.one_of(st.text(max_size=5), st.sampled_from(NASTY)), min_size=1, max_size=3).map("".join), min_size=1, max_size=4))
def test_any_documents_are_prepared_scored_coded_in_both_orders_and_decoded_to_themselves(folder: Path, tmp_path: Path, texts: list[str]) -> None:
    """The steps of a certificate in this process: what they promise of documents holds for those that tokenizers like least."""
    for old in tmp_path.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    path, texts = str(folder / "artifact.bin"), list(dict.fromkeys([*filter(None, texts), " leading"]))
    whole = b"".join(text.encode("utf-8", "surrogatepass") for text in texts)
    prepare_into(tmp_path / "data", val=(write(tmp_path / "val.jsonl", jsonl(texts)),), tokenizer=str(folder / "m.model"))
    art, shards = artifact.load(path), find_shards(tmp_path / "data", "val")
    assert evaluate.evaluate(art, shards, ONE)[0]["bytes"] == len(whole)
    stretch = certify._stretch(art, str(tmp_path / "data"), len(whole), DEFAULTS)
    assert stretch.said == whole == text_bytes(art.tokenizer, stretch.tokens, exact=True)
    for streams in (3, stream_coder.IN_ORDER):
        coded = stream_coder.Settings(len(stretch.tokens), streams, stretch.kind, DEFAULTS)
        data, _ = stream_coder.encode(art, stream_coder.artifact_sha256(path), stretch.tokens, coded, ONE.device, whole)
        write(tmp_path / "F", data)
        compress.decompress(tmp_path / "F", tmp_path / "decoded", path)
        assert (tmp_path / "decoded").read_bytes() == whole


def test_a_document_that_is_not_the_one_that_was_read_stops_audit_and_certificate(folder: Path, tmp_path: Path) -> None:
    shards, model = find_shards(folder / "data", "val"), tiny.tokenizer_bytes()
    tokens = np.array(load_stream(folder / "data", "val"))
    assert check_documents(shards, model, tokens) == len(TEXTS)
    assert 0 < check_documents(shards, model, tokens[:400]) < len(TEXTS)
    tokens[5] += 1
    with pytest.raises(DataError, match="document 1 is not the one that was read"):
        check_documents(shards, model, tokens)
    assert check_documents(find_shards(folder / "challenge", "val"), model, tokens) == 0
    write_shard(tmp_path / "x_val_000000.bin", tokens)
    assert check_documents([tmp_path / "x_val_000000.bin"], model, tokens) == 0


def test_eval_refuses_shards_of_another_tokenizer(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "o.model", tokenizer.train([f"Quite {i} other words, {i % 7} of them new\n" * 3 for i in range(60)], tiny.VOCAB))
    prepare_into(tmp_path / "other", val=(str(folder / "val.jsonl"),), tokenizer=other)
    with pytest.raises(DataError, match="was made with another tokenizer than the one given"):
        evaluate.evaluate(artifact.load(folder / "artifact.bin"), find_shards(tmp_path / "other", "val"), ONE)[0]
