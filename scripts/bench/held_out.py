"""The held-out text that an artifact is measured on."""

from hybrid.data.shards import find_shards
from hybrid.data.token_bytes import TokenBytes
from hybrid.scoring.evaluate import load_tokens
from hybrid.storing.artifact import Artifact
from ngram.errors import SeedgramError
from ngram.score_first import Tokens


def held_out(art: Artifact, data: str, limit: int) -> tuple[Tokens, int]:
    """The first `limit` tokens (0: all) of the validation shards at `data`, and the bytes of text they stand for.

    Raises SeedgramError when they stand for none: bits per byte would be infinite."""
    tokens = load_tokens(find_shards(data, "val"), art.config.model.vocab_size, art.config.train.seq_len, "full")[: limit or None]
    size = TokenBytes.from_model(art.tokenizer).total(tokens)
    if size == 0:
        raise SeedgramError(f"{data}: the first {len(tokens)} tokens stand for no text; give more --tokens")
    return tokens, size
