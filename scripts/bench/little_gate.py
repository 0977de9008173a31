"""What a gate fitted on little text loses against its best expert, by the number of positions and by fit.PRIOR.

    python scripts/bench/little_gate.py --artifact A --data D [--tokens 8000] [--positions 30 100 200 500] [--priors 10 3 1 0.3]

Fits on stretches at random places, scores the 2,000 positions after each with the gate as it is, and prints the difference in bits a token:
the mean over the stretches, and the largest.
"""

import argparse
from contextlib import closing

import numpy as np
import torch

from hybrid.data.shards import Stream, find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate, windows
from hybrid.scoring.mixture import GATE_FEATURES, Mixture, load_fallback
from hybrid.scoring.network import NetworkAhead
from hybrid.scoring.predictor import Predictor
from hybrid.storing import artifact
from ngram.arrays import F32, F64
from ngram.blending import fit
from ngram.errors import run_cli
from ngram.online.match import MatchModel
from ngram.online.stream_cache import StreamCache
from ngram.score_first import ScoreFirst
from ngram.terminal import OneLineParser, UsageError

UNSEEN = 2000  # positions after a stretch


def collected(path: str, data: str, count: int) -> tuple[F32, F64]:
    """Features and the experts' probabilities over the beginning of the validation shards."""
    art = artifact.load(path)
    if art.table is None:
        raise UsageError(f"{path}: has no n-grams, and so no gate")
    tokens = Stream(find_shards(data, "val")).read(0, count)
    network = NetworkAhead(windows.neural_blocks(art.model, tokens, art.config.train.seq_len, 0, Ranks(0, 1, torch.device("cpu"))))
    cache, mixture = StreamCache(art.table), Mixture(load_fallback(learning=False), art.config.cache.chunk_tokens)
    with closing(Predictor(network, cache, MatchModel(cache.vocab_size, cache.bos), mixture, collect=True)) as predictor:
        evaluate.run(ScoreFirst(tokens, {"blend": predictor}), "blend", art.config.cache.chunk_tokens)
    features, probs = zip(*predictor.collected, strict=True)
    return np.concatenate(features), np.concatenate(probs)


def main() -> int:
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--data", required=True, help="folder with validation shards")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--positions", type=int, nargs="+", default=[30, 100, 200, 500])
    parser.add_argument("--priors", type=float, nargs="+", default=[10.0, 3.0, 1.0, 0.3])
    parser.add_argument("--stretches", type=int, default=6)
    flags = parser.parse_args()
    features_NF, probs_NK = collected(flags.artifact, flags.data, flags.tokens)
    random = np.random.default_rng(0)
    for count in flags.positions:
        lost = list[list[float]]()
        for begin in random.integers(0, len(probs_NK) - count - UNSEEN, flags.stretches):
            seen, unseen = slice(begin, begin + count), slice(begin + count, begin + count + UNSEEN)
            best = -float(np.log(np.maximum(probs_NK[unseen], 1e-30)).mean(0).max())
            lost.append([])
            for fit.PRIOR in flags.priors:
                gate = fit.fit(features_NF[seen], probs_NK[seen], fit.unfitted(features_NF[seen], GATE_FEATURES, probs_NK.shape[1]))
                lost[-1].append((gate.gradient(gate.standardise(features_NF[unseen]), probs_NK[unseen])[0] - best) / np.log(2))
        rows = np.array(lost)
        for prior, mean, worst in zip(flags.priors, rows.mean(0), rows.max(0), strict=True):
            print(f"{count:6,} positions  prior {prior:5g}  {mean:+.4f} bits a token against the best expert, at most {worst:+.4f}")
    return 0


if __name__ == "__main__":
    run_cli(main)
