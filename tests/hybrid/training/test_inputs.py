"""What a run reads: the wrong tokenizer, altered shards and shared documents are errors before the first step; BOS is the tokenizer's."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.data import tokenizer
from hybrid.data.shards import DataError, find_shards
from hybrid.data.write_shards import write_shards
from hybrid.parallel.ranks import Ranks
from hybrid.storing import artifact
from hybrid.training import checkpoint, pack
from hybrid.training.batches import TrainError
from hybrid.training.inputs import Inputs, Places, read_inputs
from hybrid.training.run_log import RunLog
from hybrid.training.trainer import Trainer
from tests.support import tiny
from tests.support.folders import jsonl, prepare_into, write
from tests.support.tokenizers import kinds
from tests.support.training import settings

ONE = Ranks(0, 1, torch.device("cpu"))


def shards(folder: Path, model: bytes, train: tuple[str, ...], val: tuple[str, ...]) -> Path:
    """A folder of shards as others make them: without a manifest."""
    for split, texts in (("train", train), ("val", val)):
        write_shards(folder, "x", split, np.concatenate(list(tokenizer.load(model).encode_documents(texts))))
    (folder / "tokenizer.model").write_bytes(model)
    return folder


def read(folder: Path, model: Path | None = None, *, allow_overlap: bool = False) -> Inputs:
    path = model or folder / "tokenizer.model"
    pieces = tokenizer.load(path).vocab_size
    return read_inputs(Places(str(folder), str(path), "", allow_overlap=allow_overlap), settings(model={"vocab_size": pieces}), ONE)


def test_another_tokenizer_of_the_same_size_stops_the_run(tmp_path: Path) -> None:
    other = tmp_path / "other.model"
    other.write_bytes(tokenizer.train([f"Quite {i} other words in here, {i % 7} of them entirely new\n" * 3 for i in range(60)], tiny.VOCAB))
    prepare_into(tmp_path / "data", write(tmp_path / "a.jsonl", jsonl(list(tiny.documents()))), vocab_size=tiny.VOCAB, val_fraction=0.2)
    assert read(tmp_path / "data").loader.bos == 1
    with pytest.raises(DataError, match="was made with another tokenizer than the one given"):
        read(tmp_path / "data", other)


def test_shards_altered_since_they_were_prepared_stop_the_run(tmp_path: Path) -> None:
    prepare_into(tmp_path / "data", write(tmp_path / "a.jsonl", jsonl(list(tiny.documents()))), vocab_size=tiny.VOCAB, val_fraction=0.2)
    (path,) = find_shards(tmp_path / "data", "train")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="it was altered"):
        read(tmp_path / "data")


@pytest.mark.parametrize("batch_tokens, world", [(48, 2), (8, 1)], ids=["3 rows for 2 ranks", "half a row"])
def test_a_batch_that_gives_a_rank_no_whole_rows_stops_the_run(tmp_path: Path, batch_tokens: int, world: int) -> None:
    tiny.write_data(tmp_path)
    asked = settings(batch_tokens=batch_tokens, seq_len=16, microbatch_tokens=16)
    with pytest.raises(TrainError, match=f"--batch-tokens {batch_tokens} does not split into {world} ranks"):
        read_inputs(Places(str(tmp_path), str(tmp_path / "tokenizer.model"), ""), asked, Ranks(world - 1, world, torch.device("cpu")))


def test_documents_on_both_sides_stop_the_run_unless_they_are_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tiny.documents()
    folder = shards(tmp_path, tiny.tokenizer_bytes(), texts, (*tiny.documents(3, seed=9), *texts[4:6]))
    with pytest.raises(DataError, match="2 of 5 validation documents, .* are training documents too"):
        read(folder)
    capsys.readouterr()
    assert len(read(folder, allow_overlap=True).val_tokens) > 100
    assert "2 of 5 validation documents" in capsys.readouterr().err


def test_a_folder_prepared_with_both_sides_sharing_documents_stops_the_run_unless_it_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [write(tmp_path / name, jsonl(list(texts))) for name, texts in (("a.jsonl", tiny.documents()), ("v.jsonl", tiny.documents()[4:7]))]
    for policy in ("keep", "drop"):
        prepare_into(tmp_path / policy, places[0], val=(places[1],), vocab_size=tiny.VOCAB, overlap=policy)
    with pytest.raises(DataError, match="3 validation documents are training documents too; .* allow it with --allow-overlap"):
        read(tmp_path / "keep")
    capsys.readouterr()
    read(tmp_path / "drop")
    assert capsys.readouterr().err == ""
    read(tmp_path / "keep", allow_overlap=True)
    said = capsys.readouterr().err
    assert "3 validation documents are training documents too: figures on them are too good" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("kind, bos", [("Gemma", 2), ("T5", 1)])
def test_bos_is_the_tokenizer_s_in_rows_counts_and_the_packed_cache(tmp_path: Path, kind: str, bos: int) -> None:
    model = kinds()[kind]
    inputs = read(shards(tmp_path, model, tiny.documents(), tiny.documents(3, seed=9)))
    config = settings(model={"vocab_size": tokenizer.load(model).vocab_size}, steps=2)
    assert inputs.loader.bos == bos
    assert inputs.loader.holdout()[0] == bos  # begins with a document
    with closing(RunLog(tmp_path / "log.jsonl", active=False)) as log:
        trainer = Trainer(config, inputs, ONE, log)
        trainer.run(checkpoint.Writer(tmp_path / "checkpoint.bin"))
        pack.merge_counts(trainer.ahead, ONE, log)
        pack.pack(config, inputs, trainer.ahead, ONE, tmp_path, log)
    table = artifact.load(tmp_path / "artifact.bin").table
    assert table is not None and table.bos == bos
