"""The artifact (docs/formats.md): one file with everything that scoring needs, and nothing of the machine that made it: same run, same bytes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import check_maps, count_frozen
from hybrid.model.random_maps import MapMismatch
from hybrid.settings.config import Config, ConfigError
from hybrid.storing import byte_codecs, quantise
from hybrid.storing.counted_code import code_bytes
from ngram import container
from ngram.errors import FileFormatError, SeedgramError
from ngram.storing import table_codec
from ngram.table import NgramTable
from ngram.threads import each

MAGIC = b"SEEDGRAM"
VERSION = 3  # SECURITY.md
MAX_EXPANSION = 64  # raw bytes a packed byte, beside SPARE_BYTES: even of weights that are half zeros
SPARE_BYTES = 1 << 20
MAX_MAP_ENTRIES = 1 << 31  # 4 GiB, regenerated from seeds: nothing else bounds them
STORED_AS_IS = {"ngram", "gate"}  # entropy-coded already, or tiny


class BudgetError(SeedgramError):
    """Code and artifact together exceed the cap."""


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact; model in evaluation mode on the CPU, table and gate None where the run had none."""

    config: Config
    model: HybridLM
    tokenizer: bytes
    table: NgramTable | None
    gate: bytes | None
    header: dict[str, Any]
    size_bytes: int


class Packer:
    """Collects the sections of one artifact and keeps the books of its size."""

    def __init__(self, config: Config, tokenizer: bytes, map_checksums: Mapping[str, str]) -> None:
        self.config = config
        self._header: dict[str, Any] = {"config": config.to_json(), "maps": dict(map_checksums), "codecs": {}}
        self._sections: dict[str, bytes] = {}
        self.add({"tokenizer": tokenizer})

    def add_weights(self, meta: Any, sections: Mapping[str, bytes]) -> None:
        self._header["weights"] = meta
        self.add({"weights." + name: data for name, data in sections.items()})

    def add(self, sections: Mapping[str, bytes]) -> None:
        def squeeze(name: str) -> tuple[str, bytes]:
            return ("none", sections[name]) if name in STORED_AS_IS else byte_codecs.compress(sections[name])

        for name, (chosen, packed) in zip(sections, each(squeeze, sections), strict=True):
            self._header["codecs"][name] = [chosen, len(sections[name])]
            self._sections[name] = packed

    def to_bytes(self) -> bytes:
        return container.pack(MAGIC, VERSION, self._header, self._sections)

    def room(self, *, reserve: int) -> int:
        """Bytes left under the cap for one more section, after the code and `reserve` bytes for others.  Raises BudgetError if these exceed it."""
        return self.config.cache.cap_bytes - reserve - self._books(self.to_bytes(), reserve)["total"]

    def write(self, path: str | os.PathLike[str]) -> dict[str, int]:
        """Writes the file atomically; returns {section: bytes} with header, code and total.  Raises BudgetError over the cap."""
        data = self.to_bytes()
        books = self._books(data)
        container.atomic_write(path, data)
        return books

    def _books(self, data: bytes, reserve: int = 0) -> dict[str, int]:
        sizes = {name: len(section) for name, section in self._sections.items()}
        code, cap = code_bytes(), self.config.cache.cap_bytes
        books = {**sizes, "header": len(data) - sum(sizes.values()), "code": code, "total": code + len(data)}
        if books["total"] + reserve > cap:
            listed = ", ".join(f"{name} {size:,}" for name, size in books.items())
            more = f" and {reserve:,} kept for the rest" if reserve else ""
            raise BudgetError(f"{listed} bytes{more} exceed --cap-bytes {cap:,}; choose a smaller model or raise the cap")
        return books


def load(path: str | os.PathLike[str], decode: Callable[[bytes], NgramTable] = table_codec.decode) -> Artifact:
    """Reads and checks an artifact: digest, settings, sizes, and the checksum of every regenerated map.  decode: as table_codec's.

    Raises FileFormatError naming the file, for anything cut, altered, foreign or of another version; MapMismatch if this machine
    makes other maps than the training's did."""
    data = container.read_bytes(path)
    header, packed = container.unpack(data, MAGIC, VERSION, str(path))
    try:
        config, state, raw = _parse(header, packed)
        _check_shapes(config, state)
        table = decode(raw["ngram"]) if "ngram" in raw else None
        if table is not None and table.vocab_size != config.model.vocab_size:
            raise FileFormatError(f"cache of {table.vocab_size} pieces beside a model of {config.model.vocab_size}; pack it again")
        model = HybridLM(config.model)
        check_maps(model, header["maps"])
    except (FileFormatError, MapMismatch) as error:
        raise type(error)(f"{path}: {error}") from None
    model.load_state_dict(state)
    return Artifact(config, model.eval(), raw["tokenizer"], table, raw.get("gate"), header, len(data))


def _parse(header: Mapping[str, Any], packed: Mapping[str, bytes]) -> tuple[Config, dict[str, torch.Tensor], dict[str, bytes]]:
    """Settings, weights and sections, each well-formed by itself.  Raises FileFormatError for whatever the parsers raise."""
    try:
        config = Config.from_json(header["config"])
        if not isinstance(header["maps"], dict):
            raise TypeError("checksums of maps are no object")
        raw = {name: _unpacked(section, *header["codecs"][name]) for name, section in packed.items()}
        weights = {name.removeprefix("weights."): section for name, section in raw.items() if name.startswith("weights.")}
        if "tokenizer" not in raw:
            raise KeyError("tokenizer")
        return config, quantise.decode_state(header["weights"], weights), raw
    except (KeyError, ValueError, TypeError, OverflowError, ConfigError) as error:
        raise _malformed(str(error).partition("\n")[0] or type(error).__name__) from None


def _malformed(reason: str) -> FileFormatError:
    return FileFormatError(f"malformed artifact ({reason}); pack it again")


def _unpacked(section: bytes, chosen: Any, raw_bytes: Any) -> bytes:
    if type(raw_bytes) is not int or not 0 <= raw_bytes <= SPARE_BYTES + MAX_EXPANSION * len(section):
        raise ValueError(f"a section of {len(section)} bytes claims to hold {raw_bytes}")
    return byte_codecs.decompress(section, str(chosen), raw_bytes)


def _check_shapes(config: Config, state: Mapping[str, torch.Tensor]) -> None:
    """Raises FileFormatError unless the stored tensors are those of the model, before memory is taken for its maps."""
    with torch.device("meta"):
        plan = HybridLM(config.model, fill_maps=False)
    wanted = {name: tensor.shape for name, tensor in plan.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise _malformed("weights and settings are of different models")
    if count_frozen(plan) > MAX_MAP_ENTRIES:
        raise _malformed(f"{count_frozen(plan):,} entries of random maps, at most {MAX_MAP_ENTRIES:,}")
