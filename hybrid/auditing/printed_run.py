"""Audit of what eval.py prints, by the very predictor and options of the printed run.

eval.py is run on the stretch as a user would, in a process of its own, and its printed table, its JSON and its bits of every target
are read.  Meanwhile two predictors with the same options go over the same stretch, block by block.  The reader comes first and does not
know the text: at each position the auditor hands it the tokens before it and nothing else, takes the whole distribution, sums it, and
only then shows the token, which the reader learns.  The scorer then scores the same block as eval.py does, in pieces that are cut at
random, and what it reports must be what the reader's distributions say.

    C1  the network's row at some positions is computed again without anything from there on; every other part of every row,
        at every position, is computed from a stream whose future is not there yet
    C2  every row is a distribution, and what the scorer reports for a token is the reader's entry of it
    C3  asking for a row leaves the state alone, and reader and scorer have learned the same (digests, at some positions)
    C4  eval.py's bits of every target are the negative logarithm of its row's entry, every target once; its printed figure is the sum
        of these bits over the bytes of the decoded text, counted from the tokenizer's pieces and not with eval.py's table

Reader and scorer share the network's rows and the gate.  Neither can carry a token from the scorer to the reader too early: the scorer
touches a block only after the reader has left it, and the network's rows are what C1 computes again.

Shapes: N tokens of the stretch, V vocabulary.
"""

import dataclasses
import math
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from itertools import pairwise

import numpy as np

from hybrid.auditing.report import CONDITIONS, AuditReport, Verdict
from hybrid.auditing.sampling import SLACK_BITS
from hybrid.data.decoded_text import beginning, check_documents, is_exact, text_bytes
from hybrid.data.shards import find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead, predictor_of
from hybrid.scoring.exact import exact
from hybrid.scoring.network import NetworkAhead, NeuralScores
from hybrid.scoring.options import EvalOptions
from hybrid.scoring.predictor import Predictor
from hybrid.scoring.printed import Printed, run_eval
from hybrid.scoring.scores import ENTRY_TOLERANCE, SUM_TOLERANCE
from hybrid.scoring.stepwise import NetworkStepwise, network_stepwise, predictor_stepwise
from hybrid.scoring.windows import score_windows, windows_of
from hybrid.storing import artifact
from ngram.arrays import F64
from ngram.score_first import ScoreFirst, Tokens
from ngram.terminal import track

MAX_TOKENS = 32768  # of the validation stream, from its beginning: what an audit goes over by default, within a minute on two cores
POSITIONS, THOROUGH_POSITIONS = 256, 4096  # at which the network is computed again
DIGESTS = 16  # positions at which the state is hashed before and after
PIECE_TOKENS = 32  # mean length of the scorer's pieces: what depends on how calls cut the stream shows
SHOWN_GAINS = (0.005, 0.01, 0.02, 0.05)  # of the network's bits, whose power the report states
SAME_BITS = 1e-4  # of a target: processes may share sums out over threads differently
SAME_SUM = 1e-6  # relative
SAME_ROW = {"cpu": 1e-4, "cuda": 1e-2}  # of a probability: the network, computed again in another batch; on CUDA it is bfloat16


class SharedNetwork(NetworkAhead):
    """The network's rows as the printed run has them, kept from `block` on: first the reader asks for them, then the scorer."""

    block = 1

    def take(self, tokens: Tokens, start: int, stop: int) -> list[NeuralScores]:
        kept = super().take(tokens, self.block, stop)
        return [piece.part(max(start, piece.first), piece.stop) for piece in kept if piece.stop > start]


def audit_artifact(path: str, data: str, options: EvalOptions, positions: int, ranks: Ranks, printing_ranks: int = 1) -> AuditReport:
    """The report on one printed run; positions: at which the network is computed again without its future; printing_ranks: processes that
    eval.py is run with."""
    art, device = artifact.load(path), ranks.device
    options = dataclasses.replace(options, exact=options.exact or (options.adapt is not None and device.type == "cuda"))  # gradients repeat only so
    model, seq_len = art.config.model, art.config.train.seq_len
    shards = find_shards(data, "val")
    tokens = evaluate.load_tokens(shards, model.vocab_size, seq_len, options.protocol, options.max_tokens)
    check_documents(shards, art.tokenizer, tokens)
    with ThreadPoolExecutor(1) as beside:
        printing = beside.submit(run_eval, path, data, options, device, printing_ranks)
        with exact() if options.exact else nullcontext():
            audit = _Pass(art, tokens, options, positions, ranks)
            audit.run()
        printed = printing.result()
    audit.compare(printed, len(text_bytes(art.tokenizer, tokens, exact=is_exact(shards))), os.path.getsize(path))
    if not np.array_equal(tokens, beginning(data, options.max_tokens, seq_len if options.protocol == "challenge" else 0)):
        audit.verdicts["C4"].see(0, np.inf, 0, "the tokens that are scored are not those of the shards, from their beginning")
    return audit.report()


class _Pass:
    """One reading of the text without knowing it, and one scoring of it."""

    def __init__(self, art: artifact.Artifact, tokens: Tokens, options: EvalOptions, positions: int, ranks: Ranks) -> None:
        self.art, self.tokens, self.options, self.ranks = art, tokens, options, ranks
        self.seed = secrets.randbits(48)
        self.random = np.random.default_rng(self.seed)
        targets = np.arange(1, len(tokens))
        self.again = np.sort(self.random.choice(targets, min(positions, len(targets)), replace=False))
        self.hashed = frozenset(self.random.choice(targets, min(DIGESTS, len(targets)), replace=False).tolist())
        self.verdicts = {key: Verdict(key) for key in CONDITIONS}
        self.sums, self.entries = np.full(len(tokens), np.nan), np.full(len(tokens), np.nan)
        self.network_bits = np.zeros(0)

    def run(self) -> None:
        """Every block in turn: the reader, row by row and token by token, and then the scorer."""
        network = SharedNetwork(network_ahead(self.art, self.tokens, self.options, self.ranks).blocks)
        shown, again = np.zeros(len(self.tokens), np.uint16), frozenset(self.again.tolist())
        shown[0] = self.tokens[0]
        second = network_stepwise(self.art, len(self.tokens), self.options, self.ranks)
        with (
            closing(predictor_of(self.art, network, self.options, ranks=self.ranks)) as scorer,
            closing(predictor_stepwise(self.art, network, self.options, ranks=self.ranks)) as reader,
        ):
            reader.mixture = scorer.mixture
            order = ScoreFirst(shown, {"scorer": scorer}, frozen=not self.options.online)
            for start, stop in track(list(self._blocks(scorer.mixture.chunk_tokens)), "auditing"):
                network.block = start
                for t in range(start, stop):
                    self._read(reader, shown, t)
                    if t in again:
                        self._network_again(self._afresh(second, shown, t), network.look(shown, t), t)
                    shown[t] = self.tokens[t]
                    second.tell(shown, t)
                    if self._learns_at_once():
                        self._learn(reader, shown, t, t + 1)
                self._score(order, start, stop)
                self._learn_chunk(reader, shown, stop)
                if not self.hashed.isdisjoint(range(start, stop)) and reader.digest() != scorer.digest():
                    self.verdicts["C3"].see(stop - 1, np.inf, 0, "what was learned of the text is not what the scorer has learned of it")
        self.network_bits = network.nll_nats() / np.log(2)

    def _blocks(self, chunk_tokens: int) -> Iterator[tuple[int, int]]:
        """Ranges of targets; each lies in one chunk of the gate and is one block of the product."""
        for first in range(1, len(self.tokens), chunk_tokens):
            end = min(first + chunk_tokens, len(self.tokens))
            yield from ((start, min(start + self.options.read_tokens, end)) for start in range(first, end, self.options.read_tokens))

    def _read(self, reader: Predictor, shown: Tokens, t: int) -> None:
        """Takes the distribution of target t from the tokens before it."""
        before = reader.digest() if t in self.hashed else ""
        row_V = reader.row(shown, t)
        assert row_V is not None
        if t in self.hashed and reader.digest() != before:
            self.verdicts["C3"].see(t, np.inf, 0, "asking for the distribution changed the state")
        self.sums[t], self.entries[t] = row_V.sum(), row_V[self.tokens[t]]
        self.verdicts["C2"].see(t, abs(float(self.sums[t]) - 1), SUM_TOLERANCE, "probabilities of a position do not sum to 1")
        if not float(row_V.min()) >= 0:
            self.verdicts["C2"].see(t, np.inf, 0, "a negative probability")

    def _score(self, order: ScoreFirst, start: int, stop: int) -> None:
        """Has the scorer go over a block, and holds what it reports against the distributions."""
        inside = np.arange(start + 1, stop)
        cuts = [start, *inside[self.random.random(len(inside)) < 1 / PIECE_TOKENS].tolist(), stop]
        step = order.score if order.frozen else order.score_then_update
        reported = np.concatenate([step(a, b)["scorer"].mixed for a, b in pairwise(cuts)])
        apart = np.abs(reported - self.entries[start:stop]) / self.entries[start:stop]
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
        why = "the reported score is not the target's entry of the distribution"
        self.verdicts["C2"].see(start + worst, float(apart[worst]), ENTRY_TOLERANCE, why)

    def _learns_at_once(self) -> bool:
        return self.options.online and not (self.options.cache_by_chunk or self.options.paranoid)

    def _learn(self, reader: Predictor, shown: Tokens, start: int, stop: int) -> None:
        """What the scorer does between two scores; the gate they share learns there."""
        reader.cache.update(shown, start, stop)
        if reader.match is not None:
            reader.match.update(shown, start, stop)

    def _learn_chunk(self, reader: Predictor, shown: Tokens, stop: int) -> None:
        """Where the experts learn by chunks: the chunk that ends before `stop`, if one does."""
        size = reader.mixture.chunk_tokens
        if self.options.online and not self._learns_at_once() and (stop - 1) % size == 0 and stop < len(shown):
            self._learn(reader, shown, stop - size, stop)

    def _afresh(self, second: NetworkStepwise, shown: Tokens, t: int) -> NeuralScores:
        """The network's row of target t from the tokens before it.  On a CPU its window ends there, which is enough and much cheaper; on CUDA
        the windows are those of the printed run, as bfloat16 depends on shapes."""
        if self.ranks.device.type != "cpu" or self.options.adapt is not None:
            return second.look(shown, t)
        seq_len = self.art.config.train.seq_len
        return score_windows(self.art.model, shown, windows_of(t, t + 1, len(shown), seq_len, self.options.stride), seq_len, self.ranks)()

    def _network_again(self, again: NeuralScores, used: NeuralScores, t: int) -> None:
        assert again.rows is not None and used.rows is not None
        apart = float((again.rows.double().exp() - used.rows.double().exp()).abs().max())
        self.verdicts["C1"].see(t, apart, SAME_ROW[self.ranks.device.type], "the network's distribution is another one without the tokens that come")

    def compare(self, printed: Printed, size_bytes: int, artifact_bytes: int) -> None:
        """C4: the printed bits are those of the rows, and the printed figure is their sum over the text's bytes."""
        verdict, targets = self.verdicts["C4"], len(self.tokens) - 1
        fault = printed.fault(targets, size_bytes, artifact_bytes)
        if fault:
            verdict.see(0, np.inf, 0, fault)
        if len(printed.bits) != targets:
            return
        expected = -np.log2(np.fmax(self.entries[1:], 1e-300))
        apart = np.abs(printed.bits - expected)
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
        verdict.see(worst + 1, float(apart[worst]), SAME_BITS, "eval.py's bits are not those of the distribution")
        total = abs(float(printed.bits.sum() - expected.sum())) / float(expected.sum())
        verdict.see(0, total, SAME_SUM, f"eval.py's bits sum to {printed.bits.sum():.6f}, those of the distributions to {expected.sum():.6f}")

    def report(self) -> AuditReport:
        places = np.flatnonzero(~np.isnan(self.sums))
        tried = {"distributions summed": len(places), "positions with the network computed again": len(self.again), "states hashed": len(self.hashed)}
        report = AuditReport("eval.py", self.verdicts, places, self.sums[places], tried=tried, seed=self.seed)
        report.bits = float(-np.log2(np.fmax(self.entries[1:], 1e-300)).sum())
        report.power = network_power(self.network_bits, self.art.config.model.vocab_size, len(self.again))
        report.power_of = f"at every position all but the network is read without what comes, at {len(self.again):,} the network, too; of its bits, a gain by "
        report.power_of += "looking at what comes"
        return report


def network_power(bits: F64, vocab_size: int, positions: int) -> dict[str, float]:
    """By gain in per cent of the network's bits (n,): the least probability with which `positions` drawn ones of the n show it.

    As in sampling.py, a position can gain what its claim is below log2 V + SLACK_BITS; so a gain needs at least as many positions as the
    largest such differences take to add up to it, and any of them that is drawn shows it."""
    room = np.sort(np.maximum(math.log2(vocab_size) + SLACK_BITS - bits, 0.0))[::-1].cumsum()
    return {f"{100 * gain:g} %": _drawn(len(bits), 1 + int(np.searchsorted(room, gain * float(bits.sum()))), positions) for gain in SHOWN_GAINS}


def _drawn(size: int, affected: int, positions: int) -> float:
    """Probability that one of so many affected positions of `size` is among `positions` different ones drawn."""
    if affected + positions > size:
        return 1.0
    ways = [math.lgamma(n + 1) - math.lgamma(n - positions + 1) for n in (size - affected, size)]
    return -math.expm1(ways[0] - ways[1])
