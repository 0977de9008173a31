"""Honest scorers for the auditor, and the text that they and the cheats predict: streams of 64 pieces, by what has followed what so far."""

import hashlib
import inspect
import random as python_random

import numpy as np

V = 64
BEGIN = 63  # the piece that begins a document in `text`


def text(tokens: int, seed: int) -> np.ndarray:
    """(tokens,) uint16: English documentation from the standard library, its 62 most frequent characters, one for all others, and
    BEGIN before each module."""
    names = ["argparse", "ast", "bisect", "calendar", "codecs", "collections", "copy", "datetime", "dis", "difflib", "enum", "functools", "heapq"]
    names += ["inspect", "json", "logging", "pathlib", "pickletools", "random", "shutil", "statistics", "string", "subprocess", "tarfile"]
    names += ["textwrap", "threading", "typing", "unittest.mock", "zipfile"]
    python_random.Random(seed).shuffle(names)
    pages, size = list[str](), 0
    for name in names:
        if size < tokens:
            pages.append("\x00" + inspect.getsource(__import__(name, fromlist=["_"]))[:4000])
            size += len(pages[-1])
    characters = "\x00" + " etnsairolducfpmh_g(y)\n.,xb'\"=v:kwTSE0IRANC1]O[DLPjqz-FMUB#2>"
    table = {character: number for number, character in enumerate(characters[1 : V - 1])} | {"\x00": BEGIN}
    return np.array([table.get(character, V - 2) for character in "".join(pages)[:tokens]], np.uint16)


class Counts:
    """Honest: contexts of two, one and no pieces, each smoothed towards the next shorter one."""

    vocab_size = V
    strength = 4.0

    def __init__(self):
        self.reset()

    def reset(self):
        self.unigrams, self.pairs, self.triples = np.full(V, 1 / V), np.zeros((V, V)), np.zeros((V * V, V))

    def contexts(self, tokens, start, stop):
        last = tokens[start - 1 : stop - 1].astype(np.int64)
        before = tokens[max(0, start - 2) : stop - 2].astype(np.int64)
        return last, np.concatenate([np.zeros(len(last) - len(before), np.int64), before]) * V + last

    def honest(self, tokens, start, stop):
        last, both = self.contexts(tokens, start, stop)
        rows = np.tile(self.unigrams / self.unigrams.sum(), (len(last), 1))
        for counts in (self.pairs[last], self.triples[both]):
            rows = (counts + self.strength * rows) / (counts.sum(1, keepdims=True) + self.strength)
        return rows / rows.sum(1, keepdims=True)

    def rows(self, tokens, start, stop):
        return self.honest(tokens, start, stop)

    def score(self, tokens, start, stop):
        return self.rows(tokens, start, stop)[np.arange(stop - start), tokens[start:stop]]

    def update(self, tokens, start, stop):
        targets = tokens[start:stop].astype(np.int64)
        last, both = self.contexts(tokens, start, stop)
        np.add.at(self.unigrams, targets, 1)
        np.add.at(self.pairs, (last, targets), 1)
        np.add.at(self.triples, (both, targets), 1)

    def digest(self):
        return hashlib.blake2b(self.pairs.tobytes()).hexdigest()


class Frozen(Counts):
    """Knows something from the beginning and learns nothing: a small network's place."""

    def reset(self):
        random = np.random.default_rng(5)
        self.table = random.normal(size=(V, 16)).astype(np.float32), random.normal(size=(16, V)).astype(np.float32)

    def honest(self, tokens, start, stop):
        mean = np.stack([self.table[0][tokens[max(0, t - 8) : t]].mean(0) for t in range(start, stop)])
        logits = (mean @ self.table[1]).astype(np.float64)
        rows = np.exp(logits - logits.max(1, keepdims=True))
        return rows / rows.sum(1, keepdims=True)

    def update(self, tokens, start, stop):
        pass

    def digest(self):
        return ""


class Copies(Counts):
    """Expects once more what has followed the last three pieces before."""

    def reset(self):
        super().reset()
        self.learned = np.zeros(0, np.uint16)

    def honest(self, tokens, start, stop):
        rows, past = super().honest(tokens, start, stop), self.learned.astype(np.uint8).tobytes()
        for i, t in enumerate(range(start, stop)):
            context = tokens[max(0, t - 3) : t].astype(np.uint8).tobytes()
            at = past.rfind(context, 0, len(past) - 1) if len(context) == 3 else -1
            if at >= 0:
                rows[i] *= 0.7
                rows[i, past[at + 3]] += 0.3
        return rows

    def update(self, tokens, start, stop):
        super().update(tokens, start, stop)
        self.learned = np.array(tokens[:stop])


class Documents(Counts):
    """Says that it begins anew at each document, and does: what it has learned counts until the next BEGIN."""

    resets_at = BEGIN

    def honest(self, tokens, start, stop):
        rows = super().honest(tokens, start, stop)
        begins = start - 1 + np.flatnonzero(tokens[start - 1 : stop - 1] == BEGIN)
        if len(begins):
            known = self.unigrams, self.pairs, self.triples
            Counts.reset(self)
            rows[begins[0] + 1 - start :] = super().honest(tokens, start, stop)[begins[0] + 1 - start :]
            for begin in begins:  # its context does not reach beyond the document
                rows[begin + 1 - start] = 1 / V
            self.unigrams, self.pairs, self.triples = known
        return rows

    def update(self, tokens, start, stop):
        begins = start - 1 + np.flatnonzero(tokens[start - 1 : stop - 1] == BEGIN)
        if len(begins):
            Counts.reset(self)
            start = int(begins[-1]) + 2
        if start < stop:
            super().update(tokens, start, stop)


HONEST = (Counts, Frozen, Copies, Documents)
