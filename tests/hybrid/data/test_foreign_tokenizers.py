"""A Hugging Face tokenizer goes the whole way: shards, n-gram model, artifact; bytes are the documents' own everywhere."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hybrid
from hybrid.coding import compress
from hybrid.data.decoded_text import check_documents
from hybrid.data.load_stream import load_stream
from hybrid.data.manifest import check_shards
from hybrid.data.prepare import PrepareConfig, prepare
from hybrid.data.shards import DataError, find_shards
from hybrid.data.token_bytes import TokenBytes, accounting
from hybrid.data.write_shards import write_shards
from hybrid.parallel.ranks import Ranks
from ngram.__main__ import main
from ngram.errors import SeedgramError, run_cli
from ngram.pieces import CONVERTED, Pieces, TokenizerError
from ngram.tokenizer import Tokenizer
from tests.support import hf_tokenizers, tiny
from tests.support.folders import jsonl, read_back, write

TEXTS = [f" Document {i}:\n\n    the cat  sat on mat {i * i}, <|endoftext|> and \u2581 déjà vu.\n" * 3 for i in range(40)]


def run(config: PrepareConfig) -> Path:
    prepare(config)
    return Path(config.out)


@pytest.mark.parametrize("kind", hf_tokenizers.LOSSLESS)
def test_shards_hold_the_documents_byte_for_byte_and_are_divided_by_their_bytes(kind: str, tmp_path: Path) -> None:
    source, place = write(tmp_path / "in.jsonl", jsonl(TEXTS)), hf_tokenizers.write(kind, tmp_path / "hf")
    out = run(PrepareConfig(out=str(tmp_path / "out"), inputs=(source,), tokenizer=str(place), val_fraction=0.3))
    back = [text.decode() for split in ("train", "val") for text in read_back(out, split)]
    assert sorted(back) == sorted(TEXTS)
    model, shards = (out / "tokenizer.model").read_bytes(), find_shards(str(out), "val")
    assert model.startswith(CONVERTED) and Pieces(out / "tokenizer.model").bos == json.loads((out / "manifest.json").read_text())["bos"]
    (counter, how), tokens = accounting(shards, model), load_stream(str(out), "val", Pieces(model).vocab_size)
    documents = read_back(out, "val")
    assert how == "bytes of the documents" and counter.total(tokens) == sum(map(len, documents))
    assert check_documents(shards, model, tokens) == len(documents)


def test_a_folder_is_prepared_again_when_what_begins_a_document_changes(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", jsonl(TEXTS))
    hf_tokenizers.write("llama", tmp_path / "hf", {"bos_token": "<s>"})
    config = PrepareConfig(out=str(tmp_path / "out"), inputs=(source,), tokenizer=str(tmp_path / "hf"))
    assert prepare(config)["bos"] == 1
    assert prepare(config)["skipped"]
    hf_tokenizers.write("llama", tmp_path / "hf", {"bos_token": "</s>"})
    again = prepare(config)
    assert again["bos"] == 2 and "skipped" not in again


def test_the_challenge_s_encoding_is_refused_and_so_are_shards_that_nothing_vouches_for(tmp_path: Path) -> None:
    source, place = write(tmp_path / "in.jsonl", jsonl(TEXTS)), hf_tokenizers.write("gpt2", tmp_path / "hf")
    with pytest.raises(TokenizerError, match="the challenge's encoding is SentencePiece's"):
        prepare(PrepareConfig(out=str(tmp_path / "out"), inputs=(source,), tokenizer=str(place), challenge_encoding=True))
    codec = Tokenizer(place)
    paths = write_shards(tmp_path, "x", "val", np.concatenate(list(codec.encode_documents(TEXTS))))
    with pytest.raises(SeedgramError, match="shards need the manifest that it writes"):
        check_shards(paths, codec.model)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    source, place = write(tmp_path / "in.jsonl", jsonl(TEXTS)), hf_tokenizers.write("gpt2", tmp_path / "hf")
    out = run(PrepareConfig(out=str(tmp_path / "out"), inputs=(source,), tokenizer=str(place), val_fraction=0.3))
    with pytest.raises(DataError, match="was made with another tokenizer"):
        check_shards(find_shards(str(out), "val"), Tokenizer(hf_tokenizers.write("qwen", tmp_path / "other")).model)


def test_without_a_manifest_a_leading_space_after_bos_is_not_divided_by() -> None:
    codec = Tokenizer(hf_tokenizers_model("gpt2"))
    tokens = next(codec.encode_documents([" the cat"]))
    assert TokenBytes.from_model(codec.model, spaces_after_bos=True).total(tokens) == 8
    assert TokenBytes.from_model(codec.model).total(tokens) in (7, 8)  # 8 where the space is a byte piece of its own


def hf_tokenizers_model(kind: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer(hf_tokenizers.write(kind, Path(folder))).model


def ngram(monkeypatch: pytest.MonkeyPatch, *argv: object) -> object:
    monkeypatch.setattr(sys, "argv", ["ngram", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    return ended.value.code


def test_an_n_gram_model_is_trained_and_scored_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    place = hf_tokenizers.write("gpt2", tmp_path / "hf", {"bos_token": "<|endoftext|>"}).parent
    for name, texts in (("train.txt", TEXTS[:30]), ("test.txt", TEXTS[30:])):
        (tmp_path / name).write_text("".join(texts))
    assert ngram(monkeypatch, "train", "--train", tmp_path / "train.txt", "--tokenizer", place, "--orders", "2-4", "--out", tmp_path / "m") == 0
    for options in ([], ["--online"], ["--online", "mix"]):
        capsys.readouterr()
        assert ngram(monkeypatch, "score", "--model", tmp_path / "m", "--test", tmp_path / "test.txt", *options) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["bytes"] == (tmp_path / "test.txt").stat().st_size and result["lossless"] and 0 < result["bpb"] < 2


def test_an_artifact_with_one_compresses_any_bytes(tmp_path: Path) -> None:
    model, data, ranks = hf_tokenizers_model("gpt2"), "".join(TEXTS[:2]).encode() + bytes(range(256)), Ranks(0, 1, torch.device("cpu"))
    assert Pieces(model).vocab_size == tiny.VOCAB
    tiny.write_artifact(tmp_path / "a.bin", vocabulary=model)
    (tmp_path / "in").write_bytes(data)
    compress.compress(tmp_path / "in", tmp_path / "coded", tmp_path / "a.bin", ranks)
    compress.decompress(tmp_path / "coded", tmp_path / "out", tmp_path / "a.bin")
    assert (tmp_path / "out").read_bytes() == data
    assert hybrid.load(tmp_path / "a.bin").score(data).tokens.tolist() == Tokenizer(model).encode_bytes(data).tolist()
