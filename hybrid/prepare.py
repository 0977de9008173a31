"""Text in, shards out: read documents, train a tokenizer where none is given, encode, split, shuffle, write.

A prepared folder holds `<name>_train_000000.bin` …, `<name>_val_000000.bin` …, `tokenizer.model` and `manifest.json`;
the manifest is written last, so a folder with one is complete.  The same inputs and settings give the same bytes.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hybrid import corpus
from hybrid.bpb import TokenBytes
from hybrid.config import canonical_json
from hybrid.data import DataError, permutation, write_shards
from hybrid.documents import documents, find_inputs
from hybrid.tokenizer import Tokenizer, train
from ngram.container import atomic_write, read_bytes
from ngram.table import U16

TOKENIZER_SAMPLE_BYTES = 32_000_000  # text a tokenizer is trained on: more no longer changes a few thousand merges
MANIFEST, TOKENIZER = "manifest.json", "tokenizer.model"

Report = Callable[[str, int, int], None]  # (what is being done, done, total): drives a progress bar


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare.  inputs, val: files or folders; embedded: the corpus inside Python and NumPy instead of inputs;
    val_fraction: share of documents held out when `val` is empty; field: JSON key of the text."""

    out: str
    inputs: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    embedded: bool = False
    tokenizer: str | None = None
    vocab_size: int = 1024
    val_fraction: float = 0.01
    seed: int = 0
    name: str = "text"
    field: str = "text"


def _quiet(what: str, done: int, total: int) -> None:
    pass


def _file_digest(path: Path) -> str:
    content = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                content.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror}; check the path") from None
    return content.hexdigest()


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """Everything the output depends on, with file contents as digests: equal settings give equal shards."""
    settings: dict[str, Any] = {key: getattr(config, key) for key in ("embedded", "val_fraction", "seed", "name", "field")}
    settings["inputs"] = [[path.name, _file_digest(path)] for path in find_inputs(config.inputs)]
    settings["val"] = [[path.name, _file_digest(path)] for path in find_inputs(config.val)]
    settings["tokenizer"] = _file_digest(Path(config.tokenizer)) if config.tokenizer else f"bpe {config.vocab_size}"
    if config.embedded:
        settings["embedded"] = f"{platform.python_implementation()} {platform.python_version()}, NumPy {np.__version__}, {corpus.EDITION}"
    return settings


def _sample(texts: Iterable[str], limit: int) -> list[str]:
    """A subset of the texts of at most `limit` characters, chosen by hash of their place: one pass, no order bias."""
    kept: list[tuple[int, str]] = []
    size, threshold = 0, 2**64
    for place, text in enumerate(texts):
        key = xxhash.xxh3_64_intdigest(place.to_bytes(8, "little"))
        if key < threshold:
            kept.append((key, text))
            size += len(text)
        while size > limit and len(kept) > 1:
            threshold //= 2
            kept = [(key, text) for key, text in kept if key < threshold] or kept[:1]
            size = sum(len(text) for _, text in kept)
    return [text[:limit] for _, text in kept]


def _splits(config: PrepareConfig, report: Report) -> tuple[Callable[[str], Iterator[str]], Callable[[str], Iterator[str]], dict[str, Any]]:
    """(train texts, val texts) as functions of the label to report under, and what the manifest says of the source."""
    if config.embedded:
        report("reading documentation", 0, 0)
        everything = corpus.read_documents()
        parts = corpus.split(everything)
        info = {"corpus_sha256": corpus.digest(everything)}
        return (lambda _: (d.text for d in parts[0])), (lambda _: (d.text for d in parts[1])), info

    def reader(places: tuple[str, ...]) -> Callable[[str], Iterator[str]]:
        return lambda label: documents(find_inputs(places), config.field, lambda done, total: report(label, done, total))

    return reader(config.inputs), reader(config.val), {}


def _is_val(text: str, fraction: float) -> bool:
    """By hash of the text, so that copies of a document stay on one side."""
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"), seed=1) < fraction * 2**64


def _encode(tokenizer: Tokenizer, texts: Iterator[str], fraction: float) -> tuple[list[U16], list[U16]]:
    """Token arrays of the documents, (train, val)."""
    sides: list[bool] = []

    def noted() -> Iterator[str]:
        for text in texts:
            sides.append(_is_val(text, fraction))
            yield text

    parts: tuple[list[U16], list[U16]] = ([], [])
    for number, tokens in enumerate(tokenizer.encode_documents(noted())):
        parts[sides[number]].append(tokens)
    train_parts, val_parts = parts
    if fraction > 0 and not val_parts and train_parts:  # too few documents for the hash to pick one: the end of the last
        last = train_parts.pop()
        total = len(last) + sum(len(part) for part in train_parts)
        cut = max(1, len(last) - round(total * fraction))
        train_parts += [last[:cut]] if cut > 1 else []
        val_parts.append(np.concatenate([last[:1], last[cut:]]))
    return train_parts, val_parts


def _clear(out: Path) -> None:
    """Takes away what an earlier run of ours left; refuses a folder with shards of other origin."""
    manifest = out / MANIFEST
    shards = sorted(out.glob("*_train_*.bin")) + sorted(out.glob("*_val_*.bin")) if out.is_dir() else []
    ours = _read_manifest(out).get("shards", {})
    foreign = [path for path in shards if path.name not in ours]
    if foreign:
        raise DataError(f"{foreign[0]}: was not written by an earlier run of this program; choose another --out")
    try:
        manifest.unlink(missing_ok=True)
        for path in shards:
            path.unlink()
    except OSError as error:
        raise DataError(f"{out}: cannot replace the shards there: {error.strerror}; choose another --out") from None


def _read_manifest(out: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((out / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def is_prepared(out: str | os.PathLike[str], settings: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a complete folder made with these settings, or None."""
    folder = Path(out)
    manifest = _read_manifest(folder)
    sizes = manifest.get("shards", {})
    whole = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    same = manifest.get("settings") == json.loads(canonical_json(settings)) and (folder / TOKENIZER).is_file()
    return manifest if sizes and whole and same else None


def prepare(config: PrepareConfig, report: Report = _quiet) -> dict[str, Any]:
    """Prepares a folder and returns its manifest; nothing is done when the folder is there already ("skipped": True).

    Raises DataError, ShardError or TokenizerError, naming the file and the remedy, on bad input."""
    if not 0 <= config.val_fraction < 1:
        raise DataError(f"--val-fraction {config.val_fraction}: must be at least 0 and below 1")
    if config.embedded == bool(config.inputs) and not (config.val and config.tokenizer):
        raise DataError("give either text files or folders, or --embedded; see --help")
    out, settings = Path(config.out), _settings(config)
    if manifest := is_prepared(out, settings):
        return {**manifest, "skipped": True}
    train_texts, val_texts, info = _splits(config, report)
    if config.tokenizer:
        model = read_bytes(config.tokenizer)
    else:
        sample = _sample(
            (text for text in train_texts("reading for the tokenizer") if not _is_val(text, _fraction(config))), TOKENIZER_SAMPLE_BYTES
        )
        report("training the tokenizer", 0, 0)
        model = train(sample, config.vocab_size)
    tokenizer = Tokenizer(model)
    train_parts, val_parts = _encode(tokenizer, train_texts("encoding"), _fraction(config))
    if config.val or config.embedded:
        val_parts = _encode(tokenizer, val_texts("encoding val"), 0.0)[0]
    order = permutation(len(train_parts), config.seed, 0)
    manifest = {"settings": settings, "vocab_size": tokenizer.vocab_size, "tokenizer_sha256": hashlib.sha256(model).hexdigest(), **info}
    _write(out, config.name, {"train": [train_parts[i] for i in order], "val": val_parts}, model, manifest, report)
    return manifest


def _fraction(config: PrepareConfig) -> float:
    return 0.0 if config.val or config.embedded else config.val_fraction


def _write(out: Path, name: str, splits: dict[str, list[U16]], model: bytes, manifest: dict[str, Any], report: Report) -> None:
    """Writes shards, tokenizer and, last, the manifest, whose "splits" and "shards" it fills in."""
    counter = TokenBytes.from_model(model)
    _clear(out)
    report("writing", 0, 0)
    manifest["splits"], manifest["shards"] = {}, {}
    for split, parts in splits.items():
        if parts:
            stream = np.concatenate(parts)
            for path in write_shards(out, name, split, stream):
                manifest["shards"][path.name] = path.stat().st_size
            manifest["splits"][split] = {"documents": len(parts), "tokens": len(stream), "bytes": counter.total(stream)}
    if not manifest["shards"]:
        raise DataError(f"{out}: the input holds no documents; give text files or folders with some")
    atomic_write(out / TOKENIZER, model)
    atomic_write(out / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
