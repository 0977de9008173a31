"""Certificate of a score: the text as a real compressed file, decoded by another process that has only artifact and file.

Passed: every token and byte equal, and payload within 0.1 % + 8 bytes a stream of what the probabilities promise.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybrid import artifact, evaluate, stream_coder
from hybrid.adapt import AdaptConfig
from hybrid.bpb import TokenBytes, bits_per_byte
from hybrid.compress import text_bytes
from hybrid.distributed import Ranks
from ngram.container import atomic_write
from ngram.errors import SeedgramError
from ngram.table import U16

SLACK = 0.001  # payload may exceed or undercut the promise by this share …
SLACK_BYTES = 8  # … and so many bytes a stream
DECODE_TIMEOUT_S = 3600


@dataclass(frozen=True)
class CertifyOptions:
    """size_bytes of decoded text to certify; streams 0: by device; stride, online, adapt as in evaluation."""

    size_bytes: int
    streams: int = 0
    stride: int = 0
    online: bool = True
    chunk_tokens: int = 0
    adapt: AdaptConfig | None = None


def certify(path: str, shards: list[Path], out: str, options: CertifyOptions, ranks: Ranks) -> dict[str, Any]:
    """Writes the coded file `out`, decodes it in a separate process, compares; the certificate as a JSON-able dict."""
    art, sha = artifact.load(path), stream_coder.artifact_sha256(path)
    tokens, counted = _prefix(art, shards, options.size_bytes)
    chunk = options.chunk_tokens or art.config.cache.chunk_tokens
    streams = options.streams or stream_coder.STREAMS[ranks.device.type]
    settings = stream_coder.Settings(len(tokens), streams, options.stride, options.online, chunk, "text", told(options.adapt))
    data, coded = stream_coder.encode(art, sha, tokens, settings, ranks.device)
    atomic_write(out, data)
    with tempfile.TemporaryDirectory() as folder:
        decoded = _decode_elsewhere(path, out, Path(folder), ranks.device)
        same_tokens = np.array_equal(np.fromfile(Path(folder) / "tokens", dtype="<u2"), tokens)
        same_bytes = (Path(folder) / "bytes").read_bytes() == text_bytes(art.tokenizer, tokens)
    gap = abs(8 * coded.payload_bytes - coded.bits)
    allowed = SLACK * coded.bits + 8 * SLACK_BYTES * coded.streams
    online = evaluate.EvalOptions(stride=options.stride, chunk_tokens=chunk, online=options.online, adapt=options.adapt)
    in_order = -float(np.log(evaluate.mixed_scores(art, tokens, online, ranks)).sum())
    return {
        "passed": bool(same_tokens and same_bytes and gap <= allowed),
        "tokens_equal": bool(same_tokens),
        "bytes_equal": bool(same_bytes),
        "tokens": len(tokens),
        "bytes": counted,
        "payload_bytes": coded.payload_bytes,
        "header_bytes": coded.header_bytes,
        "promised_bytes": coded.bits / 8,
        "gap_bits": gap,
        "allowed_bits": allowed,
        "streams": coded.streams,
        "certified_bpb": 8 * coded.payload_bytes / counted,
        "eval_bpb": bits_per_byte(in_order, counted),
        "order_costs_bpb": 8 * coded.payload_bytes / counted - bits_per_byte(in_order, counted),
        "stride": options.stride,
        "ttt": asdict(options.adapt) if options.adapt is not None else None,
        "online": options.online,
        "encode_s": coded.wall_s,
        "decode_s": decoded["wall_s"],
        "encode_tokens_per_s": coded.tokens_per_s,
        "decode_tokens_per_s": decoded["tokens_per_s"],
        "encode_seconds": coded.seconds,
        "decode_seconds": decoded["seconds"],
        "artifact_sha256": sha,
        "preset": art.config.preset,
    }


def told(adapt: AdaptConfig | None) -> stream_coder.Told:
    """Test-time training as a coded file's header says it."""
    return () if adapt is None else (adapt.chunk_tokens, float(adapt.rate), float(adapt.decay), adapt.scope)


def text(result: dict[str, Any]) -> str:
    """The certificate for people."""
    word = "PASSED" if result["passed"] else "FAILED"
    same_tokens, same_bytes = ("equal" if result[key] else "DIFFER" for key in ("tokens_equal", "bytes_equal"))
    return "\n".join(
        [
            f"certificate {word}: {result['bytes']:,} bytes of text, {result['tokens']:,} tokens, {result['streams']} streams",
            f"  decoded by a separate process: tokens {same_tokens}, bytes {same_bytes}",
            f"  payload {result['payload_bytes']:,} bytes, promised {result['promised_bytes']:,.1f}; header {result['header_bytes']} bytes",
            f"  {result['certified_bpb']:.4f} bits per byte; eval.py's order on the same text: {result['eval_bpb']:.4f}",
            f"  coded at {result['encode_tokens_per_s']:,.0f} tokens/s, decoded at {result['decode_tokens_per_s']:,.0f}",
            "  decoding, seconds of work: " + ", ".join(f"{part} {spent:.1f}" for part, spent in result["decode_seconds"].items()),
        ]
    )


def _prefix(art: artifact.Artifact, shards: list[Path], size_bytes: int) -> tuple[U16, int]:
    """The shortest prefix of the validation stream that says at least so many bytes, and how many it says."""
    tokens = evaluate.load_tokens(shards, art.config.model.vocab_size, art.config.train.seq_len, "full")
    said = np.cumsum(TokenBytes.from_model(art.tokenizer).count(tokens))
    if said[-1] < size_bytes:
        raise SeedgramError(f"{shards[0]}: the validation text has {said[-1]:,} bytes; lower --bytes {size_bytes:,}")
    last = int(np.searchsorted(said, size_bytes))
    return np.array(tokens[: last + 2]), int(said[last])


def _decode_elsewhere(path: str, out: str, folder: Path, device: torch.device) -> dict[str, Any]:
    """Runs the decoder as its own process in an empty folder; its report."""
    command = [sys.executable, "-m", "hybrid", "decompress", str(Path(out).resolve()), "--artifact", str(Path(path).resolve())]
    command += ["-o", "bytes", "--tokens", "tokens", "--json", "report"]
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])},
        capture_output=True,
        text=True,
        timeout=DECODE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SeedgramError(f"{out}: the decoding process failed with code {done.returncode}: {reason}; the score is not certified")
    report: dict[str, Any] = json.loads((folder / "report").read_text())
    return report
