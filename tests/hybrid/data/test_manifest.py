"""The manifest: what it vouches for is checked, the wrong tokenizer of the right size is an error, with a manifest or without."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.data import token_bytes, tokenizer
from hybrid.data.manifest import check_shards
from hybrid.data.prepared import document_digest, read_index
from hybrid.data.shards import DataError, Stream, find_shards
from hybrid.data.token_bytes import accounting
from hybrid.data.write_shards import write_shard
from ngram.errors import FileFormatError
from tests.support.folders import jsonl, prepare_into, read_back, write
from tests.support.tokenizers import NASTY, WORDS, kinds, without_bytes

TEXTS = [f"Document {i}: the cat sat on mat {i * i} and was déjà vu.\n" * 3 for i in range(60)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    prepare_into(folder / "out", write(folder / "in.jsonl", jsonl(TEXTS)), val_fraction=0.2)
    return folder / "out"


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "out"))


def stream_of(shards: list[Path]) -> np.ndarray:
    stream = Stream(shards)
    return stream.read(0, len(stream))


def other_tokenizer(pieces: int = 350) -> bytes:
    return tokenizer.train([f"Quite {i} other words in here, {i % 7} of them entirely new\n" * 3 for i in range(60)], pieces)


@pytest.mark.parametrize("kind", sorted(kinds()))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.lists(st.one_of(st.text(max_size=9), st.sampled_from(NASTY), st.sampled_from(WORDS))).map("".join), min_size=1, max_size=9
    )
)
def test_documents_come_back_byte_for_byte_from_every_kind_of_tokenizer(kind: str, texts: list[str], tmp_path: Path) -> None:
    """prepare → shards on disk → decode; every byte is counted, and none that was not there."""
    for old in tmp_path.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    texts = [*texts, *NASTY, " ".join(WORDS)]
    prepare_into(
        tmp_path / "out", write(tmp_path / "a.jsonl", jsonl(texts)), tokenizer=write(tmp_path / "m.model", kinds()[kind]), val_fraction=0.3
    )
    originals = {text.encode("utf-8", "surrogatepass") for text in texts if text}
    both = read_back(tmp_path / "out", "train") + read_back(tmp_path / "out", "val")
    assert sorted(both) == sorted(originals)
    for split in ("train", "val"):
        shards = find_shards(tmp_path / "out", split)
        counter, how = accounting(shards, kinds()[kind])
        assert how == "bytes of the documents"
        assert counter.total(stream_of(shards)) == sum(map(len, read_back(tmp_path / "out", split)))


def test_the_index_holds_length_tokens_and_digest_of_every_document_in_order(prepared: Path) -> None:
    for split in ("train", "val"):
        index, texts = read_index(prepared / f"text_{split}_documents.idx"), read_back(prepared, split)
        assert index.size_bytes.tolist() == [len(text) for text in texts]
        assert index.digests == [document_digest(text) for text in texts]
        stream = Stream(find_shards(prepared, split))
        starts = np.cumsum([0, *index.tokens[:-1]])
        assert (stream.read(0, len(stream))[starts] == 1).all() and index.tokens.sum() == len(stream)


def test_an_altered_index_is_refused(copied: Path) -> None:
    path = copied / "text_val_documents.idx"
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="digest does not match"):
        read_index(path)


def test_another_tokenizer_of_the_same_size_is_an_error(copied: Path) -> None:
    own, other = (copied / "tokenizer.model").read_bytes(), other_tokenizer()
    assert tokenizer.load(other).vocab_size == tokenizer.load(own).vocab_size
    for split in ("train", "val"):
        shards = find_shards(copied, split)
        assert check_shards(shards, own)["encoding"] == "lossless"
        with pytest.raises(
            DataError, match=r"text_\w+_000000.bin: was made with another tokenizer than the one given; give the tokenizer.model"
        ):
            accounting(shards, other)


def test_without_a_manifest_the_text_tells_a_wrong_tokenizer(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    own, other = (tokenizer.train(part, 700) for part in (texts[:20], texts[40:60]))
    shard = tmp_path / "x_val_000000.bin"
    write_shard(shard, np.concatenate(list(tokenizer.load(own).encode_documents(texts[20:30]))))
    assert check_shards([shard], own) == {}
    assert accounting([shard], own)[1] == "bytes that the tokens decode to, as the challenge counts them"
    with pytest.raises(DataError, match="x_val_000000.bin: [0-9]+% of its tokens are not what this tokenizer makes of their text"):
        check_shards([shard], other)


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_streams_of_every_kind_of_tokenizer_are_plausible_however_they_were_encoded(kind: str, tmp_path: Path) -> None:
    codec = tokenizer.load(kinds()[kind])
    texts = [" ".join(WORDS) + f" {i}\n  twice  as  \u00bd {i}\n" for i in range(40)]
    for name, encode in (("lossless", codec.encode_documents), ("challenge", codec.encode_as_challenge)):
        write_shard(tmp_path / f"{name}_val_000000.bin", np.concatenate(list(encode(texts))))
        assert check_shards([tmp_path / f"{name}_val_000000.bin"], codec.model) == {}


def test_random_tokens_are_not_plausible_and_a_few_are_not_judged(prepared: Path, tmp_path: Path) -> None:
    model = (prepared / "tokenizer.model").read_bytes()
    tokens = np.random.default_rng(0).integers(4, 350, 5000)
    write_shard(tmp_path / "long.bin", tokens)
    write_shard(tmp_path / "short.bin", tokens[:100])
    with pytest.raises(DataError, match="give the tokenizer it was made with"):
        check_shards([tmp_path / "long.bin"], model)
    assert check_shards([tmp_path / "short.bin"], model) == {}


def test_an_altered_shard_is_named(copied: Path) -> None:
    (path,) = find_shards(copied, "val")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="text_val_000000.bin: is not what manifest.json says of it, it was altered"):
        check_shards([path], (copied / "tokenizer.model").read_bytes())


def test_one_shard_under_two_names_is_an_error(copied: Path) -> None:
    model = (copied / "tokenizer.model").read_bytes()
    shutil.copy(copied / "text_val_000000.bin", copied / "more_val_000000.bin")
    with pytest.raises(DataError, match="text_val_000000.bin: holds the same tokens as more_val_000000.bin; remove one of the two"):
        check_shards(find_shards(copied, "val"), model)
    (copied / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds the same tokens"):
        check_shards(find_shards(copied, "val"), model)


def test_shards_of_another_origin_beside_prepared_ones_are_an_error(copied: Path) -> None:
    write_shard(copied / "more_val_000000.bin", np.arange(4, 90))
    with pytest.raises(DataError, match="more_val_000000.bin: is not one of the shards that manifest.json lists"):
        check_shards(find_shards(copied, "val"), (copied / "tokenizer.model").read_bytes())


def test_a_folder_prepared_before_there_were_encodings_is_read_as_one_without_a_manifest(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    del manifest["encoding"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    shards, model = find_shards(copied, "val"), (copied / "tokenizer.model").read_bytes()
    assert accounting(shards, model)[1] == "bytes that the tokens decode to, as the challenge counts them"


NORMALISED = "\ufdfa" * 40 + "\u00bd  twice\n"


def test_the_challenge_s_encoding_is_recorded_and_its_bytes_are_called_what_they_are(tmp_path: Path) -> None:
    model = kinds()["public"]
    source = write(tmp_path / "a.jsonl", jsonl([NORMALISED, *TEXTS]))
    settings = {"tokenizer": write(tmp_path / "m.model", model), "val_fraction": 0.0}
    manifest = prepare_into(tmp_path / "c", source, challenge_encoding=True, **settings)
    prepare_into(tmp_path / "l", source, **settings)
    shards = find_shards(tmp_path / "c", "train")
    how = accounting(shards, model)[1]
    assert (manifest["encoding"], how) == ("challenge", "bytes as the challenge counts them")
    original = sum(len(text.encode()) for text in [NORMALISED, *TEXTS])
    assert manifest["splits"]["train"]["original_bytes"] == original < manifest["splits"]["train"]["bytes"]
    shards = find_shards(tmp_path / "l", "train")
    assert accounting(shards, model)[0].total(stream_of(shards)) == original


def test_what_a_tokenizer_without_byte_pieces_loses_is_refused_or_left_out_of_the_bytes(tmp_path: Path) -> None:
    texts, model = ["the cat \u4e2d\u6587 sat", "a mat"], write(tmp_path / "m.model", without_bytes())
    source = write(tmp_path / "a.jsonl", jsonl(texts))
    with pytest.raises(tokenizer.LossError, match="no byte pieces and cannot hold 33.33% of a document of 18 bytes"):
        prepare_into(tmp_path / "out", source, tokenizer=model, val_fraction=0)
    manifest = prepare_into(tmp_path / "out", source, tokenizer=model, val_fraction=0, allow_loss=True)
    figures = manifest["splits"]["train"]
    assert (manifest["encoding"], figures["bytes"], figures["original_bytes"]) == ("lossy", 17, 23)
    assert accounting(find_shards(tmp_path / "out", "train"), without_bytes())[1] == "bytes that the tokenizer could hold"
    whole = prepare_into(tmp_path / "whole", write(tmp_path / "b.jsonl", jsonl(texts[1:])), tokenizer=model, val_fraction=0)
    assert whole["encoding"] == "lossless"


def test_bytes_of_any_part_of_a_lossless_stream_are_those_its_tokens_say(prepared: Path) -> None:
    codec = tokenizer.load(prepared / "tokenizer.model")
    shards = find_shards(prepared, "train")
    counter, tokens = token_bytes.accounting(shards, codec.model)[0], stream_of(shards)
    for stop in range(2, 300, 7):
        assert counter.total(tokens[:stop]) == len(codec.decode_bytes(tokens[:stop].tolist()))
