"""Text in, shards out: read documents, train a tokenizer where none is given, encode them; assemble.py makes the folder of it.

The same inputs and settings give the same bytes, in one piece or in parts, after an interruption or without.  manifest.py describes the
folder that is written, encoded.py what lies on the disk until then.
"""

import functools
import json
import os
import platform
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hybrid.data import prepared as folder
from hybrid.data import python_docs
from hybrid.data.assemble import assemble, held_out
from hybrid.data.encoded import FILES, TRAIN, VAL, SpaceError, Writer
from hybrid.data.manifest import CHALLENGE, LOSSLESS, LOSSY, read_manifest
from hybrid.data.shards import DataError
from hybrid.data.splitting import OVERLAP, is_val
from hybrid.data.tokenizer import Tokenizer, TokenizerError, train
from ngram.arrays import U16
from ngram.documents import ALL_NAMES, KINDS, KNOWN_NAMES, documents, input_files
from ngram.table import MAX_VOCAB
from ngram.tokenizer import model_of

TOKENIZER_SAMPLE_BYTES = 32_000_000  # text a tokenizer is trained on: more no longer changes a few thousand merges
ENCODED = ".encoded"  # in the folder of the shards, until they are there
MOST_UNREAD = 100  # names of files that were not read, in the manifest

Report = Callable[[str, int, int], None]  # (what is being done, done, total): drives a progress bar
Reader = Callable[[str], Iterator[str]]  # the label to report under → the texts of one side


@dataclass(frozen=True)
class PrepareConfig:
    """What to prepare.  inputs, val: files, folders, pipes or "-"; embedded: the corpus inside Python and NumPy instead of inputs;
    val_fraction: share of documents held out when `val` is empty; field: key or column of the text; kind: what inputs are whose names
    do not say; any_name: read files whose names tell no kind as plain text, in folders those that hold text;
    overlap: what to do with validation documents that are training documents too, one of OVERLAP;
    part, parts: which part of the work to do, from 1, and of how many;
    challenge_encoding: through the tokenizer's normaliser, as the challenge's export does; allow_loss: encode what a tokenizer without
    byte pieces can hold."""

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
    kind: str = "txt"
    any_name: bool = False
    keep_duplicates: bool = False
    overlap: str = "refuse"
    part: int = 1
    parts: int = 1
    challenge_encoding: bool = False
    allow_loss: bool = False

    @property
    def names(self) -> str:
        """Which files are read whose names tell no kind, as documents.find_inputs takes it."""
        return ALL_NAMES if self.any_name else KNOWN_NAMES

    def check(self) -> None:
        """Raises DataError for settings that cannot be carried out, before anything is read."""
        if not 0 <= self.val_fraction < 1:
            raise DataError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1")
        if not 0 <= self.seed < 2**64:
            raise DataError(f"--seed {self.seed}: must be at least 0 and below 2^64")
        if not 1 <= self.vocab_size <= MAX_VOCAB:
            raise DataError(f"--vocab-size {self.vocab_size}: must be 1 to {MAX_VOCAB:,}")
        if not re.fullmatch(r"\w[\w.+-]*", self.name) or len(os.fsencode(self.name)) > 200:
            raise DataError(f"--name {self.name!r}: shards are called after it; use letters, digits and . _ + - only, at most 200 bytes")
        if not 1 <= self.part <= self.parts:
            raise DataError(f"--part {self.part}/{self.parts}: the first number must be 1 to {self.parts}")
        if self.kind not in KINDS.values() or self.overlap not in OVERLAP:
            raise DataError(f"--kind must be one of {', '.join(sorted(set(KINDS.values())))}, --overlap one of {', '.join(OVERLAP)}")
        if self.embedded == bool(self.inputs) and not (self.val and self.tokenizer):
            raise DataError("give either text files or folders, or --embedded; see --help")
        if self.embedded and self.val:
            raise DataError("--embedded has validation text of its own; leave --val out")
        check_out(self.out)


def check_out(out: str) -> None:
    """Raises DataError for a folder that cannot be written, before anything is read."""
    if not out or out.startswith("~"):
        why = "no folder is named" if not out else "the shell leaves ~ as it is here"
        raise DataError(f'--out {out!r}: {why}; write the folder in full, such as --out "$HOME/data"')
    place = Path(os.path.abspath(out))
    while not os.path.lexists(place):
        if len(os.fsencode(place.name)) > 255:
            raise DataError(f"--out {out}: a name of more than 255 bytes; choose a shorter one")
        place = place.parent
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"--out {out}: {place} is no folder that can be written to; choose another --out")


def _quiet(what: str, done: int, total: int) -> None:
    pass


def settings_of(config: PrepareConfig, inputs: list[Path], val: list[Path]) -> dict[str, Any]:
    """Everything the output depends on, with file contents as digests, in the types that JSON gives back: equal settings give equal shards."""
    plain = ("embedded", "val_fraction", "seed", "name", "field", "keep_duplicates", "overlap", "challenge_encoding", "allow_loss")
    settings: dict[str, Any] = {key: getattr(config, key) for key in plain}
    settings["inputs"] = [[path.name, *folder.file_entry(path)] for path in inputs]
    settings["val"] = [[path.name, *folder.file_entry(path)] for path in val]
    model = model_of(config.tokenizer) if config.tokenizer else b""
    settings["tokenizer"] = [len(model), xxhash.xxh3_128_hexdigest(model)] if config.tokenizer else f"bpe {config.vocab_size}"
    if config.embedded:
        settings["embedded"] = (
            f"{platform.python_implementation()} {platform.python_version()}, NumPy {np.__version__}, {python_docs.EDITION}"
        )
    return dict(json.loads(json.dumps(settings)))


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


def _readers(
    config: PrepareConfig, inputs: list[Path], val: list[Path], tally: Counter[str], report: Report
) -> tuple[Reader, Reader, dict[str, Any]]:
    """(training texts, validation texts), and what the manifest says of the source."""
    if config.embedded:
        report("reading documentation", 0, 0)
        everything = python_docs.read_documents()
        parts = python_docs.split(everything)
        info = {"corpus_sha256": python_docs.digest(everything)}
        return (lambda _: (d.text for d in parts[0])), (lambda _: (d.text for d in parts[1])), info

    def reader(paths: list[Path]) -> Reader:
        def read(label: str) -> Iterator[str]:
            counted = tally if label.startswith("encoding") else Counter[str]()  # rows are read twice, and counted once
            return documents(paths, config.field, lambda done, total: report(label, done, total), counted)

        return read

    return reader(inputs), reader(val), {}


def _tokenizer(config: PrepareConfig, read: Reader, fraction: float, report: Report) -> Tokenizer:
    """The one that is given, or one trained on the training documents, each of them once."""
    if config.tokenizer:
        return Tokenizer(config.tokenizer)
    limit = TOKENIZER_SAMPLE_BYTES
    sample = _sample((text for text in _once(read("reading for the tokenizer")) if not is_val(_utf8(text), fraction)), limit)
    sample = sample or _sample(_once(read("reading for the tokenizer")), limit)  # the hash holds everything out: it will be cut
    report("training the tokenizer", 0, 0)
    return Tokenizer(train(sample, config.vocab_size))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _once(texts: Iterator[str]) -> Iterator[str]:
    seen = set[bytes]()
    for text in texts:
        digest = folder.document_digest(_utf8(text))
        if digest not in seen:
            seen.add(digest)
            yield text


def _encoding(config: PrepareConfig, tokenizer: Tokenizer) -> tuple[str, Callable[[Iterator[str]], Iterator[U16]]]:
    """(its name in the manifest, texts → token arrays)."""
    if config.challenge_encoding:
        return CHALLENGE, tokenizer.encode_as_challenge
    if config.allow_loss and not tokenizer.has_all_bytes:
        return LOSSY, lambda texts: tokenizer.encode_documents(texts, allow_loss=True)
    return LOSSLESS, tokenizer.encode_documents


def prepare(config: PrepareConfig, report: Report = _quiet) -> dict[str, Any]:
    """Prepares a folder and returns its manifest; nothing is done when the folder is there already ("skipped": True); one that was prepared
    from other text or with other settings is replaced ("replaced": True).

    With config.parts above 1 the folder holds one part of the encoded documents, which `assemble` joins with the others; what is returned
    then is what the part says of itself.  A call that was killed is gone on with by the next one.
    Raises DataError, ShardError or TokenizerError, naming the file and the remedy, on bad input."""
    config.check()
    out, unread = Path(config.out), list[str]()
    read = functools.partial(input_files, kind=config.kind, unread=unread, names=config.names)
    with read(config.inputs) as inputs, read(config.val) as val:
        settings = settings_of(config, inputs, val)
        found = read_manifest(out)
        if found.get("settings") == settings and folder.is_whole(out, found):
            return {**found, "skipped": True}
        folder.refuse_foreign(out)
        place = out / ENCODED if config.parts == 1 else out
        try:
            writer = Writer(place, settings, config.part, config.parts)
            if writer.ended is None:
                _encode(config, writer, inputs, val, unread, report)
            if config.parts > 1:
                return {"part": config.part, "parts": config.parts, **writer.figures()}
            manifest = assemble([place], out, report)
            shutil.rmtree(place, ignore_errors=True)
            return {**manifest, "replaced": True} if found.get("settings", settings) != settings else manifest
        except (DataError, TokenizerError) as error:
            if not isinstance(error, SpaceError):
                _take_away(place, out)
            raise


def _encode(config: PrepareConfig, writer: Writer, inputs: list[Path], val: list[Path], unread: list[str], report: Report) -> None:
    """Encodes what the part lacks, and notes that it is complete."""
    tally = Counter[str]()
    read_train, read_val, info = _readers(config, inputs, val, tally, report)
    fraction = held_out(config.val_fraction, val=bool(config.val), embedded=config.embedded)
    model = writer.model()  # of a part that was begun: training it again would give the same
    tokenizer = Tokenizer(model) if model else _tokenizer(config, read_train, fraction, report)
    writer.keep_model(tokenizer.model)
    encoding, encode = _encoding(config, tokenizer)
    writer.add(TRAIN, read_train("encoding"), encode)
    writer.add(VAL, read_val("encoding val"), encode)
    left_out = {"null": tally["null"], "empty": tally["empty"], "files": len(unread)}
    writer.end({"info": info, "encoding": encoding, "left_out": left_out, "files_not_read": unread[:MOST_UNREAD]})


def _take_away(place: Path, out: Path) -> None:
    """The encoded documents of text that cannot be prepared, and the folder if it holds nothing else."""
    for name in FILES:
        (place / name).unlink(missing_ok=True)
    for path in (place, out):
        with suppress(OSError):
            path.rmdir()
