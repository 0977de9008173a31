"""The short form of the table in docs/audit.md: every cheat is caught, every honest scorer passes.  scripts/checks/cheats.py makes the long one."""

import pytest

from hybrid.auditing.audit import audit_here, audit_scorer
from tests.support import cheats, honest_scorers

TOKENS = 3000


@pytest.mark.parametrize("kind", honest_scorers.HONEST, ids=lambda kind: kind.__name__)
def test_an_honest_scorer_passes(kind):
    report = audit_here(kind, honest_scorers.text(TOKENS, 0), positions=50)
    assert report.passed, report.text()


SHARES = (cheats.RemembersItsAnswers,)  # what it shares with another one of its process is what must not reach the second


@pytest.mark.parametrize("kind", [kind for kind in cheats.CHEATS if kind not in SHARES], ids=lambda kind: kind.__name__)
def test_a_cheat_is_caught(kind):
    tokens = honest_scorers.text(9000 if hasattr(kind, "resets_at") else TOKENS, 1)  # at least two documents
    report = audit_here(kind, tokens, positions=400)
    assert not report.passed, report.text()


@pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.__name__)
def test_a_cheat_that_hides_in_its_process_is_caught_from_another_one(kind):
    tokens = honest_scorers.text(TOKENS, 2)
    assert not audit_scorer(kind, tokens).passed
    kind.answers.clear()
    assert audit_here(kind, tokens).passed  # within one process it is not
