"""From an artifact and options to a Predictor: the one place where its parts are chosen and put together.

    network, predictor = ..., predictor_of(art, network, options)
    order = ScoreFirst(tokens, {"blend": predictor}, frozen=not options.online)
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hybrid.parallel.ranks import Ranks
from hybrid.scoring import test_time_training, windows
from hybrid.scoring.mixture import Mixture, load_gate
from hybrid.scoring.network import Network, NetworkAhead
from hybrid.scoring.options import EvalOptions
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.product import ProductScorer
from hybrid.storing.artifact import Artifact
from ngram.counting.build_table import build_table
from ngram.counting.run import Run
from ngram.online.match import MatchModel
from ngram.online.stream_cache import StreamCache
from ngram.score_first import Tokens
from ngram.threads import each


def seeded(art: Artifact, count: int = 1) -> Future[tuple[list[StreamCache], float]]:
    """So many online caches of an artifact, which know nothing where there is no table, and the seconds they took, made beside other work."""

    def make() -> tuple[list[StreamCache], float]:
        began = time.monotonic()
        table = art.table if art.table is not None else build_table(Run.empty(1), art.config.model.vocab_size, bos=0)
        return each(StreamCache, [table] * count), time.monotonic() - began

    pool = ThreadPoolExecutor(1)
    cache = pool.submit(make)
    pool.shutdown(wait=False)
    return cache


def network_ahead(art: Artifact, tokens: Tokens, options: EvalOptions, ranks: Ranks, *, rows: bool = True) -> NetworkAhead:
    """The network's scores for a reader who has the text; learning as it goes with options.adapt.  rows False: without distributions."""
    seq_len, exact = art.config.train.seq_len, options.exact
    if options.adapt is not None:
        blocks = test_time_training.adapted_blocks(art.model, tokens, seq_len, options.stride, options.adapt, ranks, exact=exact)
    else:
        blocks = windows.neural_blocks(art.model, tokens, seq_len, options.stride, ranks, batch_windows=int(exact), rows=rows)
    return NetworkAhead(blocks)


def predictor_of(
    art: Artifact, network: Network, options: EvalOptions, *, ranks: Ranks | None = None,
    seeding: Future[tuple[list[StreamCache], float]] | None = None, watch: Sequence[int] = (), product: ProductScorer | None = None, together: int = 1,
) -> Predictor:
    """seeding: the cache, where it is already being made.  The rest: see Predictor.  Raises FileFormatError for a foreign gate."""
    ngrams = art.table is not None  # without a table the network predicts alone
    gate = load_gate(art.gate, learning=ngrams and options.online and options.gate_learns)
    cache, *others = (seeding or seeded(art)).result()[0]
    match = MatchModel(cache.vocab_size, cache.bos) if ngrams and options.match and options.online else None
    there = {"product": ngrams and options.product, "ngrams": ngrams, "match": match is not None}
    return Predictor(
        network, cache, match, Mixture(gate, options.chunk_tokens or art.config.cache.chunk_tokens, **there), read_tokens=options.read_tokens,
        by_chunk=options.cache_by_chunk or options.paranoid, product=product, others=others, together=together, ranks=ranks, watch=watch,
    )
