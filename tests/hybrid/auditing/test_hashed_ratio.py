"""The published hashed rules look like a great score and are no distribution; the audit and the law say so."""

import numpy as np
import pytest

from hybrid.auditing import control
from hybrid.auditing.audit import audit_here
from hybrid.auditing.hashed_ratio import ORDERS, RULES, HashedRatio, HashedTables, expected_sum, true_context_counts

V = 16


def text(length=4000, seed=0):
    """A Markov chain of 16 tokens."""
    random = np.random.default_rng(seed)
    table = np.random.default_rng(9).dirichlet(np.full(V, 0.1), size=V)
    tokens = [0]
    for _ in range(length - 1):
        tokens.append(int(random.choice(V, p=table[tokens[-1]])))
    return np.array(tokens, dtype=np.uint16)


def test_without_collisions_the_ratio_rule_counts_exactly():
    train = text(500)
    scorer = HashedRatio(HashedTables.count(train, V, 20), "ratio")
    for t in (100, 200, 300):
        row, order = scorer.rows_at(train, np.array([t]))
        n = int(order[0])
        context = train[t - n + 1 : t].tolist()
        places = [i for i in range(n - 1, len(train)) if train[i - n + 1 : i].tolist() == context]
        assert len(places) >= 2
        for v in range(V):
            pairs = sum(int(train[i]) == v for i in places)
            assert row[0, v] == pytest.approx(0.05 * scorer.tables.base[v] + 0.95 * pairs / len(places))
        longer = [i for i in range(n, len(train)) if train[i - n : i].tolist() == train[t - n : t].tolist()]
        assert n == ORDERS[-1] or len(longer) < 2


def test_true_context_counts_are_those_of_a_plain_scan():
    train, test = text(300), text(60, seed=1)
    places = np.arange(10, 50)
    for order in (2, 4):
        found = true_context_counts(train, test, places, order)
        for t, count in zip(places, found, strict=True):
            context = test[t - order + 1 : t].tolist()
            assert count == sum(train[i - order + 1 : i].tolist() == context for i in range(order - 1, len(train)))


@pytest.mark.parametrize("rule", RULES)
def test_the_score_is_the_targets_entry_of_the_row(rule):
    train, test = text(), text(100, seed=1)
    scorer = HashedRatio(HashedTables.count(train, V, 6), rule)
    rows = scorer.rows(test, 1, 100)
    assert np.array_equal(scorer.score(test, 1, 100), rows[np.arange(99), test[1:]])


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_fail_c2_and_nothing_else(rule):
    train, test = text(), text(600, seed=1)
    scorer = HashedRatio(HashedTables.count(train, V, 6, 50), rule)
    report = audit_here(lambda: scorer, test, positions=100, chunk_tokens=50)
    assert not report.passed
    assert {name: v.passed for name, v in report.verdicts.items()} == {"C1": True, "C2": False, "C3": True, "C4": True}
    assert report.z.mean() > 2


def test_fewer_buckets_claim_more_and_sum_to_what_the_law_says():
    train, test = text(20_000), text(3000, seed=1)
    places = np.arange(10, 3000, 13)
    claims, sums = [], []
    for bits in (4, 6, 8, 20):
        scorer = HashedRatio(HashedTables.count(train, V, bits), "ratio")
        claims.append(-np.log2(scorer.score(test, 1, 3000)).mean())
        sums.append(scorer.rows_at(test, places)[0].sum(axis=1).mean())
    assert claims[0] < claims[1] < claims[2] < claims[3]
    assert sums[0] > sums[1] > sums[2] > sums[3]
    law = 0.05 + 0.95 * expected_sum(0, V, 20_000 / 16)
    assert sums[0] == pytest.approx(float(law), rel=0.2)
    assert sums[3] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("rule", RULES)
def test_over_another_model_the_rule_claims_what_it_claims_over_that_models_values(rule):
    train, test = text(), text(300, seed=1)
    scorer = HashedRatio(HashedTables.count(train, V, 8), rule)
    unigrams = scorer.tables.base[test[1:]]
    assert np.array_equal(scorer.claims(test, unigrams), scorer.score(test, 1, len(test)))
    better = scorer.claims(test, np.full(len(test) - 1, 0.9))
    assert (better >= scorer.claims(test, unigrams)).all()
    with pytest.raises(ValueError, match="3 base values for 299 targets"):
        scorer.claims(test, unigrams[:3])


def test_counts_saturate_instead_of_wrapping():
    tables = HashedTables.count(np.zeros(200, dtype=np.uint16), V, 4, repeats=1000)
    assert tables.pairs.max() == 65535


def test_the_control_reports_failure_at_every_size(capsys):
    train, test = text(), text(2000, seed=1)
    rows = control.run(control.ControlText(train, test, 4000, V), V, 100, bits=(4, 8))
    assert [(r.rule, r.log2_buckets) for r in rows] == [("published", 4), ("ratio", 4), ("published", 8), ("ratio", 8)]
    assert all(r.c2_failed and r.bpb_honest > r.bpb_claimed for r in rows)
    control.show(rows)
    assert "honest BPB" in capsys.readouterr().out
    assert control.to_json(rows, control.ControlText(train, test, 4000, V))["failed_as_it_must"]
