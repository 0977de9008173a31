"""Command line of `seedgram score`: bits that a file costs, in all or token by token."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from hybrid.loading import loading
from hybrid.parallel.device import add_device_flag
from hybrid.scoring import report
from ngram.container import read_bytes
from ngram.terminal import output

if TYPE_CHECKING:
    from hybrid.api.text_score import Score


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FILE", help="file to read; - for standard input")
    parser.add_argument("--artifact", required=True, help="artifact.bin of a run")
    parser.add_argument("--per-token", action="store_true", help="one line a token: bits blended, network, n-grams, piece")
    add_device_flag(parser, "cpu")
    parser.add_argument("--json", type=output, metavar="F", help="write the figures there; - for standard output")


def run(flags: argparse.Namespace) -> int:
    data = read_bytes(flags.source)
    with loading():  # torch loads here, and not for --help
        from hybrid.api.text_score import score_bytes
        from hybrid.data import tokenizer
        from hybrid.parallel import ranks
        from hybrid.storing import kept_tables
        from ngram.blending.warm_up import SCORING, WarmUp

        art = kept_tables.load(flags.artifact)
    with WarmUp(SCORING):
        found = score_bytes(art, tokenizer.load(art.tokenizer), data, ranks.start(flags.device))
    if flags.per_token:
        print("   blended   network   n-grams  piece")
        for piece, blended, network, ngrams in zip(found.pieces, found.bits, found.network_bits, found.ngram_bits, strict=True):
            print(f"{blended:10.3f}{network:10.3f}{ngrams:10.3f}  {shown(piece)!r}")
    bpb = found.bits_per_byte
    more = "" if bpb is None else f": {bpb:.4f} bits per byte"
    print(f"{flags.source}: {found.total_bits:,.1f} bits for {len(found.bits):,} tokens, {found.size_bytes:,} bytes{more}")
    figures = {"bits": found.total_bits, "tokens": len(found.bits), "bytes": found.size_bytes, "bpb": bpb}
    report.write_json(flags.json, figures | ({"per_token": rows(found)} if flags.per_token else {}))
    return 0


def shown(piece: bytes) -> str | bytes:
    """A token's text; its bytes as they are where they are no text by themselves, such as a part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece


def rows(found: "Score") -> list[dict[str, Any]]:
    """Every token for JSON: "text", or "hex" where its bytes are no text by themselves, and its bits; None of n-grams that are not there."""
    columns = zip(found.pieces, found.bits.tolist(), found.network_bits.tolist(), found.ngram_bits.tolist(), strict=True)
    return [
        {"text" if isinstance(said := shown(piece), str) else "hex": said if isinstance(said, str) else piece.hex()}
        | {"bits": bits, "network_bits": network, "ngram_bits": ngrams if math.isfinite(ngrams) else None}
        for piece, bits, network, ngrams in columns
    ]
