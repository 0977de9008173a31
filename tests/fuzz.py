"""Mutation fuzzer of everything that reads files.  Checksums are repaired, so that mutants reach the parsers behind them.

    python tests/fuzz.py [--inputs 100000] [--parsers artifact codec …] [--seed 0] [--json F]

A mutant must be read, or refused with a SeedgramError, within LIMIT_S of processor time and ROOM bytes of new address space.
Input i of a parser is a function of (parser, seed, i): a report can be repeated with --first i --inputs 1.  The command runs the
inputs in forked processes, so that a crash of a library is counted, too; tests/test_fuzz.py runs a sample in its own process.
How a mutant is made is in tests/mutants.py; here are the parsers, the files they are given mutants of, and the run.
"""

import argparse
import ctypes
import gzip
import json
import lzma
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zstandard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hybrid import artifact, bpb, checkpoint, codecs, data, documents, evaluate, stream_coder, tokenizer
from hybrid.blend import GATE_FEATURES
from ngram import arpa, arpa_reader, codec, container, gate, gate_fit, model_file
from ngram.cache import NgramCache
from ngram.errors import SeedgramError
from ngram.text import TextTokenizer
from tests import tiny
from tests.mutants import Sealed, mutate_bytes, mutate_text

LIMIT_S = 1.0  # of processor time: the machine may be busy with other things
ROOM = 256 << 20  # of address space; all seeds are files of at most 200 kB, whose honest need is below 128 MiB
BATCH = 500  # inputs a forked process


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
        sealed.sections[name] = codecs.decompress(section, chosen, size)
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
    settings = stream_coder.Settings(len(tokens), 4, 0, True, 4, "file")
    coded, _ = stream_coder.encode(art, sha, tokens, settings, torch.device("cpu"))

    def read(file: Path) -> object:
        # what is decoded may be long where the header says so, and rightly: payloads beyond the end read as zeros
        found, _, _ = stream_coder.read_header(file.read_bytes(), str(file), sha)
        return stream_coder.decode(art, sha, file.read_bytes(), str(file)) if found.n <= 64 else None

    return coded, read


def build(folder: Path) -> dict[str, Parser]:
    """All parsers, with seeds written into `folder`."""
    model = tiny.tokenizer_bytes()
    tiny.write_artifact(folder / "artifact.bin", documents=4)
    counts = NgramCache(tiny.VOCAB, (2, 4))
    counts.count_stream(tiny.stream(seed=1, count=4))
    table, run = counts.table(), counts.run()
    code, text = codec.encode(table), TextTokenizer(model, "seed")
    arpa.export_arpa(table, folder / "seed.arpa")
    model_file.write_counts(folder / "seed.counts", model_file.Counts(run, text, run.total()))
    gate_bytes = gate_fit.fallback(GATE_FEATURES, rate=0.5).to_bytes()
    data.write_shard(folder / "seed.bin", tiny.stream(seed=2, count=2))
    weights = [torch.arange(6.0).reshape(2, 3), torch.ones(3, dtype=torch.bfloat16)]
    tree = {"step": 3, "flags": [True, None, "x"], "p": weights, "o": {0: {"m": torch.tensor(2.5)}}}
    checkpoint.save(folder / "seed.checkpoint", *checkpoint.snapshot(tree))
    sealed = {
        "container": Sealed(b"FUZZSEED", 1, {"a": [1, {"b": 2.5}], "c": "text"}, {"x": b"12345678", "y": b"", "z": bytes(40)}),
        "artifact": _unpacked(folder / "artifact.bin"),
        "model": _with_plain_tokenizer(model_file.model_bytes(code, text), model),
        "counts": _with_plain_tokenizer((folder / "seed.counts").read_bytes(), model),
        "checkpoint": Sealed.open((folder / "seed.checkpoint").read_bytes()),
    }
    coded, read_stream = _coded_stream(folder, folder / "artifact.bin")
    sealed["stream"] = Sealed.open(coded)
    readers: dict[str, Callable[[Path], object]] = {
        "container": lambda path: container.unpack(path.read_bytes(), b"FUZZSEED", 1, str(path)),
        "artifact": lambda path: _whole_artifact(path),
        "model": model_file.read_model,
        "counts": model_file.read_counts,
        "checkpoint": checkpoint.load,
        "stream": read_stream,
    }
    parsers = {name: Parser(readers[name], seed.mutant, seed.sound()) for name, seed in sealed.items()}
    plain: dict[str, tuple[bytes, Callable[[Path], object], Callable[[bytes, random.Random], bytes]]] = {
        "codec": (code, lambda path: codec.decode(path.read_bytes()), mutate_bytes),
        "gate": (gate_bytes, lambda path: gate.Gate.from_bytes(path.read_bytes(), GATE_FEATURES), mutate_bytes),
        "arpa": ((folder / "seed.arpa").read_bytes(), lambda path: arpa_reader.import_arpa(path, bos=1), mutate_text),
        "shard": ((folder / "seed.bin").read_bytes(), lambda path: int(data.read_shard(path, tiny.VOCAB).sum()), mutate_bytes),
        "tokenizer": (model, lambda path: tokenizer.load(path).encode_bytes(b"a \xff text\n"), mutate_bytes),
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
    bpb.TokenBytes.from_model(art.tokenizer)
    return evaluate.load_gate(art, learning=True)


def complaint(parser: Parser, data: bytes, path: Path) -> str | None:
    """What is wrong with how the parser took these bytes; None when it read or refused them as it should."""
    path.write_bytes(data)
    begin = time.process_time()
    try:
        parser.read(path)
    except SeedgramError as error:
        if "\n" in str(error).strip() or len(str(error)) > 2000:
            return f"a message of several lines: {error!r}"
    except MemoryError:
        return "more than ROOM bytes: " + traceback.format_exc(limit=-3)
    except BaseException:
        return traceback.format_exc(limit=-4)
    spent = time.process_time() - begin
    return f"{spent:.2f} s" if spent > LIMIT_S else None


@contextmanager
def limited_memory(room: int = ROOM) -> Iterator[None]:
    """Inside, allocations fail that need `room` bytes of address space more than there is now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attack(name: str, parser: Parser, seed: int, numbers: range, folder: Path) -> list[tuple[int, str]]:
    """(input, complaint) of every input that was not taken as it should be."""
    found = []
    parser.read(_written(folder / f"seed-{name}", parser.seed))  # compiles; must not count as slow
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in numbers:
            words = complaint(parser, parser.mutant(random.Random(f"{name}/{seed}/{number}")), folder / name)
            if words is not None:
                found.append((number, words))
    return found


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def isolated(name: str, parser: Parser, seed: int, numbers: range, folder: Path) -> list[tuple[int, str]]:
    """`attack` in a forked process; a crash becomes a complaint about the input at work, and the rest goes on."""
    found: list[tuple[int, str]] = []
    at = numbers.start
    while at < numbers.stop:
        report = folder / f"{name}.report"
        child = os.fork()
        if not child:
            try:
                for number in range(at, numbers.stop):
                    with report.open("a") as file:
                        file.write(f"{number}\n")
                    for _, words in attack_one(name, parser, seed, number, folder):
                        with report.open("a") as file:
                            file.write(json.dumps([number, words]) + "\n")
                os._exit(0)
            except BaseException:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        lines = report.read_text().splitlines()
        report.unlink()
        found += [tuple(json.loads(line)) for line in lines if line.startswith("[")]
        last = max(int(line) for line in lines if not line.startswith("["))
        if status:
            found.append((last, f"the process died with status {status}"))
        at = last + 1
    return found


def attack_one(name: str, parser: Parser, seed: int, number: int, folder: Path) -> list[tuple[int, str]]:
    with limited_memory(), warnings.catch_warnings():
        warnings.simplefilter("error")
        words = complaint(parser, parser.mutant(random.Random(f"{name}/{seed}/{number}")), folder / name)
    return [] if words is None else [(number, words)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs a parser")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--parsers", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: a thread's own arena would take address space that no input asked for
    results: dict[str, Any] = {}
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a file a mutant: disks would take most of the time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        folder = Path(place)
        parsers = build(folder)
        for name in flags.parsers or parsers:
            parsers[name].read(_written(folder / f"seed-{name}", parsers[name].seed))
            begin, found = time.monotonic(), []
            for start in range(flags.first, flags.first + flags.inputs, BATCH):
                found += isolated(name, parsers[name], flags.seed, range(start, min(start + BATCH, flags.first + flags.inputs)), folder)
            kinds = {words.strip().splitlines()[-1][:200]: number for number, words in found}
            results[name] = {"inputs": flags.inputs, "complaints": len(found), "seconds": round(time.monotonic() - begin, 1), "kinds": kinds}
            print(f"{name}: {json.dumps(results[name])}", flush=True)
            if flags.inputs == 1 and found:
                print(found[0][1])
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(result["complaints"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
