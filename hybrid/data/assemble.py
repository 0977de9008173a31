"""From encoded documents to a prepared folder: sides, order, shards, indexes, and a look at whether all came out as it went in.

`seedgram prepare` ends with this, and `seedgram prepare merge` is this: parts of one text give the folder that one machine would write.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.data import prepared as folder
from hybrid.data.encoded import MODEL, Documents, Gathered, read_parts, read_state
from hybrid.data.manifest import CHALLENGE, LOSSLESS, MANIFEST, TOKENIZER, read_manifest
from hybrid.data.shards import DataError, Stream, permutation
from hybrid.data.splitting import Sides
from hybrid.data.token_bytes import TokenBytes
from hybrid.data.tokenizer import Tokenizer
from hybrid.data.write_shards import SHARD_TOKENS, write_shards
from ngram.container import atomic_write, read_bytes

Report = Callable[[str, int, int], None]  # (what is being done, done, total): drives a progress bar


def held_out(val_fraction: float, *, val: bool, embedded: bool) -> float:
    """The share of the inputs' documents that is held out: none where there is validation text."""
    return 0.0 if val or embedded else val_fraction


def assemble(parts: Sequence[Path], out: Path, report: Report) -> dict[str, Any]:
    """Writes the prepared folder `out` from all parts of a text and returns its manifest.

    Raises DataError when parts are missing, not complete or of different texts, and as `prepare` does for what cannot be prepared."""
    state = _agreed(parts)
    settings, told = state["of"], state["ended"]
    model = read_bytes(parts[0] / MODEL)
    tokenizer = Tokenizer(model)
    fraction = held_out(settings["val_fraction"], val=bool(settings["val"]), embedded=bool(settings["embedded"]))
    everything = read_parts(parts)
    try:
        sides = Sides(everything, fraction, keep_duplicates=settings["keep_duplicates"])
        shared = sides.settle_overlap(settings["overlap"])
        if fraction > 0:
            sides.hold_out_an_end(tokenizer, fraction)
        _refuse_empty(out, settings, sides, tokenizer)
        splits = {"train": sides.train.take(permutation(len(sides.train), settings["seed"], 0)), "val": sides.val}
        manifest = {
            **told["info"],
            "settings": settings,
            "encoding": told["encoding"],
            "vocab_size": tokenizer.vocab_size,
            "bos": tokenizer.bos,
            "tokenizer_sha256": hashlib.sha256(model).hexdigest(),
            "left_out": {"duplicates": sides.duplicates, **told["left_out"]},
            "files_not_read": told["files_not_read"],
            "overlap": shared,
        }
        _write(out, settings["name"], {split: found for split, found in splits.items() if len(found)}, tokenizer, manifest, report)
    finally:
        everything.files.close()
    return manifest


def _agreed(parts: Sequence[Path]) -> dict[str, Any]:
    """The state that all parts share."""
    states = []
    for place in parts:
        state = read_state(place)
        if state is None or state["ended"] is None:
            raise DataError(f"{place}: holds no complete part; run seedgram prepare --part for it again")
        states.append(state)
    first = states[0]
    for place, state in zip(parts, states, strict=True):
        same = all(state[key] == first[key] for key in ("of", "parts", "ended"))
        if not same or read_bytes(place / MODEL) != read_bytes(parts[0] / MODEL):
            raise DataError(f"{place}: is a part of another text, or was made with other settings, than {parts[0]}; give parts of one text")
    found, wanted = sorted(state["part"] for state in states), list(range(1, first["parts"] + 1))
    if found != wanted:
        missing = sorted(set(wanted) - set(found))
        what = f"part {missing[0]} of {first['parts']} is missing" if missing else "a part is given twice"
        raise DataError(f"{parts[0]}: {what}; give each of the {first['parts']} parts once")
    return first


def _refuse_empty(out: Path, settings: dict[str, Any], sides: Sides, tokenizer: Tokenizer) -> None:
    """Raises DataError when a side that was asked for has no text."""
    wanted = {"training": (sides.train, bool(settings["inputs"])), "validation": (sides.val, bool(settings["val"]))}
    for side, (documents, asked) in wanted.items():
        if asked and not len(documents):
            raise DataError(f"{out}: the {side} input holds no documents; give text files or folders with some")
        if len(documents) and not any(tokenizer.decode_bytes(documents.tokens(place).tolist()).strip() for place in range(len(documents))):
            if side == "validation" and not asked:
                why = f"what --val-fraction {settings['val_fraction']:g} holds out for validation is"
                raise DataError(f"{out}: {why} nothing but white space; give more text, a larger fraction, or validation text with --val")
            raise DataError(f"{out}: the {side} documents hold nothing but white space; give text")


def _clear(out: Path) -> None:
    """Takes away what an earlier run of ours left, the manifest first."""
    found = read_manifest(out)
    try:
        (out / MANIFEST).unlink(missing_ok=True)
        for name in [*found.get("shards", {}), *found.get("files", {})]:
            if Path(name).name == name:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot replace the shards there: {error.strerror}; choose another --out") from None


def _write(out: Path, name: str, splits: dict[str, Documents], tokenizer: Tokenizer, manifest: dict[str, Any], report: Report) -> None:
    """Writes shards, indexes and tokenizer, compares what was written with what was read, and writes the manifest last."""
    counter = TokenBytes.from_model(tokenizer.model, spaces_after_bos=manifest["encoding"] != CHALLENGE)
    _clear(out)
    report("writing", 0, 0)
    manifest["splits"], manifest["shards"], manifest["files"] = {}, {}, {}
    streams: dict[str, Any] = {split: Gathered(documents) for split, documents in splits.items()}  # arrays, as far as writing them goes
    begun = {f"{name}_{split}_{number:06d}.bin": None for split, stream in streams.items() for number in range(-(-len(stream) // SHARD_TOKENS))}
    folder.write_manifest(out, {"incomplete": True, "shards": begun})  # an interrupted run's shards are known for what they are
    for split, documents in splits.items():
        paths = write_shards(out, name, split, streams[split])
        written = Stream(paths)
        _compare(written, documents, tokenizer, manifest["encoding"], report)
        manifest["shards"] |= {path.name: folder.shard_entry(path) for path in paths}
        index = folder.index_name(name, split)
        folder.write_index(out / index, documents.rows["tokens"], documents.rows["bytes"], documents.rows["digest"].tobytes())
        manifest["files"][index] = folder.file_entry(out / index)
        manifest["splits"][split] = {
            "documents": len(documents),
            "tokens": len(written),
            "bytes": folder.bytes_said(counter, written),
            "original_bytes": int(documents.rows["bytes"].sum()),
        }
    atomic_write(out / TOKENIZER, tokenizer.model)
    manifest["files"][TOKENIZER] = folder.file_entry(out / TOKENIZER)
    folder.write_manifest(out, manifest)


def _compare(stream: Stream, documents: Documents, tokenizer: Tokenizer, encoding: str, report: Report) -> None:
    """Raises DataError unless the shards on disk hold the documents: their very bytes, or with a lossy encoding their tokens."""
    ends, digests = np.cumsum(documents.rows["tokens"].astype(np.int64)), documents.rows["digest"]
    for number, end in enumerate(ends.tolist()):
        tokens = stream.read(end - int(documents.rows["tokens"][number]), end)
        if encoding == LOSSLESS:
            said = folder.document_digest(tokenizer.decode_bytes(tokens[1:].tolist()))
            same = said == digests[number].tobytes() and tokens[0] == tokenizer.bos
        else:
            same = np.array_equal(tokens, documents.tokens(number))
        if not same:
            raise DataError(
                f"{stream.paths[0]}: document {number + 1:,} does not come back as it was read; check the disk, and report this if it is whole"
            )
        if number % 1024 == 0:
            report("reading back", number, len(documents))
            folder.let_go(stream)  # else the whole text would seem to be in memory
