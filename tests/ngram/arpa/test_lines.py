"""The compiled reader of ARPA lines gives what the line-by-line definition gives, bit for bit, however a file is written."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ngram.arpa import lines, read
from ngram.arpa.model import ArpaModel
from ngram.errors import SeedgramError

pytestmark = pytest.mark.kernels

WORDS = ["a", "b", "ab", "naïve", "\u3000", "<unk>", "<s>", "</s>"]
NUMBERS = [
    "-1", "-0.5", "-1.25", "0", "-0", "-0.0", "-00.10", "-3.", "-.5", "+0", "-99", "-1e-05", "-0.30102999566398120", "-0.1234567", "-123456789.1234567",
    "-0.000000000000001", "-0.0000000000000001", "nan", "-inf", "inf", "0.0000001", "0.1", "1_0", "-1_0", "--1", "-", ".", "-1.2.3", "x", "39", "-٣",
]  # fmt: skip
SPACES = [" ", "\t", "  ", " \t", "\x0b", "\x0c", "\r"]
ENDS = ["\n", "\r\n", " \n", "\n\n", "\n \t\n"]


def read_both(data: bytes, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the reader says of a file with the compiled lines, and without them."""
    found: list[Any] = []
    for plain in (lines.Lines.plain, lambda *_: (0, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(lines, "CHUNK_BYTES", chunk_bytes)
            patch.setattr(lines.Lines, "plain", plain)
            parser = read._WordParser(io.BytesIO(data), "m.arpa", len(data))  # type: ignore[arg-type]
            try:
                found.append((parser.model(), parser.names, parser.lines.number))
            except SeedgramError as error:
                found.append(str(error))
    return found


def assert_same(data: bytes, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int = 1 << 22) -> Any:
    fast, slow = read_both(data, chunk_bytes, monkeypatch)
    if isinstance(slow, str):
        assert fast == slow
        return slow
    assert fast[1:] == slow[1:] and (fast[0].decimals, fast[0].restored, fast[0].bos) == (slow[0].decimals, slow[0].restored, slow[0].bos)
    for one, other in zip([*fast[0].keys, *fast[0].log10_p, *fast[0].log10_b], [*slow[0].keys, *slow[0].log10_p, *slow[0].log10_b], strict=True):
        assert one.tobytes() == other.tobytes()
    return fast[0]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Bigrams in odd numbers, with odd spaces and ends of lines; some with too few or too many fields, or words that are not listed."""
    grams = draw(st.lists(st.tuples(st.sampled_from([*WORDS, "zz"] if draw(st.booleans()) else WORDS), st.sampled_from(WORDS)), max_size=6, unique=True))
    numbers = st.sampled_from(NUMBERS if draw(st.booleans()) else NUMBERS[:17])
    rows = []
    for gram in grams:
        fields = [draw(numbers), *gram, *([draw(numbers)] if draw(st.booleans()) else []), *(["-1"] if draw(st.integers(0, 19)) == 0 else [])]
        rows.append(draw(st.sampled_from(["", "", " "])) + draw(st.sampled_from(SPACES)).join(fields) + draw(st.sampled_from(ENDS)))
    head = "".join(f"-{0.5 + i}\t{word}\t-0.25\n" for i, word in enumerate(WORDS))
    text = f"\\data\\\nngram 1={len(WORDS)}\nngram 2={len(rows)}\n\n\\1-grams:\n{head}\n\\2-grams:\n{''.join(rows)}\n\\end\\\n"
    return text.encode()


@pytest.fixture(scope="module")
def patcher() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@given(files(), st.sampled_from([1, 7, 64, 1 << 22]))
@settings(max_examples=300)
def test_odd_files_are_read_or_refused_as_by_the_definition(patcher: pytest.MonkeyPatch, data: bytes, chunk_bytes: int) -> None:
    assert_same(data, patcher, chunk_bytes)


def arpa(bigrams: str, count: int, head: str = "") -> bytes:
    unigrams = "-1 <unk>\n-99 <s> -0.3\n-0.5 a -0.2\n-0.5 b -0.1\n-1 </s>\n"
    return f"{head}\\data\\\nngram 1=5\nngram 2={count}\n\\1-grams:\n{unigrams}\\2-grams:\n{bigrams}\\end\\\n".encode()


@pytest.mark.parametrize(
    "data",
    [
        arpa("-0.5 a b\n-0.2 <s> a\n", 2),
        b"\xef\xbb\xbf" + arpa("-0.5 a b\n", 1, "a licence\nin two lines\n"),
        arpa("-0.5 a b\n-0.25 b b\n", 2, "iARPA\n"),
        arpa(f"-0.5 a{' ' * 4080}b\n", 1),
        arpa(f"-0.5 a{' ' * 4090}b\n", 1),
        arpa("-0.5 a b\n", 2),
        arpa("-0.5 a b\n-0.5 a b\n", 2),
        arpa("-0.5 a c\n", 1),
        arpa("-0.5 a b", 1)[:-7],
        arpa("-0.5 a\x00 b\n", 1),
    ],
    ids=["plain", "mark", "iARPA", "long", "too long", "too few", "twice", "unknown", "cut", "zero byte"],
)
def test_files_of_other_toolkits_and_broken_ones(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk_bytes in (1, 1 << 22):
        assert_same(data, monkeypatch, chunk_bytes)


def test_plain_lines_are_read_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the two ways above were one."""
    called: list[int] = []
    monkeypatch.setattr(read._WordParser, "one_line", lambda self, n: called.append(n) or read._Parser.one_line(self, n))
    grams = "".join(f"-0.{i + 1}\t{a} {b}\t-0.0{i + 1}\n" for i, (a, b) in enumerate([("a", "b"), ("b", "a"), ("<s>", "a"), ("a", "</s>")]))
    model = assert_same_once(arpa(grams, 4))
    assert called == [1] * 5 and model.log10_p[1].tolist() == [-0.3, -0.1, -0.4, -0.2]


def assert_same_once(data: bytes) -> ArpaModel:
    return read._WordParser(io.BytesIO(data), "m.arpa", len(data)).model()  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 10**15 - 1), st.integers(0, 15), st.booleans()), min_size=1, max_size=30))
def test_a_number_is_the_nearest_float64(numbers: list[tuple[int, int, bool]]) -> None:
    for digits, decimals, negative in numbers:
        text = f"{digits:0{decimals + 1}d}"
        text = ("-" if negative else "") + (f"{text[:-decimals]}.{text[-decimals:]}" if decimals else text)
        value, places = lines._number(np.frombuffer(text.encode(), np.uint8), 0, len(text))
        if len(text.replace("-", "").replace(".", "")) <= lines.MOST_DIGITS:
            assert np.float64(value).tobytes() == np.float64(text).tobytes() and places == decimals
        else:
            assert np.isnan(value)
