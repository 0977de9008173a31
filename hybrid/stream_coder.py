"""Tokens ↔ a range-coded file, with the distributions of a hybrid model: any number the project prints, as real bytes.

The file is a container (ngram/container.py): a JSON header of at most 512 bytes with all that is around it, and one payload.
Coder and decoder run the same Lockstep; a column's symbols go through constriction's range coder in two vectorised calls, the
bucket of 32 tokens, then the token in it, each with 24-bit probabilities.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import constriction
import numpy as np
import numpy.typing as npt
import torch

from hybrid import evaluate, fingerprint
from hybrid.adapt import AdaptConfig
from hybrid.config import ConfigError
from hybrid.lockstep import BUCKET, Layout, Lockstep, Step
from ngram import container
from ngram.cli import track
from ngram.errors import FileFormatError
from ngram.gate import F64
from ngram.online import OnlineCache
from ngram.table import U16
from ngram.warm_up import CODING

if TYPE_CHECKING:
    from hybrid.artifact import Artifact

MAGIC = b"SGSTREAM"
VERSION = 3  # 2: test-time training in the settings; 3: its scope
MAX_HEADER = 512  # bytes of everything but the payload
STREAMS = {"cpu": 64, "cuda": 256}  # side by side: enough to keep the device busy, few enough not to lose context
TOKENS_A_BYTE = 1 << 21  # with 24-bit probabilities a token of two symbols costs at least 5e-6 bits: 1.6 million a byte
MAX_TOKENS = 1 << 30  # a stream; more are several files
Told = tuple[()] | tuple[int, float, float, str]  # test-time training as a header says it
KINDS = ("text", "file")  # validation tokens by the challenge's byte accounting; any file, pieces joined as they are


@dataclass(frozen=True)
class Coded:
    """What a coder or a decoder has done: tokens (n,); bits the probabilities promise; payload and header sizes in bytes;
    seconds in all, and tokens a second once everything is compiled (after the first two columns); seconds of work of the
    parts "network", "cache", "gate", "product", "mix" and "coder", of which the first two go on side by side."""

    tokens: U16
    bits: float
    payload_bytes: int
    header_bytes: int
    streams: int
    kind: str
    wall_s: float
    tokens_per_s: float
    seconds: dict[str, float]


class _Clock:
    """Counts the tokens and the time after the first WARM columns, which wait for compilers."""

    WARM = 2

    def __init__(self) -> None:
        self.begin, self.warm, self.tokens, self.coder_s = time.monotonic(), 0.0, 0, 0.0

    @contextmanager
    def coding(self) -> Iterator[None]:
        """The range coder's share."""
        began = time.perf_counter()
        yield
        self.coder_s += time.perf_counter() - began

    def tick(self, column: int, tokens: int) -> None:
        if column == self.WARM:
            self.warm = time.monotonic()
        self.tokens += tokens if column >= self.WARM else 0

    def result(self, parts: dict[str, float]) -> dict[str, Any]:
        now = time.monotonic()
        speed = self.tokens / max(now - self.warm, 1e-9) if self.tokens else 0.0
        return {"wall_s": now - self.begin, "tokens_per_s": speed, "seconds": {**parts, "coder": self.coder_s}}


@dataclass(frozen=True)
class Settings:
    """What the decoder needs to know beside artifact and payload.  n tokens, s most streams, stride, o online, g gate chunk,
    t test-time training (chunk tokens, rate, decay, scope) or nothing."""

    n: int
    s: int
    stride: int
    o: bool
    g: int
    kind: str
    t: Told = ()

    def adapt(self) -> AdaptConfig | None:
        """Raises ConfigError where t is no such thing."""
        if not self.t:
            return None
        if [type(value) for value in self.t] != [int, float, float, str]:
            raise ConfigError(f"test-time training of {self.t}")
        return AdaptConfig(*self.t)


def encode(art: "Artifact", artifact_sha: str, tokens: U16, settings: Settings, device: torch.device) -> tuple[bytes, Coded]:
    """The file's bytes.  tokens (n,) uint16 below the vocabulary."""
    clock, layout = _Clock(), _layout(art, settings)
    columns = layout.cut(tokens)
    coder, bits = constriction.stream.queue.RangeEncoder(), 0.0
    family = constriction.stream.model.Categorical(perfect=False)
    with Exact(device), _Closing(_lockstep(art, settings, layout, device)) as lockstep:
        for column in track(range(layout.length if settings.n else 0), "coding"):
            active = layout.active(column)
            clock.tick(column, len(active))
            step, came = lockstep.predict(), columns[active, column].astype(np.int64)
            with clock.coding():
                bits += encode_column(coder, family, step, active, came)
            lockstep.learn(columns[:, column])
        made = clock.result(lockstep.seconds)
    payload = coder.get_compressed().astype("<u4").tobytes() if settings.n else b""
    header = {"set": asdict(settings), "art": artifact_sha[:32], "fp": fingerprint.fingerprint(device), "dev": device.type}
    data = container.pack(MAGIC, VERSION, header, {"p": payload})
    if len(data) - len(payload) > MAX_HEADER:
        raise ValueError(f"header of {len(data) - len(payload)} bytes")
    return data, Coded(tokens, bits, len(payload), len(data) - len(payload), layout.streams, settings.kind, **made)


def decode(art: "Artifact", artifact_sha: str, data: bytes, where: str) -> Coded:
    """The tokens of a file.  Raises FileFormatError or FingerprintError, naming the file `where` and the reason."""
    clock = _Clock()
    settings, device, payload = read_header(data, where, artifact_sha)
    layout = _layout(art, settings)
    if settings.n == 0:
        return Coded(np.zeros(0, np.uint16), 0.0, 0, len(data), 0, settings.kind, **clock.result({}))
    decoder, bits = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32)), 0.0
    family = constriction.stream.model.Categorical(perfect=False)
    with Exact(device), _Closing(_lockstep(art, settings, layout, device)) as lockstep:
        for column in track(range(layout.length), "decoding"):
            active = layout.active(column)
            clock.tick(column, len(active))
            step = lockstep.predict()
            with clock.coding():
                try:
                    bucket = decoder.decode(family, np.ascontiguousarray(step.mass[active])).astype(np.int64)
                    came = bucket * BUCKET + decoder.decode(family, _inside(step, active, bucket))
                except AssertionError:  # constriction's word for code words that no encoder writes
                    came = np.array([lockstep.vocab_size])
                if came.max() >= lockstep.vocab_size:
                    raise FileFormatError(f"{where}: payload does not decode; copy the file again")
                bits -= float(np.log2(step.mixed[active, came]).sum())
            symbols = np.zeros(layout.streams, dtype=np.uint16)
            symbols[active] = came
            lockstep.learn(symbols)
        tokens = lockstep.tokens.reshape(-1)[: settings.n].copy()
        made = clock.result(lockstep.seconds)
    if not decoder.maybe_exhausted():
        raise FileFormatError(f"{where}: payload goes on after its last token; copy the file again")
    return Coded(tokens, bits, len(payload), len(data) - len(payload), layout.streams, settings.kind, **made)


def read_header(data: bytes, where: str, artifact_sha: str) -> tuple[Settings, torch.device, bytes]:
    """Settings, device and payload, after checking artifact and machine."""
    header, sections = container.unpack(data, MAGIC, VERSION, where)
    try:
        settings, payload = Settings(**{**header["set"], "t": tuple(header["set"]["t"])}), sections["p"]
        types = {name: type(value) for name, value in asdict(settings).items()}
        if types != {"n": int, "s": int, "stride": int, "o": bool, "g": int, "kind": str, "t": tuple} or settings.kind not in KINDS:
            raise ValueError("settings of another kind")
        if len(payload) % 4 or not (0 <= settings.n <= MAX_TOKENS and 1 <= settings.s <= 1 << 16 and settings.g > 0 and settings.stride >= 0):
            raise ValueError("settings out of range")
        if settings.n > TOKENS_A_BYTE * len(payload):
            raise ValueError(f"{len(payload)} bytes claim to hold {settings.n:,} tokens")
        if header["dev"] not in STREAMS:
            raise ValueError("unknown device")
        settings.adapt()
        stored, art = dict(header["fp"]), str(header["art"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise FileFormatError(f"{where}: malformed header ({error}); make the file again") from None
    if art != artifact_sha[:32]:
        raise FileFormatError(f"{where}: made with another artifact (sha256 {art[:32]}…, this one is {artifact_sha[:32]}…); give that one")
    if header["dev"] == "cuda" and not torch.cuda.is_available():
        raise fingerprint.FingerprintError(f"{where}: made on {stored.get('d')} and there is no CUDA device here; decode it where there is one")
    device = torch.device(header["dev"])
    fingerprint.check(stored, device, where)
    return settings, device, payload


def artifact_sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of an artifact's file: which one a stream was made with."""
    return hashlib.sha256(container.read_bytes(path)).hexdigest()


def encode_column(coder: Any, family: Any, step: Step, active: npt.NDArray[np.int64], came: npt.NDArray[np.int64]) -> float:
    """Gives constriction's `coder` the tokens `came` (A,) of the streams `active`; the bits that the probabilities promise."""
    bucket = came // BUCKET
    coder.encode(bucket.astype(np.int32), family, np.ascontiguousarray(step.mass[active]))
    coder.encode((came % BUCKET).astype(np.int32), family, _inside(step, active, bucket))
    return -float(np.log2(step.mixed[active, came]).sum())


def _inside(step: Step, active: Any, bucket: Any) -> F64:
    """(A, BUCKET) probabilities of the tokens in each active stream's bucket; zero beyond the vocabulary."""
    vocab_size = step.mixed.shape[1]
    columns = bucket[:, None] * BUCKET + np.arange(BUCKET)
    inside = step.mixed[active[:, None], np.minimum(columns, vocab_size - 1)]
    inside[columns >= vocab_size] = 0.0
    return np.ascontiguousarray(inside)


def _layout(art: "Artifact", settings: Settings) -> Layout:
    return Layout.plan(settings.n, settings.s, art.config.train.seq_len)


def _lockstep(art: "Artifact", settings: Settings, layout: Layout, device: torch.device) -> Lockstep:
    for work in CODING if art.table is not None else ():  # no column waits for a compiler; nothing to do where it was done
        work()
    cache = OnlineCache(art.table) if art.table is not None else None
    gate = evaluate.load_gate(art, learning=settings.o) if cache is not None else None
    return Lockstep(
        art.model,
        cache,
        gate,
        layout,
        seq_len=art.config.train.seq_len,
        stride=settings.stride,
        online=settings.o,
        chunk_tokens=settings.g,
        device=device,
        adapt=settings.adapt(),
    )


class _Closing:
    def __init__(self, lockstep: Lockstep) -> None:
        self.lockstep = lockstep

    def __enter__(self) -> Lockstep:
        return self.lockstep

    def __exit__(self, *_: object) -> None:
        self.lockstep.close()


class Exact:
    """One way to compute: full float32, no autotuning, one thread for torch (its work is small, and threads may split sums)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.threads = torch.get_num_threads()
        self.tf32 = torch.backends.cuda.matmul.allow_tf32
        self.benchmark = torch.backends.cudnn.benchmark
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = False

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = self.benchmark
