"""ARPA files of other toolkits: their <unk> is shared out, rows sum to 1 or are refused, and every way of writing one is read."""

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram.arpa.read import import_arpa, is_arpa_file
from ngram.arpa.write import export_arpa
from ngram.errors import FileFormatError, SeedgramError
from tests.support.arpa_oracle import BOS, VOCAB, Listed, katz, make_model, make_stream, padded, random_histories, read_plainly

MARKERS = ("<unk>", "<s>", "</s>")


def write_plainly(path: Path, probabilities: Listed, backoffs: Listed, head: str = "") -> Path:
    """An ARPA file of what a dictionary lists, as log10."""
    orders = range(1, max(map(len, probabilities)) + 1)
    lines = [f"ngram {n}={sum(len(gram) == n for gram in probabilities)}" for n in orders]
    for n in orders:
        lines += [f"\\{n}-grams:"]
        lines += [f"{p:.9f}\t{' '.join(gram)}\t{backoffs.get(gram, 0.0):.9f}" for gram, p in probabilities.items() if len(gram) == n]
    path.write_text(head + "\\data\\\n" + "\n".join([*lines, "\\end\\", ""]))
    return path


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listed, Listed]:
    """The oracle's model as dictionaries, without the markers that only our own writer puts there."""
    path = tmp_path_factory.mktemp("arpa") / "m.arpa"
    export_arpa(make_model()[0], path)
    probabilities, backoffs = read_plainly(path)
    return {gram: p for gram, p in probabilities.items() if gram[0] not in MARKERS}, backoffs


def rows_of(path: Path, vocab_size: int = VOCAB) -> np.ndarray:
    return import_arpa(path, bos=BOS, vocab_size=vocab_size).rows(padded(random_histories(80, seed=4)))


@st.composite
def normalised(draw: st.DrawFn) -> tuple[Listed, Listed]:
    """Unigrams and bigrams over some token ids, <unk> and </s> whose rows sum to 1 over these words."""
    words = ["<unk>", "</s>", *map(str, sorted(draw(st.sets(st.integers(2, 19), min_size=1, max_size=6))))]
    weights = {word: draw(st.integers(1, 50)) for word in words}
    p: Listed = {(word,): weights[word] / sum(weights.values()) for word in words}
    probabilities, backoffs = dict(p), dict[tuple[str, ...], float]()
    for context in draw(st.sets(st.sampled_from([w for w in words if w != "</s>"]), max_size=3)):
        chosen = draw(st.lists(st.sampled_from(words), unique=True, min_size=1, max_size=len(words) - 1))
        share = draw(st.floats(0.1, 0.9))
        probabilities |= {(context, word): share / len(chosen) for word in chosen}
        backoffs[context,] = (1 - share) / (1 - sum(p[word,] for word in chosen))
    return {gram: math.log10(x) for gram, x in probabilities.items()}, {gram: math.log10(x) for gram, x in backoffs.items()}


@given(normalised())
def test_the_mass_of_unk_is_shared_by_the_tokens_it_stands_for(
    tmp_path_factory: pytest.TempPathFactory, listed: tuple[Listed, Listed]
) -> None:
    path = write_plainly(tmp_path_factory.getbasetemp() / "unk.arpa", *listed)
    model = import_arpa(path, bos=BOS, vocab_size=20)
    known = {gram[0] for gram in listed[0] if len(gram) == 1}
    sharers = [str(token) for token in range(20) if str(token) not in known]
    histories = [(token,) for token in range(2, 20)]
    rows = model.rows(np.array(histories, np.uint16))
    for (last,), row in zip(histories, rows, strict=True):
        context = str(last) if str(last) in known else "<unk>"
        share = 10 ** katz(*listed, (context, "<unk>")) / len(sharers)
        expected = [share if str(token) in sharers else 10 ** katz(*listed, (context, str(token))) for token in range(20)]
        np.testing.assert_allclose(row, expected, rtol=1e-6)
        assert math.isclose(row.sum() + 10 ** katz(*listed, (context, "</s>")), 1, abs_tol=1e-6)
    stream = np.array([BOS, *range(2, 20), 2, 5, 2], np.uint16)
    scored = model.score(stream, 2, len(stream))
    np.testing.assert_allclose(scored, model.rows(stream[1:-1, None])[np.arange(len(scored)), stream[2:]], rtol=1e-12)
    assert model.check_sums(stream) == pytest.approx((1, 1), abs=1e-6)


def test_what_is_not_listed_costs_as_much_as_its_share_says(tmp_path: Path) -> None:
    """The file of 67 bytes that once scored 0.466 bits a byte: half of the mass for 1,022 tokens is 11 bits each."""
    path = write_plainly(tmp_path / "m.arpa", {("<unk>",): math.log10(0.5), ("260",): math.log10(0.25), ("261",): math.log10(0.25)}, {})
    model = import_arpa(path, bos=BOS, vocab_size=1024)
    assert -np.log2(model.score(np.array([1, 7, 260], np.uint16), 1, 3)) == pytest.approx([math.log2(2 * 1022), 2])


@pytest.mark.parametrize("what", ["every probability", "one context's probabilities", "one backoff weight"])
def test_scaled_probabilities_are_refused(tmp_path: Path, listed: tuple[Listed, Listed], what: str) -> None:
    probabilities, backoffs = dict(listed[0]), dict(listed[1])
    stream = np.array(make_stream(), np.uint16)
    context = (str(stream[40]),)
    if what == "every probability":
        probabilities = {gram: min(0.0, p + 1) for gram, p in probabilities.items()}
    elif what == "one backoff weight":
        backoffs[context] += 0.1
    else:
        probabilities |= {gram: min(0.0, p + 0.1) for gram, p in probabilities.items() if gram[:-1] == context}
    model = import_arpa(write_plainly(tmp_path / "m.arpa", probabilities, backoffs), bos=BOS, vocab_size=VOCAB)
    with pytest.raises(FileFormatError, match="m.arpa: its probabilities are none, they sum to 1?[0-9.]+ after a context of the text"):
        model.check_sums(stream)


def test_our_own_export_passes_the_check(tmp_path: Path) -> None:
    export_arpa(make_model()[0], tmp_path / "m.arpa")
    model = import_arpa(tmp_path / "m.arpa", bos=BOS)
    assert model.check_sums(np.array(make_stream(), np.uint16)) == pytest.approx((1, 1), abs=1e-5)


def as_iarpa(probabilities: Listed, backoffs: Listed) -> tuple[Listed, Listed]:
    """The same interpolated model as IRSTLM writes it: discounted frequencies instead of probabilities above order 1."""
    frequencies = {}
    for gram, p in probabilities.items():
        rest = 10 ** (backoffs.get(gram[:-1], 0.0) + katz(probabilities, backoffs, gram[1:])) if len(gram) > 1 else 0.0
        frequencies[gram] = math.log10(max(10**p - rest, 1e-30))
    return frequencies, backoffs


@pytest.mark.parametrize("way", ["gzip", "comments", "byte order mark", "CRLF", "iARPA", "blank lines"])
def test_the_same_model_is_read_from_every_way_of_writing_it(tmp_path: Path, listed: tuple[Listed, Listed], way: str) -> None:
    plain = write_plainly(tmp_path / "plain.arpa", *listed)
    text = plain.read_bytes()
    ways: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(text[:200]) + gzip.compress(text[200:]),
        "comments": lambda: b"# made by a toolkit\nCopyright (c)\n\n" + text,
        "byte order mark": lambda: b"\xef\xbb\xbf" + text,
        "CRLF": lambda: text.replace(b"\n", b"\r\n"),
        "iARPA": lambda: write_plainly(tmp_path / "i.arpa", *as_iarpa(*listed), head="iARPA\n\n").read_bytes(),
        "blank lines": lambda: text.replace(b"\n", b"\n\n"),
    }
    other = tmp_path / "other.lm"
    other.write_bytes(ways[way]())
    assert is_arpa_file(other)
    np.testing.assert_allclose(rows_of(other), rows_of(plain), rtol=1e-5, atol=1e-8)


def test_a_cut_gzip_file_is_one_line(tmp_path: Path) -> None:
    export_arpa(make_model()[0], tmp_path / "m.arpa")
    (tmp_path / "cut.gz").write_bytes(gzip.compress((tmp_path / "m.arpa").read_bytes())[:-50])
    with pytest.raises(FileFormatError, match="cut.gz: cut or damaged"):
        import_arpa(tmp_path / "cut.gz", bos=BOS)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("iarpa", [False, True])
def test_a_beginning_that_is_not_listed_is_restored(tmp_path: Path, listed: tuple[Listed, Listed], iarpa: bool, length: int) -> None:
    """What another toolkit left out is as probable as backing off makes it, and its own distribution still sums to 1."""
    probabilities, backoffs = listed
    parts = as_iarpa(*listed) if iarpa else listed
    for gone in sorted({gram[:length] for gram in probabilities if len(gram) > length})[::9]:
        left = {gram: p for gram, p in parts[0].items() if gram != gone}
        weights = {gram: b for gram, b in backoffs.items() if gram != gone}
        model = import_arpa(write_plainly(tmp_path / "m.arpa", left, weights, head="iARPA\n" if iarpa else ""), bos=BOS, vocab_size=VOCAB)
        assert model.restored == 1
        before, behind = model.rows(padded([tuple(map(int, gone[:-1])), tuple(map(int, gone))]))
        backed_off = backoffs[gone[:-1]] + katz(*listed, gone[1:])
        assert before[int(gone[-1])] == pytest.approx(10**backed_off, rel=1e-5)
        assert behind.sum() == pytest.approx(1, abs=1e-5)
        listed_after = {int(gram[-1]): p for gram, p in probabilities.items() if gram[:-1] == gone}
        if not iarpa:
            assert behind[list(listed_after)] == pytest.approx([10**p for p in listed_after.values()], rel=1e-5)


def test_beginnings_of_several_lengths_are_restored_together(tmp_path: Path, listed: tuple[Listed, Listed]) -> None:
    probabilities, backoffs = listed
    gone = {gram[:n] for gram in [gram for gram in probabilities if len(gram) == 4][::7] for n in (2, 3)}
    left = {gram: p for gram, p in probabilities.items() if gram not in gone}
    model = import_arpa(write_plainly(tmp_path / "m.arpa", left, backoffs), bos=BOS, vocab_size=VOCAB)
    assert model.restored == len(gone) > 5
    histories = [(), *([(token,) for token in range(2, VOCAB)])]
    expected = [[10 ** katz(left, backoffs, (*map(str, h), str(v))) for v in range(VOCAB)] for h in histories]
    np.testing.assert_allclose(model.rows(padded(histories)), expected, rtol=1e-5)


def test_a_token_without_probability_is_an_error_and_no_tiny_figure(tmp_path: Path) -> None:
    half = math.log10(0.5)
    cases: dict[str, Listed] = {
        "no probability for token 5 of the text, and no <unk>; make": {("3",): half, ("4",): half},
        "and no <unk>": {("3",): half, ("4",): half, ("<s>",): -99.0},
        "probability 0 to token 5 at place 2": {("3",): half, ("4",): half, ("<unk>",): -99.0},
        "probability 0 to token 5": {("3",): half, ("4",): half, ("5",): -98.9622},
    }
    for said, unigrams in cases.items():
        model = import_arpa(write_plainly(tmp_path / "m.arpa", unigrams, {}), bos=BOS, vocab_size=9)
        with pytest.raises(SeedgramError, match=said):
            model.score(np.array([BOS, 3, 5], np.uint16), 1, 3)


def test_a_file_without_the_opening_line_is_no_arpa_file(tmp_path: Path) -> None:
    for content in (b"", b"words\n" * 5, b"x" * 100_000, b"\x1f\x8b nothing packed"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(SeedgramError):
            import_arpa(tmp_path / "f", bos=BOS)
    (tmp_path / "f").write_bytes(b"# \\data\\ in a comment\nword\n")
    assert not is_arpa_file(tmp_path / "f")
