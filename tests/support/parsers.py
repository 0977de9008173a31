"""Everything of the project that reads files, with a valid file of each kind and a way to make hostile versions of it."""


import gzip
import json
import lzma
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hybrid.coding import stream_coder
from hybrid.data import shards, token_bytes, tokenizer
from hybrid.data.write_shards import write_shard
from hybrid.scoring.mixture import GATE_FEATURES, load_gate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact, byte_codecs
from hybrid.training import checkpoint
from ngram import container, documents
from ngram.arpa import read as arpa_reader
from ngram.arpa import write
from ngram.blending import fit, gate
from ngram.counting.counter import NgramCache
from ngram.storing import model_file, table_codec
from ngram.tokenizer import Tokenizer
from tests.support import tiny
from tests.support.mutants import Sealed, mutate_bytes, mutate_text


@dataclass(frozen=True)
class Parser:
    """What is attacked: reads a file, or raises SeedgramError.  mutant: from a generator, one hostile file."""

    read: Callable[[Path], object]
    mutant: Callable[[random.Random], bytes]
    seed: bytes  # a file that is read


def _repair_sizes(header: dict[str, Any], sections: dict[str, bytes]) -> None:
    for name, section in sections.items():
        if header["codecs"][name][0] == "none":
            header["codecs"][name][1] = len(section)


def _unpacked(path: Path) -> Sealed:
    """The artifact with sections stored as they are, so that mutants of them get past the compressors."""
    sealed = Sealed.open(path.read_bytes())
    for name, section in sealed.sections.items():
        chosen, size = sealed.header["codecs"][name]
        sealed.sections[name] = byte_codecs.decompress(section, chosen, size)
        sealed.header["codecs"][name] = ["none", size]
    return Sealed(sealed.magic, sealed.version, sealed.header, sealed.sections, _repair_sizes)


def _tokenizer_inside(header: dict[str, Any], sections: dict[str, bytes]) -> None:
    """Seeds hold the tokenizer unpacked; a file holds it as xz."""
    header["tokenizer_bytes"] = len(sections["tokenizer"])
    sections["tokenizer"] = lzma.compress(sections["tokenizer"], lzma.FORMAT_XZ, check=lzma.CHECK_NONE, preset=0)


def _with_plain_tokenizer(data: bytes, model: bytes) -> Sealed:
    sealed = Sealed.open(data, _tokenizer_inside)
    sealed.sections["tokenizer"] = model
    return sealed


def _coded_stream(folder: Path, path: Path) -> tuple[bytes, Callable[[Path], object]]:
    art, sha = artifact.load(path), stream_coder.artifact_sha256(path)
    tokens = tiny.stream(seed=3, count=1)[:12]
    settings = stream_coder.Settings(len(tokens), 4, "file", EvalOptions(chunk_tokens=4))
    coded, _ = stream_coder.encode(art, sha, tokens, settings, torch.device("cpu"), b"")

    def read(file: Path) -> object:
        # what is decoded may be long where the header says so, and rightly: payloads beyond the end read as zeros
        found, *_ = stream_coder.read_header(file.read_bytes(), str(file), sha)
        return stream_coder.decode(art, sha, file.read_bytes(), str(file)) if found.n <= 64 else None

    return coded, read


def write_seeds(folder: Path) -> None:
    """One valid file of each kind, of a few kilobytes."""
    model = tiny.tokenizer_bytes()
    tiny.write_artifact(folder / "artifact.bin", documents=4)
    counts = NgramCache(tiny.VOCAB, 4)
    counts.count_stream(tiny.stream(seed=1, count=4))
    table, run, text = counts.table(), counts.run(), Tokenizer(model, "seed")
    (folder / "seed.table").write_bytes(table_codec.encode(table))
    write.export_arpa(table, folder / "seed.arpa")
    model_file.write_counts(folder / "seed.counts", model_file.Counts(run, text, run.total()))
    (folder / "seed.model").write_bytes(model_file.model_bytes(table_codec.encode(table), text))
    write_shard(folder / "seed.bin", tiny.stream(seed=2, count=2))
    weights = [torch.arange(6.0).reshape(2, 3), torch.ones(3, dtype=torch.bfloat16)]
    tree = {"step": 3, "flags": [True, None, "x"], "p": weights, "o": {"w": {"m": torch.tensor(2.5)}}}
    checkpoint.save(folder / "seed.checkpoint", *checkpoint.snapshot(tree))


def sealed_parsers(folder: Path) -> dict[str, Parser]:
    """Parsers of containers, whose mutants have the right digest."""
    model, (coded, read_stream) = tiny.tokenizer_bytes(), _coded_stream(folder, folder / "artifact.bin")
    small = Sealed(b"FUZZSEED", 1, {"a": [1, {"b": 2.5}], "c": "text"}, {"x": b"12345678", "y": b"", "z": bytes(40)})
    found: dict[str, tuple[Sealed, Callable[[Path], object]]] = {
        "container": (small, lambda path: container.unpack(path.read_bytes(), b"FUZZSEED", 1, str(path))),
        "artifact": (_unpacked(folder / "artifact.bin"), _whole_artifact),
        "model": (_with_plain_tokenizer((folder / "seed.model").read_bytes(), model), model_file.read_model),
        "counts": (_with_plain_tokenizer((folder / "seed.counts").read_bytes(), model), model_file.read_counts),
        "checkpoint": (Sealed.open((folder / "seed.checkpoint").read_bytes()), checkpoint.load),
        "stream": (Sealed.open(coded), read_stream),
    }
    return {name: Parser(read, seed.mutant, seed.sound()) for name, (seed, read) in found.items()}


def build(folder: Path) -> dict[str, Parser]:
    """All parsers, with seeds written into `folder`."""
    write_seeds(folder)
    parsers = sealed_parsers(folder)
    gate_bytes = gate.Gate.constant(GATE_FEATURES, fit.fallback(2), rate=0.5).to_bytes()
    plain: dict[str, tuple[bytes, Callable[[Path], object], Callable[[bytes, random.Random], bytes]]] = {
        "codec": ((folder / "seed.table").read_bytes(), lambda path: table_codec.decode(path.read_bytes()), mutate_bytes),
        "gate": (gate_bytes, lambda path: gate.Gate.from_bytes(path.read_bytes(), GATE_FEATURES), mutate_bytes),
        "arpa": ((folder / "seed.arpa").read_bytes(), lambda path: arpa_reader.import_arpa(path, bos=1), mutate_text),
        "shard": ((folder / "seed.bin").read_bytes(), lambda path: int(shards.read_shard(path, tiny.VOCAB).sum()), mutate_bytes),
        "tokenizer": (tiny.tokenizer_bytes(), lambda path: tokenizer.load(path).encode_bytes(b"a \xff text\n"), mutate_bytes),
    }
    for name, (seed, read, mutate) in plain.items():
        parsers[name] = Parser(read, lambda draw, seed=seed, mutate=mutate: mutate(seed, draw), seed)  # type: ignore[misc]
    for name, packed in packed_texts().items():
        parsers[name] = Parser(_read_texts, lambda draw, seed=packed: mutate_bytes(seed, draw), packed)  # type: ignore[misc]
    return parsers


def packed_texts() -> dict[str, bytes]:
    """Text files of each packing, by the names that say how to read them."""
    texts = list(tiny.documents(12))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    plain = {"texts.txt.xz": lzma.compress(texts[0].encode()), "texts.jsonl": lines}
    return {**plain, "texts.jsonl.gz": gzip.compress(lines, mtime=0), "texts.jsonl.zst": zstandard.ZstdCompressor().compress(lines)}


def _read_texts(path: Path) -> int:
    return sum(map(len, documents.documents([path], "text", lambda done, total: None)))


def _whole_artifact(path: Path) -> object:
    """All that eval.py reads of an artifact before it scores."""
    art = artifact.load(path)
    token_bytes.TokenBytes.from_model(art.tokenizer)
    return load_gate(art.gate, learning=True)
