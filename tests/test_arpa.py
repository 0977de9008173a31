"""ARPA out and in: another reader gets our probabilities, we get others', and no file can do harm."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram.arpa import export_arpa
from ngram.arpa_reader import import_arpa
from ngram.errors import FileFormatError, SeedgramError
from ngram.table import PAD, NgramTable
from tests import kn_oracle

VOCAB, ORDER, BOS = 9, 4, 1
KENLM_TOLERANCE = 1e-4  # of log10 p, what issue 3 asks of KenLM's reader


def make_stream(size: int = 300, seed: int = 3) -> list[int]:
    """Documents of skewed tokens: contexts with one, few and many successors."""
    random = np.random.default_rng(seed)
    stream = (2 + random.binomial(VOCAB - 3, 0.3, size)).tolist()
    for at in [0, *random.integers(1, size, 6).tolist()]:
        stream[at] = BOS
    return stream


def table_of(counts: dict[tuple[int, ...], int], pruned: dict[tuple[int, ...], int], discounts: list[tuple[float, ...]]) -> NgramTable:
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


def make_model(min_count: int = 1) -> tuple[NgramTable, dict[tuple[int, ...], int], dict[tuple[int, ...], int], list[tuple[float, ...]]]:
    """(table, and the same as the oracle wants it: adjusted counts, pruned mass, discounts); rarer top n-grams are pruned."""
    raw, left = kn_oracle.raw_counts(make_stream(), ORDER, BOS)
    adjusted = kn_oracle.adjusted_counts(raw, left, ORDER, BOS)
    discounts = kn_oracle.discounts_of(adjusted, ORDER)
    pruned: dict[tuple[int, ...], int] = {}
    for gram in [g for g, c in raw.items() if len(g) == ORDER and c < min_count]:
        pruned[gram[:-1]] = pruned.get(gram[:-1], 0) + adjusted.pop(gram)
    return table_of(adjusted, pruned, discounts), adjusted, pruned, discounts


def random_histories(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Histories of every length, some beginning with BOS, most of them never seen."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        history = random.integers(2, VOCAB, random.integers(0, ORDER)).tolist()
        if history and random.random() < 0.3:
            history[0] = BOS
        found.append(tuple(history))
    return found


def padded(histories: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([[PAD] * (ORDER - 1 - len(h)) + list(h) for h in histories], np.uint16)


def read_plainly(path: Path) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
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


def katz(probabilities: dict[tuple[str, ...], float], backoffs: dict[tuple[str, ...], float], gram: tuple[str, ...]) -> float:
    """The format's recursion: the n-gram if it is listed, else its context's weight and the shorter one."""
    if gram in probabilities:
        return probabilities[gram]
    return backoffs.get(gram[:-1], 0.0) + katz(probabilities, backoffs, gram[1:])


@pytest.mark.parametrize("min_count", [1, 2])
def test_a_plain_reader_of_the_format_gets_the_oracle_s_probabilities(tmp_path: Path, min_count: int) -> None:
    table, *oracle = make_model(min_count)
    export_arpa(table, tmp_path / "m.arpa")
    listed = read_plainly(tmp_path / "m.arpa")
    for history in random_histories(60):
        expected = kn_oracle.distribution(*oracle, history, VOCAB, ORDER)
        got = [katz(*listed, tuple(map(str, (*history, token)))) for token in range(VOCAB)]
        np.testing.assert_allclose(got, np.log10(expected), atol=3e-6)


@pytest.mark.parametrize("min_count", [1, 2])
def test_export_and_import_give_the_oracle_s_rows_back(tmp_path: Path, min_count: int) -> None:
    table, *oracle = make_model(min_count)
    export_arpa(table, tmp_path / "m.arpa")
    model = import_arpa(tmp_path / "m.arpa", bos=BOS)
    histories = random_histories(60, seed=1)
    rows = model.rows(padded(histories))
    assert model.vocab_size == VOCAB and model.order == ORDER
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, [kn_oracle.distribution(*oracle, h, VOCAB, ORDER) for h in histories], rtol=1e-5)


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


def kenlm_scores(path: Path, grams: list[tuple[int, ...]]) -> np.ndarray:
    """log10 p of the last token of each n-gram by KenLM's own reader, from no context; skips without KenLM."""
    query = shutil.which("query", path=os.environ.get("KENLM_BIN", os.environ["PATH"]))
    if query is None:
        pytest.skip("KenLM's `query` is not on PATH or in KENLM_BIN; scripts/bench_kenlm.py says how to build it")
    lines = "".join(" ".join(map(str, gram)) + "\n" for gram in grams)
    out = subprocess.run([query, "-n", "-v", "word", str(path)], input=lines, capture_output=True, text=True, check=True, timeout=60).stdout
    scores = np.array([float(p) for p in re.findall(r"\S+=\d+ \d+ (\S+)", out)])  # one a word, of all lines in turn
    return scores[np.cumsum([len(gram) for gram in grams]) - 1]


@pytest.mark.parametrize("min_count", [1, 2])
def test_kenlm_reproduces_log10_probabilities_within_1e_4(tmp_path: Path, min_count: int) -> None:
    table, *oracle = make_model(min_count)
    export_arpa(table, tmp_path / "m.arpa")
    grams = [(*history, token) for history in random_histories(200, seed=2) for token in range(VOCAB)]
    expected = [np.log10(kn_oracle.distribution(*oracle, gram[:-1], VOCAB, ORDER)[gram[-1]]) for gram in grams]
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


def test_a_foreign_file_s_sentence_start_is_bos_and_its_other_markers_are_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "m.arpa").write_text(SMALL)
    model = import_arpa(tmp_path / "m.arpa", bos=1, vocab_size=4)
    rows = np.log10(model.rows(np.array([[PAD], [1], [0], [3]], np.uint16)))
    expected = [[-0.5, -99, -2, -0.75], [-1, -99.5, -2.5, -0.0625], [-0.75, -99.25, -2.25, -0.25], [-0.625, -99.125, -2.125, -0.875]]
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


def test_an_n_gram_whose_beginning_is_not_listed_is_refused(tmp_path: Path) -> None:
    third = SMALL.replace("ngram 2=3\n", "ngram 2=3\nngram 3=1\n").replace("\\end\\", "\\3-grams:\n-1\t3 3 0\n\n\\end\\")
    (tmp_path / "bad.arpa").write_text(third)
    with pytest.raises(FileFormatError, match="n-gram 3 3 0 has no entry for its first 2 words"):
        import_arpa(tmp_path / "bad.arpa", bos=1, vocab_size=4)


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
