"""Tokens ↔ a range-coded file, with the distributions of a hybrid model: any number the project prints, as real bytes.

The file is a container (ngram/container.py): a JSON header of at most MAX_HEADER bytes with all that is around it, and one payload.
There are two orders.  In eval.py's own (streams 0) the tokens are coded one after another with the very rows that eval.py's
figure is made of; its first token is given, in the header.  In the wide order many streams advance side by side, which is fast
(lockstep.py).  In both, ScoreFirst puts predicting, coding and learning in order, and coder and decoder run the same Part.
"""

import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from hybrid.coding import fingerprint
from hybrid.coding.lockstep import Layout, Lockstep
from hybrid.coding.one_by_one import OneByOne
from hybrid.coding.symbols import SymbolDecoder, SymbolEncoder
from hybrid.parallel.ranks import Ranks
from hybrid.scoring.build import network_ahead, predictor_of
from hybrid.scoring.exact import exact
from hybrid.scoring.mixture import Mixture, load_gate
from hybrid.scoring.network import Network
from hybrid.scoring.options import DEFAULTS, AdaptConfig, EvalOptions
from hybrid.scoring.stepwise import network_stepwise, predictor_stepwise
from hybrid.settings.config import ConfigError
from hybrid.storing.artifact import Artifact
from ngram import container
from ngram.arrays import F64, U16
from ngram.blending.warm_up_columns import CODING
from ngram.errors import FileFormatError
from ngram.online.cache import OnlineCache
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst
from ngram.terminal import track

MAGIC = b"SGSTREAM"
VERSION = 6  # 2: test-time training in the settings; 4: eval.py's order, every option, a digest of the original bytes; 5: no decay; 6: no scope
MAX_HEADER = 640  # bytes of everything but the payload
STREAMS = {"cpu": 64, "cuda": 256}  # side by side: enough to keep the device busy, few enough not to lose context
IN_ORDER = 0  # streams of a file in eval.py's order
TOKENS_A_BYTE = 1 << 21  # with 24-bit probabilities a token of two symbols costs at least 5e-6 bits: 1.6 million a byte
MAX_TOKENS = 1 << 30  # a stream; more are several files
KINDS = ("text", "file")  # validation tokens by the challenge's byte accounting; any file, pieces joined as they are
CODED_OPTIONS = ("stride", "chunk_tokens", "cache_by_chunk", "online", "match", "product", "read_tokens", "gate_learns", "adapt")


@dataclass(frozen=True)
class Coded:
    """What a coder or a decoder has done: tokens (n,); bits the probabilities promise; payload and header sizes in bytes;
    each (n,) float64: the bits of every coded token, in the order of coding; original: digest of the bytes that were coded, as hex;
    seconds in all, and tokens a second once everything is compiled (after the first two steps); seconds of work of the
    parts, of which network and cache may go on side by side."""

    tokens: U16
    bits: float
    each: F64
    payload_bytes: int
    header_bytes: int
    streams: int
    kind: str
    original: str
    wall_s: float
    tokens_per_s: float
    seconds: dict[str, float]


class _Clock:
    """Counts the tokens and the time after the first WARM steps, which wait for compilers."""

    WARM = 2

    def __init__(self) -> None:
        self.begin, self.warm, self.tokens, self.coder_s = time.monotonic(), 0.0, 0, 0.0

    @contextmanager
    def coding(self) -> Iterator[None]:
        """The range coder's share."""
        began = time.perf_counter()
        yield
        self.coder_s += time.perf_counter() - began

    def tick(self, step: int, tokens: int) -> None:
        if step == self.WARM:
            self.warm = time.monotonic()
        self.tokens += tokens if step >= self.WARM else 0

    def result(self, parts: dict[str, float]) -> dict[str, Any]:
        now = time.monotonic()
        speed = self.tokens / max(now - self.warm, 1e-9) if self.tokens else 0.0
        return {"wall_s": now - self.begin, "tokens_per_s": speed, "seconds": {**parts, "coder": self.coder_s}}


@dataclass(frozen=True)
class Settings:
    """What the decoder needs to know beside artifact and payload.

    n: tokens.  s: most streams, or IN_ORDER.  first: the token that is given where IN_ORDER.  options: how to score."""

    n: int
    s: int
    kind: str
    options: EvalOptions = DEFAULTS
    first: int = 0

    def to_json(self) -> dict[str, Any]:
        """Options only where they differ from the defaults: a header is counted."""
        told = {name: getattr(self.options, name) for name in CODED_OPTIONS if getattr(self.options, name) != getattr(DEFAULTS, name)}
        if self.options.adapt is not None:
            told["adapt"] = list(asdict(self.options.adapt).values())
        return {"n": self.n, "s": self.s, "kind": self.kind, "first": self.first, "opt": told}

    @classmethod
    def from_json(cls, data: Any) -> "Settings":
        """Raises KeyError, TypeError, ValueError or ConfigError where `data` is no such thing."""
        told = dict(data["opt"])
        if {name: type(data[name]) for name in ("n", "s", "kind", "first")} != {"n": int, "s": int, "kind": str, "first": int}:
            raise ValueError("settings of another kind")
        if "adapt" in told:
            if [type(value) for value in told["adapt"]] != [type(field.default) for field in fields(AdaptConfig)]:
                raise ConfigError(f"test-time training of {told['adapt']}")
            told["adapt"] = AdaptConfig(*told["adapt"])
        for name, value in told.items():
            if name not in CODED_OPTIONS or name != "adapt" and type(value) is not type(getattr(DEFAULTS, name)):
                raise ValueError(f"option {name} of {value!r}")
        return cls(data["n"], data["s"], data["kind"], EvalOptions(**told), data["first"])


def encode(art: Artifact, artifact_sha: str, tokens: U16, settings: Settings, device: torch.device, original: bytes) -> tuple[bytes, Coded]:
    """The file's bytes.  tokens (n,) uint16 below the vocabulary; original: the bytes that they stand for, of which the file keeps a digest."""
    clock, coder, each = _Clock(), SymbolEncoder(), list[F64]()
    if settings.s == IN_ORDER:
        settings = dataclasses.replace(settings, first=int(tokens[0]))
    with exact(), _opened(art, settings, device, tokens) as (order, part):
        text = order.tokens.reshape(len(order.tokens), -1)
        for t in track(range(1, len(order.tokens) if settings.n else 0), "coding"):
            active = part.active(t)
            clock.tick(t, len(active))
            step = row_at(order, t)["part"]
            with clock.coding():
                coder.give(step, active, text[t, active].astype(np.int64))
            each.append(_advance(order, t))
        made = clock.result(part.seconds)
        streams = text.shape[1]
    payload = coder.payload() if settings.n else b""
    digest = digest_of(original)
    header = {"set": settings.to_json(), "art": artifact_sha[:32], "sha": digest, "fp": fingerprint.fingerprint(device), "dev": device.type}
    data = container.pack(MAGIC, VERSION, header, {"p": payload})
    if len(data) - len(payload) > MAX_HEADER:
        raise ValueError(f"header of {len(data) - len(payload)} bytes")
    bits = -np.log2(np.concatenate([np.ones(0), *each]))
    return data, Coded(tokens, coder.bits, bits, len(payload), len(data) - len(payload), streams, settings.kind, digest, **made)


def decode(art: Artifact, artifact_sha: str, data: bytes, where: str) -> Coded:
    """The tokens of a file.  Raises FileFormatError or FingerprintError, naming the file `where` and the reason."""
    clock, each = _Clock(), list[F64]()
    settings, digest, device, payload = read_header(data, where, artifact_sha)
    if settings.n == 0:
        return Coded(np.zeros(0, np.uint16), 0.0, np.zeros(0), 0, len(data), 0, settings.kind, digest, **clock.result({}))
    decoder = SymbolDecoder(payload)
    with exact(), _opened(art, settings, device) as (order, part):
        text = order.tokens.reshape(len(order.tokens), -1)
        for t in track(range(1, len(order.tokens)), "decoding"):
            active = part.active(t)
            clock.tick(t, len(active))
            step = row_at(order, t)["part"]
            with clock.coding():
                try:
                    text[t, active] = decoder.take(step, active)
                except ValueError as error:
                    raise FileFormatError(f"{where}: payload does not decode ({error}); copy the file again") from None
            each.append(_advance(order, t))
        tokens = part.text(order.tokens)
        made, streams = clock.result(part.seconds), text.shape[1]
    if not decoder.exhausted:
        raise FileFormatError(f"{where}: payload goes on after its last token; copy the file again")
    bits = -np.log2(np.concatenate(each))
    return Coded(tokens, decoder.bits, bits, len(payload), len(data) - len(payload), streams, settings.kind, digest, **made)


def read_header(data: bytes, where: str, artifact_sha: str) -> tuple[Settings, str, torch.device, bytes]:
    """Settings, digest of the original bytes, device and payload, after checking artifact and machine."""
    header, sections = container.unpack(data, MAGIC, VERSION, where)
    try:
        settings, payload = Settings.from_json(header["set"]), sections["p"]
        inside = 0 <= settings.n <= MAX_TOKENS and 0 <= settings.s <= 1 << 16 and 0 <= settings.first < 1 << 16
        if settings.kind not in KINDS or len(payload) % 4 or not inside:
            raise ValueError("settings out of range")
        if settings.s == IN_ORDER and settings.n < 2:
            raise ValueError(f"{settings.n} tokens in order, the first of them given")
        if settings.n > TOKENS_A_BYTE * len(payload):
            raise ValueError(f"{len(payload)} bytes claim to hold {settings.n:,} tokens")
        if header["dev"] not in STREAMS:
            raise ValueError("unknown device")
        stored, art, digest = dict(header["fp"]), str(header["art"]), str(header["sha"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise FileFormatError(f"{where}: malformed header ({error}); make the file again") from None
    check_artifact(art, artifact_sha, where)
    if header["dev"] == "cuda" and not torch.cuda.is_available():
        raise fingerprint.FingerprintError(f"{where}: made on {stored.get('d')} and there is no CUDA device here; decode it where there is one")
    device = torch.device(header["dev"])
    fingerprint.check(stored, device, where)
    return settings, digest, device, payload


def digest_of(original: bytes) -> str:
    """What a coded file keeps of the bytes that were coded: half of their SHA-256, as hex."""
    return hashlib.sha256(original).hexdigest()[:32]


def check_artifact(stored: str, artifact_sha: str, where: str) -> None:
    """Raises FileFormatError unless the coded file `where` was made with this artifact.  stored: the beginning of its SHA-256."""
    if stored != artifact_sha[:32]:
        raise FileFormatError(f"{where}: made with another artifact (sha256 {stored[:32]}…, this one is {artifact_sha[:32]}…); give that one")


def check_original(coded: Coded, found: bytes, where: str) -> None:
    """Raises FileFormatError unless the decoded bytes are those that were coded."""
    if digest_of(found) != coded.original:
        raise FileFormatError(f"{where}: decodes to other bytes than were coded, nothing is written; decode it on the kind of machine that made it")


def artifact_sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of an artifact's file: which one a stream was made with."""
    return hashlib.sha256(container.read_bytes(path)).hexdigest()


def _advance(order: ScoreFirst, t: int) -> F64:
    """Scores position t and lets the part learn it, where it does; (A,) probabilities."""
    result: F64 = (order.score if order.frozen else order.score_then_update)(t, t + 1)["part"]
    return result


@contextmanager
def _opened(art: Artifact, settings: Settings, device: torch.device, tokens: U16 | None = None) -> Iterator[tuple[ScoreFirst, Lockstep | OneByOne]]:
    """The Part for these settings and the ScoreFirst that drives it; tokens: the text, None: it is yet to be decoded."""
    for work in CODING if art.table is not None else ():  # no step waits for a compiler; nothing to do where it was done
        work()
    options = settings.options
    part: Lockstep | OneByOne
    if settings.s == IN_ORDER:
        options, ranks = dataclasses.replace(options, exact=True), Ranks(0, 1, device)
        stream = np.full(settings.n, settings.first, np.uint16) if tokens is None else tokens
        network: Network = network_stepwise(art, settings.n, options, ranks) if tokens is None else network_ahead(art, tokens, options, ranks)
        part = OneByOne((predictor_stepwise if tokens is None else predictor_of)(art, network, options))
    else:
        layout = Layout.plan(settings.n, settings.s, art.config.train.seq_len)
        stream = layout.columns(np.zeros(settings.n, np.uint16) if tokens is None else tokens)
        part = _lockstep(art, options, layout, device)
    try:
        yield ScoreFirst(stream, {"part": part}, frozen=not options.online), part
    finally:
        part.close()


def _lockstep(art: Artifact, options: EvalOptions, layout: Layout, device: torch.device) -> Lockstep:
    cache = mixture = None
    if art.table is not None:
        gate, chunk = load_gate(art.gate, learning=options.online and options.gate_learns), options.chunk_tokens or art.config.cache.chunk_tokens
        cache, mixture = OnlineCache(art.table), Mixture(gate, chunk, match=options.match and options.online, product=options.product)
    seq_len = art.config.train.seq_len
    return Lockstep(art.model, cache, mixture, layout, seq_len=seq_len, stride=options.stride, device=device, adapt=options.adapt)
