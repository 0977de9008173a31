"""The two totals of bytes that the challenge's rule has known values for, on its own tokenizer and texts.

    python scripts/checks/byte_totals.py --tokenizer fineweb_1024_bpe.model [--shard fineweb_val_head.bin] [--text val.jsonl.xz]

--shard: the first 520,981 tokens of the official validation shard, 1,248,746 bytes.  --text: the reported validation text, a JSON line a
document, 1,297,314 tokens and 3,214,950 bytes.  Prints a line a file; exits with 1 if a total differs.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data import tokenizer
from hybrid.data.load_stream import load_stream
from hybrid.data.token_bytes import TokenBytes
from ngram.documents import documents
from ngram.errors import run_cli
from ngram.terminal import OneLineParser

SHARD, TEXT = (520_981, 1_248_746), (1_297_314, 3_214_950)  # tokens, bytes


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="M", help="the challenge's SentencePiece model of 1,024 pieces")
    parser.add_argument("--shard", type=Path, metavar="FILE", help="the beginning of the official validation shard")
    parser.add_argument("--text", type=Path, metavar="FILE", help="the reported validation text, JSON lines, plain or packed")
    flags = parser.parse_args()
    codec, right = tokenizer.load(flags.tokenizer), True
    streams = []
    if flags.shard:
        streams.append((flags.shard, load_stream(flags.shard, "val", codec.vocab_size), SHARD))
    if flags.text:
        streams.append((flags.text, np.concatenate(list(codec.encode_as_challenge(documents([flags.text], "text", lambda done, total: None)))), TEXT))
    if not streams:
        parser.error("nothing to count; give --shard, --text or both")
    for path, tokens, expected in streams:
        found = (len(tokens), TokenBytes.from_model(codec.model).total(tokens))
        right = right and found == expected
        said = "as known" if found == expected else f"EXPECTED {expected[0]:,} tokens, {expected[1]:,} bytes"
        print(f"{path}: {found[0]:,} tokens, {found[1]:,} bytes, {said}")
    return 0 if right else 1


if __name__ == "__main__":
    run_cli(main)
