"""Audit of what eval.py prints, by the very predictor and options of the printed run.

eval.py is run on the stretch as a user would, in a process of its own, and its printed table, its JSON and its bits of every target
are read.  Meanwhile the same predictor goes over the same stretch as a reader who does not know the text: at each position the
auditor hands it the tokens before it and nothing else, takes the whole distribution, sums it, and only then shows the token.

    C1  the network's row at some positions is computed again without anything from there on; every other part of every row,
        at every position, is computed from a stream whose future is not there yet
    C2  every row is a distribution, and what is reported for a token is its entry of it
    C3  asking for a row leaves the state alone (its digest, at some positions)
    C4  eval.py's bits of every target are the negative logarithm of its row's entry, every target once; its printed figure is the sum
        of these bits over the bytes of the decoded text, counted from the tokenizer's pieces and not with eval.py's table

Shapes: N tokens of the stretch, V vocabulary.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext

import numpy as np

from hybrid.auditing.report import CONDITIONS, AuditReport, Verdict
from hybrid.data.decoded_text import check_documents, is_exact, text_bytes
from hybrid.data.shards import find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.build import network_ahead
from hybrid.scoring.exact import exact
from hybrid.scoring.network import NetworkAhead, NeuralScores
from hybrid.scoring.options import EvalOptions
from hybrid.scoring.printed import Printed, run_eval
from hybrid.scoring.scores import ENTRY_TOLERANCE, SUM_TOLERANCE
from hybrid.scoring.stepwise import network_stepwise, predictor_stepwise
from hybrid.storing import artifact
from ngram.arrays import F64
from ngram.score_first import ScoreFirst, Tokens
from ngram.terminal import track

MAX_TOKENS = 32768  # of the validation stream, from its beginning: what an audit goes over by default, within a minute on two cores
POSITIONS, THOROUGH_POSITIONS = 256, 4096  # at which the network is computed again
DIGESTS = 16  # positions at which the state is hashed before and after
SAME_BITS = 1e-4  # of a target: processes may share sums out over threads differently
SAME_SUM = 1e-6  # relative
SAME_ROW = {"cpu": 1e-4, "cuda": 1e-2}  # of a probability: the network, computed again in another batch; on CUDA it is bfloat16


class HiddenText(NetworkAhead):
    """The network's rows as the printed run has them, for a predictor that is not shown the text."""

    ahead = False


def audit_artifact(path: str, data: str, options: EvalOptions, positions: int, ranks: Ranks) -> AuditReport:
    """The report on one printed run; positions: at which the network is computed again without its future."""
    art, device = artifact.load(path), ranks.device
    options = dataclasses.replace(options, exact=options.exact or (options.adapt is not None and device.type == "cuda"))  # gradients repeat only so
    model, seq_len = art.config.model, art.config.train.seq_len
    shards = find_shards(data, "val")
    tokens = evaluate.load_tokens(shards, model.vocab_size, seq_len, options.protocol, options.max_tokens)
    check_documents(shards, art.tokenizer, tokens)
    with ThreadPoolExecutor(1) as beside:
        printing = beside.submit(run_eval, path, data, options, device)
        with exact() if options.exact else nullcontext():
            audit = _Pass(art, tokens, options, positions, ranks)
            audit.run()
        printed = printing.result()
    audit.compare(printed, len(text_bytes(art.tokenizer, tokens, exact=is_exact(shards))))
    return audit.report()


class _Pass:
    """One reading of the text without knowing it."""

    def __init__(self, art: artifact.Artifact, tokens: Tokens, options: EvalOptions, positions: int, ranks: Ranks) -> None:
        self.art, self.tokens, self.options, self.ranks = art, tokens, options, ranks
        random = np.random.default_rng([positions, len(tokens)])
        targets = np.arange(1, len(tokens))
        self.again = np.sort(random.choice(targets, min(positions, len(targets)), replace=False))
        self.hashed = frozenset(random.choice(targets, min(DIGESTS, len(targets)), replace=False).tolist())
        self.verdicts = {key: Verdict(key) for key in CONDITIONS}
        self.sums, self.entries, self.told = np.full(len(tokens), np.nan), np.full(len(tokens), np.nan), np.full(len(tokens), np.nan)

    def run(self) -> None:
        """Every position in turn: row, token, score, learning."""
        network = HiddenText(network_ahead(self.art, self.tokens, self.options, self.ranks).blocks)
        shown, frozen = np.zeros(len(self.tokens), np.uint16), not self.options.online
        shown[0], again = self.tokens[0], frozenset(self.again.tolist())
        second = network_stepwise(self.art, len(self.tokens), self._second_options(), self.ranks)
        with closing(predictor_stepwise(self.art, network, self.options, ranks=self.ranks)) as part:
            order = ScoreFirst(shown, {"blend": part}, frozen=frozen)
            for t in track(range(1, len(self.tokens)), "auditing"):
                before = part.digest() if t in self.hashed else ""
                row_V = order.row(t)["blend"]
                if t in self.hashed and part.digest() != before:
                    self.verdicts["C3"].see(t, np.inf, 0, "asking for the distribution changed the state")
                if t in again:
                    self._network_again(second.look(shown, t), network.look(shown, t), t)
                shown[t] = self.tokens[t]
                second.tell(shown, t)
                self._see(row_V, t, float((order.score if frozen else order.score_then_update)(t, t + 1)["blend"].mixed[0]))

    def _second_options(self) -> EvalOptions:
        """On a CPU one window at a time: enough, and much cheaper than a batch for every position."""
        return dataclasses.replace(self.options, exact=self.options.exact or self.ranks.device.type == "cpu")

    def _network_again(self, again: NeuralScores, used: NeuralScores, t: int) -> None:
        assert again.rows is not None and used.rows is not None
        apart = float((again.rows.double().exp() - used.rows.double().exp()).abs().max())
        self.verdicts["C1"].see(t, apart, SAME_ROW[self.ranks.device.type], "the network's distribution is another one without the tokens that come")

    def _see(self, row_V: F64, t: int, reported: float) -> None:
        token = int(self.tokens[t])
        self.sums[t], self.entries[t], self.told[t] = row_V.sum(), row_V[token], reported
        self.verdicts["C2"].see(t, abs(float(self.sums[t]) - 1), SUM_TOLERANCE, "probabilities of a position do not sum to 1")
        if float(row_V.min()) < 0:
            self.verdicts["C2"].see(t, np.inf, 0, "a negative probability")
        apart = abs(reported - self.entries[t]) / self.entries[t]
        self.verdicts["C2"].see(t, float(apart), ENTRY_TOLERANCE, "the reported score is not the target's entry of the distribution")

    def compare(self, printed: Printed, size_bytes: int) -> None:
        """C4: the printed bits are those of the rows, and the printed figure is their sum over the text's bytes."""
        verdict, targets = self.verdicts["C4"], len(self.tokens) - 1
        fault = printed.fault(targets, size_bytes)
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
        report = AuditReport("eval.py", self.verdicts, places, self.sums[places], tried=tried)
        report.bits = float(-np.log2(np.fmax(self.entries[1:], 1e-300)).sum())
        return report
