"""ARPA out and in: another reader gets our probabilities, we get others', and no file can do harm."""

import platform
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram.arpa.read import import_arpa
from ngram.arpa.write import export_arpa
from ngram.errors import FileFormatError, SeedgramError
from ngram.table import PAD
from tests.support import kn_oracle
from tests.support.arpa_oracle import BOS, ORDER, VOCAB, katz, make_model, make_stream, padded, random_histories, read_plainly, table_of

KENLM_HAS_A_WHEEL = sys.platform != "linux" or platform.machine() == "x86_64"  # as pyproject.toml says
if KENLM_HAS_A_WHEEL:
    import kenlm

KENLM_TOLERANCE = 1e-4  # of log10 p: the file has seven digits
KENLM_MAX_ORDER = 6  # of the wheel kenlm-ex


def row_of(min_count: int, history: tuple[int, ...]) -> list[float]:
    """Probabilities of all tokens after `history`, by the oracle."""
    _, adjusted, pruned, discounts = make_model(min_count)
    found: list[float] = kn_oracle.distribution(adjusted, pruned, discounts, history, VOCAB, ORDER)
    return found


@pytest.mark.parametrize("min_count", [1, 2])
def test_a_plain_reader_of_the_format_gets_the_oracle_s_probabilities(tmp_path: Path, min_count: int) -> None:
    table, *_ = make_model(min_count)
    export_arpa(table, tmp_path / "m.arpa")
    listed = read_plainly(tmp_path / "m.arpa")
    for history in random_histories(60):
        expected = row_of(min_count, history)
        got = [katz(*listed, tuple(map(str, (*history, token)))) for token in range(VOCAB)]
        np.testing.assert_allclose(got, np.log10(expected), atol=3e-6)


@pytest.mark.parametrize("min_count", [1, 2])
def test_export_and_import_give_the_oracle_s_rows_back(tmp_path: Path, min_count: int) -> None:
    table, *_ = make_model(min_count)
    export_arpa(table, tmp_path / "m.arpa")
    model = import_arpa(tmp_path / "m.arpa", bos=BOS)
    histories = random_histories(60, seed=1)
    rows = model.rows(padded(histories))
    assert model.vocab_size == VOCAB and model.order == ORDER
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, [row_of(min_count, h) for h in histories], rtol=1e-5)


def test_scores_of_a_stream_are_the_rows_of_histories_that_stop_at_bos(tmp_path: Path) -> None:
    table, *_ = make_model()
    export_arpa(table, tmp_path / "m.arpa")
    model = import_arpa(tmp_path / "m.arpa", bos=BOS)
    stream = make_stream(120, seed=8)
    histories = [kn_oracle.history_of(stream, t, ORDER, BOS) for t in range(1, len(stream))]
    expected = model.rows(padded(histories))[np.arange(len(histories)), stream[1:]]
    tokens = np.array(stream, np.uint16)
    np.testing.assert_allclose(model.score(tokens, 1, len(tokens)), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.score(tokens, 50, 60), model.score(tokens, 1, len(tokens))[49:59])


def test_a_foreign_file_s_contexts_that_cross_bos_are_not_used(tmp_path: Path) -> None:
    crossing = """\\data\\\nngram 1=2\nngram 2=2\nngram 3=1\n\\1-grams:\n-1\t1\t-0.25\n-0.5\t3\t-0.25
\\2-grams:\n-0.25\t3 1\t-2\n-0.125\t1 3\t-0.5\n\\3-grams:\n-0.0625\t3 1 3\n\\end\\\n"""
    (tmp_path / "m.arpa").write_text(crossing)
    model = import_arpa(tmp_path / "m.arpa", bos=1)
    scores = np.log10(model.score(np.array([1, 3, 1, 3, 1, 1], np.uint16), 1, 6))
    after_bos_3 = -0.5 - 0.25  # "1 3 1" is not listed: the weight of "1 3", then "3 1"
    np.testing.assert_allclose(scores, [-0.125, after_bos_3, -0.125, after_bos_3, -0.25 - 1])


def test_a_token_of_another_vocabulary_is_named(tmp_path: Path) -> None:
    export_arpa(make_model()[0], tmp_path / "m.arpa")
    model = import_arpa(tmp_path / "m.arpa", bos=BOS)
    with pytest.raises(SeedgramError, match=f"token {VOCAB} is outside this model's vocabulary of {VOCAB}"):
        model.score(np.array([BOS, VOCAB], np.uint16), 1, 2)


def kenlm_scores(path: Path, grams: list[tuple[int, ...]]) -> list[float]:
    """log10 p of the last token of each n-gram by KenLM's own reader, from no context."""
    settings = kenlm.Config()
    settings.show_progress, settings.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    model, scores = kenlm.Model(str(path), settings), []
    for gram in grams:
        state, score = kenlm.State(), 0.0
        model.NullContextWrite(state)
        for token in gram:
            after = kenlm.State()
            score, state = model.BaseScore(state, str(token), after), after
        scores.append(score)
    return scores


@pytest.mark.skipif(not KENLM_HAS_A_WHEEL, reason="kenlm-ex has no wheel for this machine")
@pytest.mark.parametrize(("order", "min_count"), [(2, 1), (3, 2), (4, 1), (4, 2), (5, 2), (KENLM_MAX_ORDER, 1)])
def test_kenlm_reads_the_same_log10_probabilities_within_1e_4(tmp_path: Path, order: int, min_count: int) -> None:
    table, adjusted, pruned, discounts = make_model(min_count, order)
    export_arpa(table, tmp_path / "m.arpa")
    grams = [(*history, token) for history in random_histories(60, 2, order) for token in range(VOCAB)]
    rows = {gram[:-1]: kn_oracle.distribution(adjusted, pruned, discounts, gram[:-1], VOCAB, order) for gram in grams}
    expected = [np.log10(rows[gram[:-1]][gram[-1]]) for gram in grams]
    np.testing.assert_allclose(kenlm_scores(tmp_path / "m.arpa", grams), expected, atol=KENLM_TOLERANCE)


SMALL = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-2\t<unk>\t0
0\t<s>\t-0.5
-1\t</s>\t0
-0.5\t0\t-0.25
-0.75\t3\t-0.125

\\2-grams:
-0.0625\t<s> 3
-0.25\t0 3
-0.5\t3 </s>

\\end\\
"""


def test_a_foreign_file_s_markers_are_bos_the_end_and_all_other_tokens(tmp_path: Path) -> None:
    """`<s>` is BOS and is never predicted, `<unk>` is token 2 alone, `</s>` is no token."""
    (tmp_path / "m.arpa").write_text(SMALL)
    model = import_arpa(tmp_path / "m.arpa", bos=1, vocab_size=4)
    with np.errstate(divide="ignore"):
        rows = np.log10(model.rows(np.array([[PAD], [1], [0], [3]], np.uint16)))
    nothing = -np.inf
    expected = [[-0.5, nothing, -2, -0.75], [-1, nothing, -2.5, -0.0625], [-0.75, nothing, -2.25, -0.25], [-0.625, nothing, -2.125, -0.875]]
    np.testing.assert_allclose(rows, expected)


def test_the_same_table_gives_the_same_golden_file(tmp_path: Path) -> None:
    counts = {(0,): 2, (2,): 1, (3,): 1, (1, 2): 3, (0, 3): 1, (0, 0): 1}
    table = table_of(counts, {(0,): 2}, [(0.5, 1.0, 1.5), (0.75, 1.0, 1.5)])
    export_arpa(table, tmp_path / "m.arpa")
    text = (tmp_path / "m.arpa").read_text()
    assert text.startswith(
        "\\data\\\nngram 1=12\nngram 2=3\n\n\\1-grams:\n-99\t<unk>\t0\n-99\t<s>\t0\n-99\t</s>\t0\n-0.5149098\t0\t-0.05799195\n"
    )
    assert text.endswith("\n\n\\2-grams:\n-0.4816689\t0 0\n-0.6566188\t0 3\n-0.2289436\t1 2\n\n\\end\\\n")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\\data\\\n", "", "line 1: not an ARPA file"),
        ("ngram 1=5", "ngram 1=900000000000000000000", "promises"),
        ("ngram 1=5", "ngram 1=50", "promises"),
        ("ngram 1=5", "ngram 1=-5", "expected 'ngram 1=COUNT'"),
        ("ngram 2=3", "ngram 3=3", "expected 'ngram 2=COUNT'"),
        ("ngram 2=3", "ngram 2=2", "line 15: expected \\end\\"),
        ("ngram 2=3", "ngram 2=4", "line 17: expected a probability, 2 words"),
        ("ngram 1=5\nngram 2=3\n", "", "no n-gram counts"),
        ("\t0\t-0.25", "\tzero\t-0.25", "word b'zero' is not a token id below 4"),
        ("\t0\t-0.25", "\t4\t-0.25", "word b'4' is not a token id below 4"),
        ("\t0\t-0.25", "\t00\t-0.25", "word b'00' is not a token id"),
        ("\t0\t-0.25", "\t3\t-0.25", "listed twice"),
        ("-0.5\t0\t", "0.5\t0\t", "line 9: log10 of a probability above 1"),
        ("-0.5\t0\t", "nan\t0\t", "log10 of a probability above 1"),
        ("-0.25\n", "1e300\n", "impossible backoff"),
        ("-0.5\t0\t", "half\t0\t", "line 9: a number cannot be read"),
        ("\t0 3", "\t2 3", "line 14: word b'2' is not among the 1-grams"),
        ("\t0 3", "\t0 3 3 3", "expected a probability, 2 words"),
        ("-0.25\t0 3", "-0.25\t<s> 3", "order 2 lists an n-gram twice"),
        ("\n\\end\\\n", "", "the file ends too early"),
        ("\\2-grams:", "\\3-grams:", "expected \\2-grams:"),
        ("-2\t<unk>", "x" * 5000, "longer than 4096 bytes"),
    ],
)
def test_a_malformed_file_is_one_line_that_names_file_and_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert SMALL.count(old) >= 1
    path = tmp_path / "bad.arpa"
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(FileFormatError) as caught:
        import_arpa(path, bos=1, vocab_size=4)
    message = str(caught.value)
    assert message.startswith(f"{path}: line ") and complaint in message and "\n" not in message


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_altered_file_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    original = SMALL.encode()
    start = data.draw(st.integers(0, len(original)))
    stop = data.draw(st.integers(start, min(len(original), start + 12)))
    altered = original[:start] + data.draw(st.binary(max_size=12)) + original[stop:]
    path = tmp_path_factory.getbasetemp() / "altered.arpa"
    path.write_bytes(altered)
    assert "\n" not in refusal(path)


def refusal(path: Path) -> str:
    """The error that reading the file ends with, empty if it can be read."""
    try:
        import_arpa(path, bos=1, vocab_size=4)
    except SeedgramError as error:
        return str(error)
    return ""


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(SeedgramError, match="cannot write"):
        export_arpa(make_model()[0], tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
