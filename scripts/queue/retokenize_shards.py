"""Writes shards again in another tokenizer: the same text, document by document, with the bytes counted on both sides.

    python scripts/queue/retokenize_shards.py fineweb_val_head.bin --from fineweb_1024_bpe.model --to basis4096.model --out DIR/fineweb.bin

Public validation streams exist as tokens only; this decodes them to the text that their tokens stand for (as their tokenizer normalised
it) and encodes that, so a preset with another vocabulary is scored on the same bytes.  Fails unless both streams stand for the same number.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from a checkout that is not installed

from hybrid.data.shards import DataError, Stream
from hybrid.data.token_bytes import TokenBytes
from hybrid.data.tokenizer import Tokenizer
from hybrid.data.write_shards import write_shard
from ngram.arrays import U16
from ngram.errors import run_cli
from ngram.terminal import OneLineParser


def documents(stream: Stream, tokenizer: Tokenizer) -> Iterator[bytes]:
    """The text of each document.  Raises DataError when the stream does not begin with one."""
    tokens = stream.read(0, len(stream))
    starts = np.flatnonzero(tokens == tokenizer.bos)
    if not len(starts) or starts[0] != 0:
        raise DataError(f"{stream.paths[0]}: does not begin with a document; give the shards from the first on, and their own tokenizer")
    for part in np.split(tokens, starts[1:]):
        yield tokenizer.decode_bytes(part.tolist())


def encode(texts: Iterator[bytes], tokenizer: Tokenizer) -> Iterator[U16]:
    """Tokens of each document, BOS first.  Bytes that are no UTF-8, such as a character cut at a stream's end, become byte pieces."""
    for text in texts:
        try:
            yield from tokenizer.encode_documents([text.decode()], bos=True)
        except UnicodeDecodeError:
            yield np.concatenate([[np.uint16(tokenizer.bos)], tokenizer.encode_bytes(text)]).astype(np.uint16)


def main() -> int:
    parser = OneLineParser(prog="retokenize_shards.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", help="in order, as one stream")
    parser.add_argument("--from", dest="old", required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--to", dest="new", required=True, metavar="M", help="SentencePiece model to write them in")
    parser.add_argument("--out", required=True, metavar="FILE", help="one shard")
    flags = parser.parse_args()
    old, new = Tokenizer(flags.old), Tokenizer(flags.new)
    stream = Stream(flags.shards, old.vocab_size)
    parts = list(encode(documents(stream, old), new))
    tokens = np.concatenate(parts)
    before, after = TokenBytes.from_model(old.model).total(stream.read(0, len(stream))), TokenBytes.from_model(new.model).total(tokens)
    if before != after:
        raise DataError(
            f"{flags.shards[0]}: {before:,} bytes of text became {after:,}; use a lossless tokenizer (scripts/prepare_data.py) for --to"
        )
    write_shard(flags.out, tokens)
    print(f"{flags.out}: {len(parts):,} documents, {len(stream):,} tokens -> {len(tokens):,}, {after:,} bytes both")
    return 0


if __name__ == "__main__":
    run_cli(main)
