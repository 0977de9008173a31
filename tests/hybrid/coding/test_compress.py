"""Any bytes come back identical; anything wrong is one line, exit code 2 and no output file."""

import functools
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid.api.text_score import score_bytes
from hybrid.cli import seedgram as command
from hybrid.coding import compress
from hybrid.data import tokenizer
from hybrid.data.decoded_text import text_bytes
from hybrid.data.token_bytes import TokenBytes
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from ngram.errors import SeedgramError
from tests.support import loaded, tiny
from tests.support.paths import ROOT
from tests.support.tokenizers import kinds

RANKS = Ranks(0, 1, torch.device("cpu"))
HARD = "a\n\tb  c\u00a0d\u00bd\ufb01 \u2581 \u4f60\U0001f600 e\u0301\r\n".encode() + bytes(range(256)) + b"\xed\xa0\x80\xff\xfe\xc0\x80"


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path)
    return path


def round_trip(data, art, folder):
    """Through the coder, however short the bytes are."""
    (folder / "in").write_bytes(data)
    with mock.patch.object(compress, "is_worse", return_value=False):
        compress.compress(folder / "in", folder / "packed", art, RANKS)
    compress.decompress(folder / "packed", folder / "out", art)
    return (folder / "out").read_bytes()


@pytest.mark.parametrize("data", [b"", b"\0", b"a", HARD, " ".join(tiny.WORDS).encode() * 3], ids=["empty", "nul", "letter", "hard", "text"])
def test_bytes_come_back(data, art, tmp_path):
    assert round_trip(data, art, tmp_path) == data


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_come_back(art, tmp_path, data):
    assert round_trip(data, art, tmp_path) == data


def test_text_like_the_training_text_becomes_smaller(art, tmp_path):
    (tmp_path / "in").write_bytes("\n".join(tiny.documents(8, seed=5)).encode())
    result = compress.compress(tmp_path / "in", tmp_path / "packed", art, RANKS)
    assert result["file_bytes"] == (tmp_path / "packed").stat().st_size < 0.6 * result["bytes"]


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(deadline=None)
def test_a_normalising_tokenizer_loses_nothing(data):
    codec = normalising_tokenizer()
    for text in (data, HARD, b" x" + data + b" \n\n"):
        assert codec.decode_bytes(compress.with_bos(codec, text).tolist()) == text


@functools.cache
def normalising_tokenizer():
    return tokenizer.load(kinds()["public"])


def test_validation_text_has_as_many_bytes_as_the_challenge_counts():
    tokens = tiny.stream(seed=3, count=5)
    said = text_bytes(tiny.tokenizer_bytes(), tokens)
    assert len(said) == TokenBytes.from_model(tiny.tokenizer_bytes()).count(tokens).sum()
    assert said.decode() == "".join(tiny.documents(5, 3))


def test_per_token_bits_add_up_to_the_blend(art, tmp_path, capsys):
    (tmp_path / "in").write_text("the cache and the gate score every token before")
    loaded = artifact.load(art)
    found = score_bytes(loaded, tokenizer.load(loaded.tokenizer), (tmp_path / "in").read_bytes(), RANKS)
    assert b"".join(found.pieces) == (tmp_path / "in").read_bytes()
    tokens = compress.with_bos(tokenizer.load(loaded.tokenizer), (tmp_path / "in").read_bytes())
    np.testing.assert_array_equal(found.bits, evaluate.score_tokens(loaded, tokens, EvalOptions(), RANKS).bits)
    assert (found.network_bits > 0).all() and (found.ngram_bits > 0).all()
    run_command(["score", str(tmp_path / "in"), "--artifact", str(art), "--per-token", "--json", str(tmp_path / "j")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(found.bits) + 2
    assert printed[-1].endswith("bits per byte")


def run_command(argv):
    old, sys.argv = sys.argv, ["seedgram", *argv]
    try:
        return command.main()
    finally:
        sys.argv = old


def test_wrong_artifact_cut_or_altered_files_leave_no_output(art, tmp_path):
    round_trip(b"the cache and the gate", art, tmp_path)
    (tmp_path / "out").unlink()
    good = (tmp_path / "packed").read_bytes()
    tiny.write_artifact(tmp_path / "other.bin", cache=False)
    cases = {"cut": good[:-1], "altered": good[:-40] + bytes([good[-40] ^ 4]) + good[-39:], "foreign": b"PK\x03\x04" * 20, "nothing": b""}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SeedgramError, match=name):
            compress.decompress(tmp_path / name, tmp_path / "out", art)
    with pytest.raises(SeedgramError, match="another artifact"):
        compress.decompress(tmp_path / "packed", tmp_path / "out", tmp_path / "other.bin")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["compress", "no-such-file", "-o", "out"], ["decompress", "no-such-file", "-o", "out"], ["explode"], []])
def test_bad_calls_are_one_line_and_exit_code_2(argv, art, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tiny.exit_code(command, *argv, *(["--artifact", art] if len(argv) > 1 else [])) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_no_model_makes_smaller_is_stored_and_grows_by_forty_bytes(tmp_path, art):
    data = np.random.default_rng(0).bytes(700)
    (tmp_path / "in").write_bytes(data)
    report = compress.compress(tmp_path / "in", tmp_path / "out", art, RANKS)
    assert report["file_bytes"] == (tmp_path / "out").stat().st_size == len(data) + 40
    compress.decompress(tmp_path / "out", tmp_path / "back", art)
    assert (tmp_path / "back").read_bytes() == data
    for place in (0, 20, 300):
        altered = bytearray((tmp_path / "out").read_bytes())
        altered[place] ^= 1
        (tmp_path / "bad").write_bytes(altered)
        with pytest.raises(SeedgramError):
            compress.decompress(tmp_path / "bad", tmp_path / "nothing", art)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("flag", ["--json", "--out"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, art, capsys, monkeypatch, flag):
    monkeypatch.setattr(compress, "compress", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "in").write_bytes(b"the cat")
    places = {"--out": str(tmp_path / "out"), "--json": str(tmp_path / "json"), flag: str(tmp_path / "in" / "below")}
    flags = [word for pair in places.items() for word in pair]
    assert tiny.exit_code(command, "compress", tmp_path / "in", "--artifact", art, *flags) == 2
    assert "cannot write: Not a directory" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_standard_input_goes_in_and_the_coded_file_comes_out_of_standard_output(tmp_path, art):
    text = b"the cache scores every token before the gate learns"
    words = [loaded.python(), "-m", "hybrid", "compress", "-", "-o", "-", "--artifact", str(art)]
    done = subprocess.run(words, input=text, capture_output=True, check=False, timeout=300, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and b"bytes, compressed" in done.stderr, done.stderr
    (tmp_path / "coded").write_bytes(done.stdout)
    compress.decompress(tmp_path / "coded", tmp_path / "back", art)
    assert (tmp_path / "back").read_bytes() == text
