import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from hybrid.data.shards import find_shards
from hybrid.scoring import evaluate
from hybrid.storing import artifact
from ngram.compiled import njit
from ngram.online import kernels
from ngram.online.kernels import *
from ngram.online.trie import *
from ngram.online.match import MatchModel
from ngram.online.stream_cache import Block, StreamCache


@njit
def nolook(state, tokens, start, known, stop, learn, cursor, place, prob, features, parts):
    for t in range(start, stop):
        if learn and not has_room(state, state.settings[0]):
            return t
        if len(parts.lists) and not list_contexts(state, cursor, t - parts.meta[BEGIN], parts):
            return t
        if len(features):
            fill_features(state, cursor, 0, features, t - start)
        if t >= known:
            break
        token = np.int64(tokens[t])
        touch(state, cursor, place, 0, token)
        resolve(state, cursor, place, 0, token)
        if len(prob):
            prob[t - start] = target_probability(state, cursor, place, 0, token)
        if learn:
            count_token(state, cursor, place, token)
        advance(state, cursor, place, 0, token)
    return stop


look = kernels.count_range
for path, data in zip(sys.argv[1::2], sys.argv[2::2]):
    art = artifact.load(path)
    v = art.config.model.vocab_size
    val = evaluate.load_tokens(find_shards(data, "val"), v, art.config.train.seq_len, "full", 200_000)
    t = time.perf_counter()
    StreamCache(art.table)
    print(path, v, art.table.sizes(), f"seed {time.perf_counter() - t:.2f} s", flush=True)
    for rep in range(3):
        for block in (False, True):
            told = []
            for name, k in (("look", look), ("nolook", nolook)):
                kernels.count_range = k
                c, entries = StreamCache(art.table), 0
                t = time.perf_counter()
                for a in range(1, len(val), 1024):
                    b = min(len(val), a + 1024)
                    one = Block(c, a, b - a) if block else None
                    c.score_then_update(val, a, b, block=one)
                    entries += int(one.parts.starts[one.parts.meta[LISTS] + 1]) if one else 0
                told.append(f"{name} {(time.perf_counter() - t) / len(val) * 1e6:.2f}")
            print(rep, "lists" if block else "plain", *told, f"us a token; {entries / len(val):.0f} entries", flush=True)
    c = StreamCache(art.table)
    t = time.perf_counter()
    c.score(val, 1, len(val))
    print(f"lanes {(time.perf_counter() - t) / len(val) * 1e6:.2f}", flush=True)
    m = MatchModel(v, c.bos)
    t = time.perf_counter()
    m.score_then_update(val, 1, len(val))
    print(f"match {(time.perf_counter() - t) / len(val) * 1e6:.2f}", flush=True)
