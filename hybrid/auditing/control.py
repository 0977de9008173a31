"""The negative control: the published hashed rules over 2^14 … 2^26 buckets, claimed and honest figures, and the audit that they must fail."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hybrid.auditing.audit import audit_here
from hybrid.auditing.hashed_ratio import ORDERS, RATIO_WEIGHT, RULES, HashedRatio, HashedTables, expected_sum, true_context_counts
from hybrid.data import python_docs, tokenizer
from hybrid.data.load_stream import load_stream
from hybrid.data.shards import Stream
from hybrid.data.token_bytes import TokenBytes, bits_per_byte
from ngram.arrays import F64, U16
from ngram.score_first import Tokens
from ngram.terminal import track

PUBLISHED_BITS = 16  # log2 of the buckets an order in the published tables (pull request #1095)
BUCKET_BITS = tuple(range(14, 27))
PUBLISHED_LOAD = 9900 * 65536  # counts in each table of the published run: 9,900 a bucket in 65,536 buckets
VOCAB_SIZE = 1024
TRAIN_TOKENS, TEST_TOKENS = 2_000_000, 120_000  # of the text given: enough for the figures to settle
AUDIT_TOKENS = 1500
POSITIONS = 2000  # whose whole distributions are summed


@dataclass(frozen=True)
class ControlRow:
    """One rule at one table size.  bpb_claimed: as the rule reports.  z_mean and z_law: sums of its values over the vocabulary,
    found and expected.  bpb_honest: after dividing by the sum.  c2_failed: the audit's verdict."""

    rule: str
    log2_buckets: int
    load: float
    bpb_claimed: float
    z_mean: float
    z_law: float
    bpb_honest: float
    c2_failed: bool


@dataclass(frozen=True)
class ControlText:
    """Train and test tokens, (N,) uint16 each, and the bytes that the test's targets say."""

    train: U16
    test: U16
    test_bytes: int
    vocab_size: int


def embedded_text() -> ControlText:
    """The embedded corpus, split by module, with a tokenizer of 1,024 pieces trained on its training half."""
    train, test = ([document.text for document in side] for side in python_docs.split(python_docs.read_documents()))
    codec = tokenizer.load(tokenizer.train(train, VOCAB_SIZE))
    streams = [np.concatenate(list(codec.encode_documents(texts))) for texts in (train, test)]
    return _cut(streams[0], streams[1], codec.model)


def shard_text(data: str, model: str) -> ControlText:
    """Train and validation shards of a folder with their tokenizer."""
    codec = tokenizer.load(model)
    return _cut(load_stream(data, "train", codec.vocab_size), load_stream(data, "val", codec.vocab_size), codec.model)


def _cut(train: U16, test: U16, model: bytes) -> ControlText:
    test = np.array(test[:TEST_TOKENS])
    said = TokenBytes.from_model(model)
    return ControlText(np.array(train[:TRAIN_TOKENS]), test, int(said.count(test).sum()), len(said.base))


def run(text: ControlText, vocab_size: int, positions: int, bits: Sequence[int] = BUCKET_BITS) -> list[ControlRow]:
    """Both rules at every size.  positions: test positions whose whole distributions are summed.

    The published rule is run at the published load (each n-gram counted as often as makes the tables as full), the ratio rule
    with every n-gram counted once."""
    places = np.unique(np.linspace(max(ORDERS), len(text.test) - 1, positions).astype(np.int64))
    rows = []
    for log2 in track(bits, "control"):
        for rule in RULES:
            repeats = max(1, round(PUBLISHED_LOAD / len(text.train))) if rule == "published" else 1
            scorer = HashedRatio(HashedTables.count(text.train, vocab_size, log2, repeats), rule)
            report = audit_here(lambda made=scorer: made, text.test[:AUDIT_TOKENS], positions=256, name=f"{rule}, 2^{log2} buckets")  # type: ignore[misc]
            rows.append(_measure(scorer, text, places, log2, not report.verdicts["C2"].passed))
    return rows


def _measure(scorer: HashedRatio, text: ControlText, places: Any, log2: int, c2_failed: bool) -> ControlRow:
    targets = len(text.test) - 1
    claimed = -np.log2(scorer.score(text.test, 1, targets + 1)).sum() / text.test_bytes
    values, used = scorer.rows_at(text.test, places)
    z = values.sum(axis=1)
    honest = -np.log2(values[np.arange(len(places)), text.test[places]] / z).mean() * targets / text.test_bytes
    return ControlRow(scorer.rule, log2, scorer.tables.load, float(claimed), float(z.mean()), _law(scorer, text, places, used), float(honest), c2_failed)


def _law(scorer: HashedRatio, text: ControlText, places: Any, used: Any) -> float:
    """What the sums should be if every bucket held the load and nothing else."""
    load, size = scorer.tables.load, scorer.vocab_size
    if scorer.rule == "published":
        weight = min(0.95, np.log1p(load) / 10)
        return float(1 - weight + weight * size * load / (load + 1024))
    expected = np.ones(len(places))
    for order in ORDERS:
        here = used == order
        if here.any():
            counts = true_context_counts(text.train, text.test, places[here], order)
            expected[here] = 1 - RATIO_WEIGHT + RATIO_WEIGHT * expected_sum(counts, size, load)
    return float(expected.mean())


def published_claim(tokens: Tokens, nll_nats: F64, train_paths: Sequence[Path], vocab_size: int, total_bytes: int) -> dict[str, Any]:
    """What the published hashed rule would report over a network of nll_nats (N-1,), counts taken from the training shards: no probability."""
    stream = Stream(train_paths, vocab_size)
    rule = HashedRatio(HashedTables.count(stream.read(0, len(stream)), vocab_size, PUBLISHED_BITS), "published")
    nats = -np.log(rule.claims(tokens, np.exp(-nll_nats))).sum()
    return {"claimed_bpb": bits_per_byte(float(nats), total_bytes), "log2_buckets": PUBLISHED_BITS, "is_a_probability": False}


def show(rows: Sequence[ControlRow]) -> None:
    """The table of the control."""
    for rule in RULES:
        table = Table(title=f"rule: {rule}", title_justify="left")
        for name in ("buckets", "load", "claimed BPB", "mean Z", "law", "honest BPB", "C2"):
            table.add_column(name, justify="right", no_wrap=True)
        for r in (r for r in rows if r.rule == rule):
            cells = f"2^{r.log2_buckets}", f"{r.load:,.1f}", f"{r.bpb_claimed:.3f}", f"{r.z_mean:,.1f}", f"{r.z_law:,.1f}", f"{r.bpb_honest:.3f}"
            table.add_row(*cells, "fails" if r.c2_failed else "PASSES")
        Console(highlight=False).print(table)


def draw(rows: Sequence[ControlRow], path: str) -> None:
    """Claimed and honest bits per byte, and the sums of "probabilities", against the number of buckets (.png or .svg)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for rule, style in zip(RULES, ("-", "--"), strict=True):
        mine = [r for r in rows if r.rule == rule]
        buckets = [2**r.log2_buckets for r in mine]
        left.plot(buckets, [r.bpb_claimed for r in mine], "C3" + style, label=f"{rule}: claimed")
        left.plot(buckets, [r.bpb_honest for r in mine], "C0" + style, label=f"{rule}: normalised")
        right.plot(buckets, [r.z_mean for r in mine], "C3" + style, label=f"{rule}: found")
        right.plot(buckets, [r.z_law for r in mine], "C7" + style, label=f"{rule}: law")
    left.set(xscale="log", xlabel="buckets an order", ylabel="bits per byte", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="buckets an order", ylabel="sum of one position's probabilities")
    right.axhline(1, color="black", linewidth=0.8)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None} if path.endswith(".png") else None)
    pyplot.close(figure)


def to_json(rows: Sequence[ControlRow], text: ControlText) -> dict[str, Any]:
    sizes = {"train_tokens": len(text.train), "test_tokens": len(text.test), "test_bytes": text.test_bytes}
    return {"failed_as_it_must": all(r.c2_failed for r in rows), **sizes, "rows": [asdict(r) for r in rows]}
