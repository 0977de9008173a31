"""Certificate of a score: the text as a real compressed file, decoded by another process that has only artifact and file.

Two files are made.  One is in eval.py's own order, over the beginning of the text: eval.py is run on that stretch as a user would, and
the certificate fails unless each of its printed bits is what the coder's distribution promised.  The other is in the wide order, over
more of the text, because it is fast; the difference between the two orders is reported.

Passed: every token and byte equal, each payload within 0.01 % + 16 bytes of what the probabilities promise, and eval.py's figure is
that of the promised bits over the decoded bytes.

Shapes: N tokens of a stretch.
"""

import dataclasses
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

from hybrid.coding import stream_coder
from hybrid.coding.stream_coder import IN_ORDER, Coded, Settings
from hybrid.data.decoded_text import check_documents, is_exact, said_by
from hybrid.data.shards import find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import DEFAULTS, EvalOptions
from hybrid.scoring.printed import ROOT, Printed, run_eval
from hybrid.storing import artifact
from ngram.arrays import U16
from ngram.container import atomic_write
from ngram.errors import SeedgramError
from ngram.terminal import stage

SLACK = 0.0001  # payload may exceed or undercut the promise by this share …
SLACK_BYTES = 16  # … and so many bytes in all
SAME_BITS = 1e-6  # of a target, printed and promised, and of their sums, relative
OTHER_BATCH = 5e-4  # relative difference of the sums when windows are batched otherwise: bfloat16 on CUDA
ORDER_BYTES = {"cuda": 65536, "cpu": 4096}  # in eval.py's order: every token is a pass of the network for the decoder
DECODE_TIMEOUT_S = 7200


@dataclass(frozen=True)
class CertifyOptions:
    """size_bytes of decoded text to certify; order_bytes: of its beginning, in eval.py's order, -1: by device, 0: none; streams 0: by device;
    ranks: processes that eval.py is run with."""

    size_bytes: int
    order_bytes: int = -1
    streams: int = 0
    options: EvalOptions = DEFAULTS
    ranks: int = 1


@dataclass(frozen=True)
class Stretch:
    """Tokens (N,) of the text's beginning, the bytes that they say, whole documents among them that are those that were read, and how
    a decoder joins the pieces: "file" as they are, "text" without a space after BOS, as the challenge counts bytes."""

    tokens: U16
    said: bytes
    documents: int = 0
    kind: str = "text"


def certify(path: str, data: str, out: str, wanted: CertifyOptions, ranks: Ranks) -> dict[str, Any]:
    """Codes `out` and `out`.order, decodes them in separate processes, compares; the certificate as a JSON-able dict.

    The files are written when everything has passed: nothing of their names is there that was not proven."""
    art, device = artifact.load(path), ranks.device
    order_bytes = ORDER_BYTES[device.type] if wanted.order_bytes < 0 else wanted.order_bytes
    whole = _stretch(art, data, wanted.size_bytes, wanted.options)
    streams = wanted.streams or stream_coder.STREAMS[device.type]
    files: dict[str, bytes] = {}
    wide, _, files[out] = _code(path, art, whole, out, streams, wanted.options, device)
    printed = run_eval(path, data, dataclasses.replace(wanted.options, max_tokens=len(whole.tokens)), device, wanted.ranks)
    artifact_bytes = os.path.getsize(path)
    faults = [*wide.pop("faults"), printed.fault(len(whole.tokens) - 1, len(whole.said), artifact_bytes)]
    in_order = None
    if order_bytes:
        part = _stretch(art, data, min(order_bytes, len(whole.said)), wanted.options)
        name = f"{out}.order"
        in_order, coded, files[name] = _code(path, art, part, name, IN_ORDER, wanted.options, device)
        exactly = run_eval(path, data, dataclasses.replace(wanted.options, max_tokens=len(part.tokens), exact=True), device, wanted.ranks)
        faults += [*in_order.pop("faults"), *_compare(exactly, printed, coded, part, artifact_bytes)]
        in_order["printed_bpb"] = exactly.bpb
    faults = [fault for fault in faults if fault]
    if not faults:
        for name, content in files.items():
            atomic_write(name, content)
    eval_bpb = float(printed.bits.sum()) / len(whole.said)
    return {
        "passed": not faults,
        "faults": faults,
        **wide,
        "eval_bpb": eval_bpb,
        "order_costs_bpb": wide["certified_bpb"] - eval_bpb,
        "in_order": in_order,
        "options": asdict(wanted.options),
        "artifact_sha256": stream_coder.artifact_sha256(path),
        "preset": art.config.preset,
    }


def _compare(exactly: Printed, printed: Printed, coded: Coded, part: Stretch, artifact_bytes: int) -> list[str]:
    """Why the figures of eval.py over the stretch in its order are not what the coder promised; empty strings where they are.

    exactly: by one window at a time, as the coder; printed: as eval.py does by default, over more text."""
    targets = len(part.tokens) - 1
    faults = [exactly.fault(targets, len(part.said), artifact_bytes)]
    if not faults[0]:
        apart = np.abs(exactly.bits - coded.each)
        if not apart.max() <= SAME_BITS * np.maximum(1, coded.each[apart.argmax()]):
            faults.append(f"position {int(apart.argmax()) + 1}: eval.py's {exactly.bits[apart.argmax()]!r} bits, {coded.each[apart.argmax()]!r} promised")
        if not abs(exactly.bits.sum() - coded.bits) <= SAME_BITS * coded.bits:
            faults.append(f"eval.py's bits of the stretch sum to {exactly.bits.sum()!r}, {coded.bits!r} were promised")
    same = slice(0, min(targets, len(printed.bits)))
    if not abs(printed.bits[same].sum() - coded.each[same].sum()) <= OTHER_BATCH * coded.each[same].sum():
        faults.append(f"without --exact eval.py's bits of the stretch sum to {printed.bits[same].sum()!r}, {coded.each[same].sum()!r} were promised")
    return faults


def _code(
    path: str, art: artifact.Artifact, stretch: Stretch, out: str, streams: int, options: EvalOptions, device: torch.device
) -> tuple[dict[str, Any], Coded, bytes]:
    """Codes the stretch for `out` and decodes it elsewhere: the figures, with "faults", a list of reasons why it is not certified, what the
    coder did, and the file's bytes."""
    sha, kept = stream_coder.artifact_sha256(path), {name: getattr(options, name) for name in stream_coder.CODED_OPTIONS}
    settings = Settings(len(stretch.tokens), streams, stretch.kind, EvalOptions(**kept))
    data, coded = stream_coder.encode(art, sha, stretch.tokens, settings, device, stretch.said)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "coded").write_bytes(data)
        with stage(f"decoding {out}, {len(stretch.tokens):,} tokens, in a process of its own"):
            decoded = _decode_elsewhere(path, out, Path(folder))
        same_tokens = np.array_equal(np.fromfile(Path(folder) / "tokens", dtype="<u2"), stretch.tokens)
        same_bytes = (Path(folder) / "bytes").read_bytes() == stretch.said
    gap, allowed = abs(8 * coded.payload_bytes - coded.bits), SLACK * coded.bits + 8 * SLACK_BYTES
    faults = [] if same_tokens and same_bytes else [f"{out}: decoded by a separate process it differs"]
    faults += [] if gap <= allowed else [f"{out}: payload of {coded.payload_bytes:,} bytes, {coded.bits / 8:,.1f} were promised"]
    figures = {
        "faults": faults,
        "tokens_equal": bool(same_tokens),
        "bytes_equal": bool(same_bytes),
        "tokens": len(stretch.tokens),
        "bytes": len(stretch.said),
        "documents": stretch.documents,
        "file_bytes": len(data),
        "payload_bytes": coded.payload_bytes,
        "header_bytes": coded.header_bytes,
        "promised_bytes": coded.bits / 8,
        "gap_bits": gap,
        "allowed_bits": allowed,
        "streams": coded.streams,
        "certified_bpb": 8 * len(data) / len(stretch.said),
        "payload_bpb": 8 * coded.payload_bytes / len(stretch.said),
        "encode_s": coded.wall_s,
        "decode_s": decoded["wall_s"],
        "encode_tokens_per_s": coded.tokens_per_s,
        "decode_tokens_per_s": decoded["tokens_per_s"],
        "encode_seconds": coded.seconds,
        "decode_seconds": decoded["seconds"],
    }
    return figures, coded, data


def text(result: dict[str, Any]) -> str:
    """The certificate for people."""
    lines = [f"certificate {'PASSED' if result['passed'] else 'FAILED'}", *(f"  {fault}" for fault in result["faults"])]
    for figures, order in ((result["in_order"], "eval.py's order"), (result, f"{result['streams']} streams side by side")):
        if figures is None:
            continue
        same_tokens, same_bytes = ("equal" if figures[key] else "DIFFER" for key in ("tokens_equal", "bytes_equal"))
        lines += [
            f"{order}: {figures['bytes']:,} bytes of text, {figures['tokens']:,} tokens"
            + (f"; {figures['documents']:,} whole documents as they were read" if figures["documents"] else ""),
            f"  decoded by a separate process: tokens {same_tokens}, bytes {same_bytes}",
            f"  file {figures['file_bytes']:,} bytes: {figures['certified_bpb']:.4f} bits per byte",
            f"  payload {figures['payload_bytes']:,} bytes: {figures['payload_bpb']:.4f} bits per byte; promised {figures['promised_bytes']:,.1f}",
            f"  coded at {figures['encode_tokens_per_s']:,.0f} tokens/s, decoded at {figures['decode_tokens_per_s']:,.0f}",
            "  decoding, seconds of work: " + ", ".join(f"{part} {spent:.1f}" for part, spent in figures["decode_seconds"].items()),
        ]
        if figures is not result:
            lines.append(f"  eval.py prints {figures['printed_bpb']:.4f} for this stretch")
    lines.append(f"  eval.py prints {result['eval_bpb']:.4f} for this text; the order of coding costs {result['order_costs_bpb']:.4f}")
    return "\n".join(lines)


def _stretch(art: artifact.Artifact, data: str, size_bytes: int, options: EvalOptions) -> Stretch:
    """The shortest prefix of the validation stream that says at least so many bytes, cut as the protocol says."""
    shards, seq_len = find_shards(data, "val"), art.config.train.seq_len
    tokens = evaluate.load_tokens(shards, art.config.model.vocab_size, seq_len, options.protocol, options.max_tokens)
    exact = is_exact(shards)
    said = np.cumsum([len(piece) for piece in said_by(art.tokenizer, tokens, exact=exact)])
    if said[-1] < size_bytes:
        raise SeedgramError(f"{shards[0]}: the validation text has {said[-1]:,} bytes; lower --bytes {size_bytes:,}")
    stop = max(2, int(np.searchsorted(said, size_bytes)) + 1)
    cut = np.array(evaluate.load_tokens(shards, art.config.model.vocab_size, seq_len, options.protocol, stop))
    documents = check_documents(shards, art.tokenizer, cut)
    return Stretch(cut, b"".join(said_by(art.tokenizer, cut, exact=exact)), documents, "file" if exact else "text")


def _decode_elsewhere(path: str, out: str, folder: Path) -> dict[str, Any]:
    """Runs the decoder of `folder`/coded as its own process in that folder, where nothing else is; its report."""
    command = [sys.executable, "-m", "hybrid", "decompress", "coded", "--artifact", str(Path(path).resolve())]
    command += ["-o", "bytes", "--tokens", "tokens", "--json", "report"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])},
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
