"""Loading models: safetensors alone, nothing of the folder's is run, nothing is fetched."""

import socket
from pathlib import Path

import pytest
import torch

from hybrid import hf
from ngram.errors import SeedgramError
from tests.support import tiny_hf


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *name: pytest.fail(f"looks for {name}"))


def test_a_folder_with_safetensors_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    tiny_hf.model().save_pretrained(tmp_path)
    tiny_hf.tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    model, tokenizer = hf.load(tmp_path)
    tokens = torch.tensor([[0, 5, 7]])
    assert torch.equal(model(input_ids=tokens).logits, tiny_hf.model()(input_ids=tokens).logits)
    assert tokenizer("the cache")["input_ids"] == tiny_hf.tokenizer()("the cache")["input_ids"]


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    tiny_hf.model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SeedgramError, match="cannot load"):
        hf.load(tmp_path)


def test_names_of_models_elsewhere_are_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(SeedgramError, match="no-such/model: cannot load"):
        hf.load("no-such/model")


@pytest.mark.parametrize("setting", ["trust_remote_code", "use_safetensors", "local_files_only"])
def test_what_would_loosen_this_is_no_setting(setting: str, tmp_path: Path) -> None:
    with pytest.raises(SeedgramError, match=f"{setting}: not a setting here"):
        hf.load(tmp_path, **{setting: True})
