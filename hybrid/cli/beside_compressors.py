"""The table of an evaluation, and beside it what general compressors make of the same text.

    python -m hybrid.cli.beside_compressors --eval runs/x/eval.json --data DIR --tokenizer M
"""

import json
import lzma

import zstandard

from hybrid.data import tokenizer
from hybrid.data.load_stream import load_stream
from hybrid.scoring import report
from ngram.container import read_bytes
from ngram.errors import FileFormatError, run_cli
from ngram.terminal import OneLineParser


def compressors(data: str, model: str) -> dict[str, float]:
    """{command: bits per byte} of the decoded validation text, as one piece, with no dictionary."""
    codec = tokenizer.load(model)
    text = codec.decode_bytes(load_stream(data, "val", codec.vocab_size).tolist())
    sizes = {"xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)), "zstd -19": len(zstandard.compress(text, level=19))}
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def main() -> int:
    parser = OneLineParser(prog="hybrid.cli.beside_compressors", description="Table of an evaluation beside general compressors.")
    parser.add_argument("--eval", required=True, help="JSON written by eval.py")
    parser.add_argument("--data", help="the same validation shards; leave out for no comparison")
    parser.add_argument("--tokenizer", help="their SentencePiece model")
    flags = parser.parse_args()
    if bool(flags.data) != bool(flags.tokenizer):
        parser.error("--data and --tokenizer go together")
    try:
        result = json.loads(read_bytes(flags.eval))
        report.show(result, compressors(flags.data, flags.tokenizer) if flags.data else None)
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{flags.eval}: not a result of eval.py ({error}); run eval.py --json again") from None
    return 0


if __name__ == "__main__":
    run_cli(main)
