"""Loading an artifact: what is wrong with the file is said of the file, and nothing else is."""

from pathlib import Path
from typing import Any

import pytest

from hybrid.model.hybrid_lm import HybridLM
from hybrid.storing import artifact
from ngram.errors import FileFormatError
from tests.support import tiny
from tests.support.mutants import Sealed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path, documents=4)
    return path


SIZES = ("rank_attention", "rank_mlp", "bigram_buckets", "bigram_dim", "value_embed_dim", "vocab_size", "d_model")


@pytest.mark.parametrize("size", SIZES)
def test_a_size_that_no_tensor_can_have_is_refused_as_a_setting(size: str, whole: Path, tmp_path: Path) -> None:
    sealed = Sealed.open(whole.read_bytes())
    sealed.header["config"]["model"] |= {"value_embed_dim": 8, "bigram_buckets": 8} | {size: 10**30}
    (tmp_path / "a.bin").write_bytes(sealed.sound())
    with pytest.raises(FileFormatError, match=rf"a\.bin: malformed artifact \(ModelConfig\.{size}"):
        artifact.load(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("key", "value"), [("maps", [[1, 2]]), ("maps", None), ("config", []), ("codecs", {}), ("weights", [[5, [2], 32, 0]]), ("weights", 3)]
)
def test_a_header_of_other_types_is_a_malformed_artifact(key: str, value: Any, whole: Path, tmp_path: Path) -> None:
    sealed = Sealed.open(whole.read_bytes())
    sealed.header[key] = value
    (tmp_path / "a.bin").write_bytes(sealed.sound())
    with pytest.raises(FileFormatError, match=r"a\.bin: malformed artifact \(.+\); pack it again"):
        artifact.load(tmp_path / "a.bin")


def test_an_artifact_of_before_windows_is_loaded_without_them(whole: Path, tmp_path: Path) -> None:
    sealed = Sealed.open(whole.read_bytes())
    for name in ("window", "whole_layers"):
        assert sealed.header["config"]["model"].pop(name) == 0
    (tmp_path / "a.bin").write_bytes(sealed.sound())
    assert artifact.load(tmp_path / "a.bin").config == artifact.load(whole).config


def test_a_table_that_does_not_decode_is_refused_with_the_file_s_name(whole: Path, tmp_path: Path) -> None:
    sealed = Sealed.open(whole.read_bytes())
    sealed.sections["ngram"] = sealed.sections["ngram"][:8]
    sealed.header["codecs"]["ngram"] = ["none", 8]
    (tmp_path / "a.bin").write_bytes(sealed.sound())
    with pytest.raises(FileFormatError, match=r"a\.bin: n-gram data"):
        artifact.load(tmp_path / "a.bin")


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA out of memory"), ValueError("a bug"), AttributeError("a bug")])
def test_what_goes_wrong_while_the_model_is_made_is_not_blamed_on_the_file(
    error: Exception, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(model: HybridLM) -> None:
        raise error

    monkeypatch.setattr(HybridLM, "_fill_maps", fill)
    with pytest.raises(type(error), match=str(error)):
        artifact.load(whole)
