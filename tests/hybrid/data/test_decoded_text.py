"""The second opinion on bytes and tokens says the same as the first, from other sources."""

import numpy as np
import pytest

from hybrid.data.decoded_text import beginning, decoded_pieces
from hybrid.data.shards import find_shards
from hybrid.data.write_shards import write_shard
from hybrid.scoring import evaluate
from ngram.pieces import Pieces
from tests.support import tiny
from tests.support.tokenizers import kinds


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_sentencepieces_own_decoder_says_what_our_pieces_say(kind):
    assert decoded_pieces(kinds()[kind]) == Pieces(kinds()[kind]).piece_bytes


@pytest.mark.parametrize("protocol", ["full", "challenge"])
@pytest.mark.parametrize("max_tokens", [0, 700])
def test_the_beginning_of_the_shards_is_what_is_scored(tmp_path, protocol, max_tokens):
    for number in range(2):
        write_shard(tmp_path / f"x_val_{number:06}.bin", tiny.stream(seed=number, count=20))
    for name in (".x_val_000009.bin", "x_val_y_000009.bin", "x_val_new.bin", "x_train_000000.bin"):
        (tmp_path / name).write_bytes(b"not a shard of the split")
    scored = evaluate.load_tokens(find_shards(tmp_path, "val"), tiny.VOCAB, 32, protocol, max_tokens)
    assert np.array_equal(beginning(str(tmp_path), max_tokens, 32 if protocol == "challenge" else 0), scored)
