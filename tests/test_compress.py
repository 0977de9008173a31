"""Any bytes come back identical; anything wrong is one line, exit code 2 and no output file."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid import __main__ as command
from hybrid import artifact, compress, evaluate, tokenizer
from hybrid.bpb import TokenBytes
from hybrid.distributed import Ranks
from ngram.errors import SeedgramError

pytestmark = pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="too much for plain Python kernels")
ROOT = Path(__file__).resolve().parent.parent
PUBLIC = ROOT.parent / "shared" / "tokenizers" / "fineweb_1024_bpe.model"
RANKS = Ranks(0, 1, torch.device("cpu"))
HARD = "a\n\tb  c\u00a0d\u00bd\ufb01 \u2581 \u4f60\U0001f600 e\u0301\r\n".encode() + bytes(range(256)) + b"\xed\xa0\x80\xff\xfe\xc0\x80"


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path)
    return path


def round_trip(data, art, folder):
    (folder / "in").write_bytes(data)
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


@pytest.mark.skipif(not PUBLIC.exists(), reason="public tokenizer not here")
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(deadline=None)
def test_a_normalising_tokenizer_loses_nothing(data):
    codec = public_tokenizer()
    for text in (data, HARD, b" x" + data + b" \n\n"):
        assert codec.decode_bytes(compress.with_bos(codec, text).tolist()) == text


def public_tokenizer(kept=[]):  # noqa: B006 - read once
    kept[:] = kept or [tokenizer.load(PUBLIC)]
    return kept[0]


def test_validation_text_has_as_many_bytes_as_the_challenge_counts():
    tokens = tiny.stream(seed=3, count=5)
    said = compress.text_bytes(tiny.tokenizer_bytes(), tokens)
    assert len(said) == TokenBytes.from_model(tiny.tokenizer_bytes()).count(tokens).sum()
    assert said.decode() == "".join(tiny.documents(5, 3))


def test_per_token_bits_add_up_to_the_blend(art, tmp_path, capsys):
    (tmp_path / "in").write_text("the cache and the gate score every token before")
    lines = compress.per_token(tmp_path / "in", art, RANKS)
    assert b"".join(piece.encode() for piece, *_ in lines) == (tmp_path / "in").read_bytes()
    loaded = artifact.load(art)
    tokens = compress.with_bos(tokenizer.load(loaded.tokenizer), (tmp_path / "in").read_bytes())
    expected = -np.log2(evaluate.mixed_scores(loaded, tokens, evaluate.EvalOptions(), RANKS))
    np.testing.assert_array_equal([blended for _, blended, *_ in lines], expected)
    assert all(network > 0 and ngrams > 0 for _, _, network, ngrams in lines)
    run_command(["score", str(tmp_path / "in"), "--artifact", str(art), "--per-token", "--json", str(tmp_path / "j")])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines) + 2
    assert printed[-1].endswith("bits per byte")


def run_command(argv):
    old, sys.argv = sys.argv, ["seedgram", *argv]
    try:
        return command.run()
    finally:
        sys.argv = old


def test_wrong_artifact_cut_or_altered_files_leave_no_output(art, tmp_path):
    (tmp_path / "in").write_bytes(b"the cache and the gate")
    compress.compress(tmp_path / "in", tmp_path / "packed", art, RANKS)
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
def test_bad_calls_are_one_line_and_exit_code_2(argv, art, tmp_path):
    flags = ["--artifact", str(art)] if len(argv) > 1 else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "hybrid", *argv, *flags], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert np.all(["Traceback" not in done.stderr])
