"""A small Kneser-Ney model as a table and as dictionaries, and a plain reader of ARPA files by the format's definition."""

from pathlib import Path

import numpy as np

from ngram.table import PAD, NgramTable
from tests.support import kn_oracle

VOCAB, ORDER, BOS = 9, 4, 1

Counts = dict[tuple[int, ...], int]
Listed = dict[tuple[str, ...], float]


def make_stream(size: int = 300, seed: int = 3) -> list[int]:
    """Documents of skewed tokens: contexts with one, few and many successors."""
    random = np.random.default_rng(seed)
    stream = (2 + random.binomial(VOCAB - 3, 0.3, size)).tolist()
    for at in [0, *random.integers(1, size, 6).tolist()]:
        stream[at] = BOS
    return stream


def table_of(counts: Counts, pruned: Counts, discounts: list[tuple[float, ...]]) -> NgramTable:
    """The table of adjusted counts given as a dictionary, in plain Python."""
    tokens, parents, values, left_out = [], [], [], []
    rows: dict[tuple[int, ...], int] = {(): 0}
    for n in range(1, len(discounts) + 1):
        grams = [(token,) for token in range(VOCAB)] if n == 1 else sorted(g for g in counts if len(g) == n)
        left_out.append(np.array([pruned.get(context, 0) for context in rows], np.uint32))
        tokens.append(np.array([g[-1] for g in grams], np.uint16))
        parents.append(np.array([rows[g[:-1]] for g in grams], np.uint32))
        values.append(np.array([counts.get(g, 0) for g in grams], np.uint16))
        rows = {g: i for i, g in enumerate(grams)}
    return NgramTable(VOCAB, BOS, tokens, parents, values, left_out, np.array(discounts))


def make_model(min_count: int = 1, order: int = ORDER) -> tuple[NgramTable, Counts, Counts, list[tuple[float, ...]]]:
    """(table, and the same as the oracle wants it: adjusted counts, pruned mass, discounts); rarer top n-grams are pruned."""
    raw, left = kn_oracle.raw_counts(make_stream(), order, BOS)
    adjusted = kn_oracle.adjusted_counts(raw, left, order, BOS)
    discounts = kn_oracle.discounts_of(adjusted, order)
    pruned: Counts = {}
    for gram in [g for g, c in raw.items() if len(g) == order and c < min_count]:
        pruned[gram[:-1]] = pruned.get(gram[:-1], 0) + adjusted.pop(gram)
    return table_of(adjusted, pruned, discounts), adjusted, pruned, discounts


def random_histories(count: int, seed: int = 0, order: int = ORDER) -> list[tuple[int, ...]]:
    """Histories of every length, some beginning with BOS, most of them never seen."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        history = random.integers(2, VOCAB, random.integers(0, order)).tolist()
        if history and random.random() < 0.3:
            history[0] = BOS
        found.append(tuple(history))
    return found


def padded(histories: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([[PAD] * (ORDER - 1 - len(h)) + list(h) for h in histories], np.uint16)


def read_plainly(path: Path) -> tuple[Listed, Listed]:
    """Log probabilities and backoffs of a file, by the format's definition and nothing else."""
    probabilities, backoffs, n = {}, {}, 0
    for line in path.read_text().splitlines():
        if line.endswith("-grams:"):
            n = int(line[1:].split("-")[0])
        elif n and line and line[0] != "\\":
            p, words, *weight = line.split("\t")
            gram = tuple(words.split(" "))
            assert len(gram) == n
            probabilities[gram] = float(p)
            backoffs[gram] = float(weight[0]) if weight else 0.0
    return probabilities, backoffs


def katz(probabilities: Listed, backoffs: Listed, gram: tuple[str, ...]) -> float:
    """The format's recursion: the n-gram if it is listed, else its context's weight and the shorter one."""
    if gram in probabilities:
        return probabilities[gram]
    return backoffs.get(gram[:-1], 0.0) + katz(probabilities, backoffs, gram[1:])
