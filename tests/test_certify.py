"""A certified number is the size of a file that another process decodes; whatever is wrong with that file is one line."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid import artifact, certify, evaluate, fingerprint, stream_coder
from hybrid.adapt import SCOPES
from hybrid.config import ModelConfig
from hybrid.data import write_shard
from hybrid.distributed import Ranks
from hybrid.lockstep import Layout, Lockstep
from hybrid.model import HybridLM
from hybrid.step_model import StepModel
from ngram import container
from ngram.errors import FileFormatError, SeedgramError
from ngram.online import OnlineCache

pytestmark = pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="too much for plain Python kernels")
CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent

SMALL = {"vocab_size": 50, "layers": 4, "d_model": 48, "heads": 4, "kv_heads": 2, "mlp_mult": 2.0, "rank_attention": 4, "rank_mlp": 4}
EXTRAS = {
    "bigram_buckets": 64, "bigram_dim": 8, "value_embed_dim": 8, "value_embed_layers": 2, "xsa_layers": 2, "smear_gate": True,
    "value_residual": True, "skips": True, "depth_norm_scale": True, "hidden_gate": True, "feature_gain": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "a.bin"
    tiny.write_artifact(path)
    return path


@pytest.fixture(scope="module")
def coded(tiny_file):
    """(artifact, its digest, tokens, file, Coded) of one encoded stream."""
    art, sha = artifact.load(tiny_file), stream_coder.artifact_sha256(tiny_file)
    tokens = tiny.stream(seed=2, count=10)
    options = stream_coder.Settings(len(tokens), 5, 0, True, 64, "text")
    return art, sha, tokens, *stream_coder.encode(art, sha, tokens, options, CPU)


@pytest.mark.parametrize(
    "extras",
    [{"rope_dims": 4}, {"rope_dims": 0, "activation": "swiglu", "freeze": "mlp_up"}, {"rope_dims": 4, **EXTRAS}],
    ids=["plain", "swiglu", "everything"],
)
def test_stepping_token_by_token_equals_the_whole_window(extras):
    torch.manual_seed(1)
    model = HybridLM(ModelConfig(**SMALL, basis="rademacher", **extras))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        tokens = torch.randint(0, 50, (3, 12))
        whole = model(tokens)
    stepper = StepModel(model, 3, 12, CPU)
    for _ in range(2):  # a restarted window sees nothing of the one before
        for at in range(12):
            assert torch.allclose(stepper.step(tokens[:, at]), whole[:, at], atol=2e-5)
        with pytest.raises(ValueError, match="full"):
            stepper.step(tokens[:, 0])
        stepper.restart()


@pytest.mark.parametrize("grain", [1, 5, 64])
def test_a_span_beyond_the_position_sees_nothing_that_is_yet_to_come(grain):
    """What a CUDA graph needs, fixed shapes with the future masked, equals the plain step: also where an old window lies in the memory."""
    torch.manual_seed(1)
    model = HybridLM(ModelConfig(**SMALL, basis="rademacher", rope_dims=4, **EXTRAS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        tokens = torch.randint(0, 50, (2, 3, 12))
        stepper = StepModel(model, 3, 12, CPU, grain)
        for window in tokens:
            whole = model(window)
            for at in range(12):
                assert torch.allclose(stepper.step(window[:, at]), whole[:, at], atol=2e-5)
            stepper.restart()


def columns_of(art, tokens, *, threads, streams=80, stride=0):
    """Every column's whole distributions, and the lockstep that made them."""
    layout = Layout(len(tokens), streams, -(-len(tokens) // streams))
    lockstep = Lockstep(
        art.model, OnlineCache(art.table), evaluate.load_gate(art, learning=True), layout,
        seq_len=8, stride=stride, online=True, chunk_tokens=100, device=CPU, threads=threads,
    )  # fmt: skip
    columns, found = layout.cut(tokens), []
    for column in range(layout.length):
        step = lockstep.predict()
        found.append((step.mixed.copy(), step.mass.copy()))
        lockstep.learn(columns[:, column])
    lockstep.close()
    return found, lockstep


@pytest.mark.parametrize("stride", [0, 3])
def test_rows_are_distributions_and_threads_change_no_bit(coded, stride):
    art, tokens = coded[0], tiny.stream(seed=4, count=40)[:1500]
    alone, _ = columns_of(art, tokens, threads=1, stride=stride)
    shared, lockstep = columns_of(art, tokens, threads=3, stride=stride)
    for (mixed, mass), (other, other_mass) in zip(alone, shared, strict=True):
        assert np.array_equal(mixed, other)
        assert np.array_equal(mass, other_mass)
        assert np.abs(mixed.sum(axis=1) - 1).max() <= 1e-12
        assert np.allclose(mass, mixed.reshape(len(mixed), -1, 32).sum(axis=2), rtol=1e-12)
    assert set(lockstep.seconds) == {"network", "cache", "gate", "product", "mix"}
    assert min(lockstep.seconds.values()) > 0


def test_the_cache_of_a_lockstep_has_counted_column_by_column_in_stream_order(coded):
    art, tokens = coded[0], tiny.stream(seed=4, count=40)[:1500]
    _, lockstep = columns_of(art, tokens, threads=2)
    expected, streams = OnlineCache(art.table), lockstep.layout.cut(tokens)
    for column in range(1, lockstep.layout.length):
        for s in lockstep.layout.active(column):
            expected.update(streams[s], column, column + 1)
    assert lockstep.cache.digest() == expected.digest()


@given(st.integers(0, 3000), st.integers(1, 70), st.integers(1, 100))
@settings(deadline=None)
def test_every_token_has_one_place_in_the_streams(tokens, streams, seq_len):
    layout = Layout.plan(tokens, streams, seq_len)
    assert 1 <= layout.streams <= max(streams, 1)
    assert tokens <= layout.streams * layout.length
    assert sum(len(layout.active(column)) for column in range(layout.length)) == tokens
    assert layout.streams == 1 or layout.length % seq_len == 0
    values = np.arange(tokens, dtype=np.uint16)
    assert np.array_equal(layout.cut(values).reshape(-1)[:tokens], values)


def test_decoding_gives_the_tokens_and_the_promised_size(coded):
    art, sha, tokens, data, made = coded
    found = stream_coder.decode(art, sha, data, "F")
    assert np.array_equal(found.tokens, tokens)
    assert found.bits == made.bits
    assert abs(8 * made.payload_bytes - made.bits) <= 0.001 * made.bits + 64 * made.streams
    assert made.header_bytes <= stream_coder.MAX_HEADER
    assert made.streams > 1


def test_encoding_twice_gives_the_same_bytes(coded):
    art, sha, tokens, data, _ = coded
    options = stream_coder.Settings(len(tokens), 5, 0, True, 64, "text")
    assert stream_coder.encode(art, sha, tokens, options, CPU)[0] == data


TAUGHT = [{"t": (32, 0.01, 0.1, "matrices")}, {"t": (16, 0.01, 0.0, "all"), "stride": 8, "s": 2}]


@pytest.mark.parametrize("change", [{"o": False}, {"stride": 8}, {"s": 1}, *TAUGHT])
def test_every_setting_round_trips(coded, change):
    art, sha, tokens, _, _ = coded
    tokens = tokens[:150]
    options = dataclasses.replace(stream_coder.Settings(len(tokens), 5, 0, True, 64, "text"), **change)
    data, _ = stream_coder.encode(art, sha, tokens, options, CPU)
    assert np.array_equal(stream_coder.decode(art, sha, data, "F").tokens, tokens)


def test_streams_of_every_scope_decode_and_differ_only_where_something_learned(coded):
    """A decoder that took another scope than its file says would lose the text."""
    art, sha, tokens, _, _ = coded
    tokens, payloads = tokens[:150], set()
    for scope in SCOPES:
        options = stream_coder.Settings(len(tokens), 2, 0, True, 64, "text", (16, 0.01, 0.0, scope))
        data, made = stream_coder.encode(art, sha, tokens, options, CPU)
        found = stream_coder.decode(art, sha, data, "F")
        assert np.array_equal(found.tokens, tokens) and found.bits == made.bits
        payloads.add(container.unpack(data, stream_coder.MAGIC, stream_coder.VERSION, "F")[1]["p"])
    assert len(payloads) == len(SCOPES)


def test_an_artifact_without_a_cache_codes_too(tmp_path):
    tiny.write_artifact(tmp_path / "b.bin", cache=False)
    art, tokens = artifact.load(tmp_path / "b.bin"), tiny.stream(seed=2, count=2)
    data, _ = stream_coder.encode(art, "0" * 64, tokens, stream_coder.Settings(len(tokens), 4, 0, True, 64, "text"), CPU)
    assert np.array_equal(stream_coder.decode(art, "0" * 64, data, "F").tokens, tokens)


@pytest.mark.parametrize("online", [False, True])
def test_the_coder_uses_the_same_probabilities_as_the_evaluation(coded, online):
    """With one stream the order is eval.py's, so the bits must be too: cache and its rows after every token, gate every 64 (the first token is extra)."""
    art, sha, tokens, _, _ = coded
    bits = []
    for n in (200, 1):
        _, made = stream_coder.encode(art, sha, tokens[:n], stream_coder.Settings(n, 1, 0, online, 64, "text"), CPU)
        bits.append(made.bits)
    mixed = evaluate.mixed_scores(art, tokens[:200], evaluate.EvalOptions(chunk_tokens=64, read_tokens=1, online=online), Ranks(0, 1, CPU))
    assert bits[0] - bits[1] == pytest.approx(-np.log2(mixed).sum(), rel=1e-6)


def test_another_machine_is_refused_and_the_difference_named(coded, monkeypatch):
    art, sha, _, data, _ = coded
    real = fingerprint.fingerprint(CPU)
    monkeypatch.setattr(fingerprint, "fingerprint", lambda device: {**real, "t": "9.9", "p": "Abacus"})
    with pytest.raises(fingerprint.FingerprintError, match=r"F: .*processor .* 'Abacus' here; torch .* '9.9' here"):
        stream_coder.decode(art, sha, data, "F")


def test_another_artifact_is_refused(coded):
    art, _, _, data, _ = coded
    with pytest.raises(FileFormatError, match="F: made with another artifact"):
        stream_coder.decode(art, hashlib.sha256(b"other").hexdigest(), data, "F")


def test_a_cut_or_altered_file_is_refused(coded):
    art, sha, _, data, _ = coded
    for at in range(0, len(data), 37):
        with pytest.raises(SeedgramError, match="F: "):
            stream_coder.decode(art, sha, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "F")
        with pytest.raises(SeedgramError, match="F: "):
            stream_coder.decode(art, sha, data[:at], "F")


@pytest.mark.parametrize(
    "change",
    [
        {"n": -1},
        {"n": 1 << 50},
        {"s": 0},
        {"kind": "x"},
        {"g": 0},
        {"o": 1},
        {"n": "7"},
        {"t": [1]},
        {"t": [1, 0.1, 0.0]},
        {"t": [1, -1.0, 0.0, "all"]},
        {"t": ["a", 0.1, 0.0, "all"]},
        {"t": [float("inf"), 0.1, 0.0, "all"]},
        {"t": [1, 0.1, 0.0, "embeddings"]},
        {"t": [1, 0.1, 0.0, ["all"]]},
        {"t": [1, 0.1, 0.0, "all", "all"]},
        {"t": 3},
    ],
)
def test_a_forged_header_is_refused(coded, change):
    art, sha, _, data, _ = coded
    header, sections = container.unpack(data, stream_coder.MAGIC, stream_coder.VERSION, "F")
    forged = container.pack(stream_coder.MAGIC, stream_coder.VERSION, {**header, "set": {**header["set"], **change}}, sections)
    with pytest.raises(FileFormatError, match="F: malformed header"):
        stream_coder.decode(art, sha, forged, "F")


def test_a_certificate_passes_and_is_decoded_by_a_process_that_has_nothing_else(tiny_file, tmp_path):
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=30))
    result = certify.certify(
        str(tiny_file), [tmp_path / "x_val_000000.bin"], str(tmp_path / "F"), certify.CertifyOptions(2000, 8), Ranks(0, 1, CPU)
    )
    assert result["passed"], result
    assert 2000 <= result["bytes"] < 2020
    assert result["certified_bpb"] == pytest.approx(8 * result["payload_bytes"] / result["bytes"])
    assert "certificate PASSED" in certify.text(result)
    for spent in (result["encode_seconds"], result["decode_seconds"]):
        assert set(spent) == {"network", "cache", "gate", "product", "mix", "coder"}
    json.dumps(result)


def test_more_text_than_there_is_and_a_failing_decoder_are_one_error(tiny_file, tmp_path, monkeypatch):
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=3))
    shards, ranks = [tmp_path / "x_val_000000.bin"], Ranks(0, 1, CPU)
    with pytest.raises(SeedgramError, match=r"lower --bytes 1,000,000"):
        certify.certify(str(tiny_file), shards, str(tmp_path / "F"), certify.CertifyOptions(10**6), ranks)
    broken = subprocess.CompletedProcess([], 2, "", "FingerprintError: other machine\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: broken)
    with pytest.raises(SeedgramError, match="failed with code 2: FingerprintError: other machine; the score is not certified"):
        certify.certify(str(tiny_file), shards, str(tmp_path / "F"), certify.CertifyOptions(50), ranks)


@pytest.mark.parametrize("flags", [["--bytes", "0", "--out", "x"], ["--out", "x"], ["--bytes", "9", "--out", "x", "--nonsense"]])
def test_bad_flags_are_one_line_and_exit_code_2(flags, tiny_file):
    command = [sys.executable, str(ROOT / "eval.py"), "certify", "--artifact", str(tiny_file), "--data", "none", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_block_of_tokens_is_as_many_steps_and_new_weights_are_taken_over(tiny_file):
    art = artifact.load(tiny_file)
    tokens = torch.from_numpy(np.stack([tiny.stream(seed=s)[:40] for s in range(3)]).astype(np.int64)) % tiny.VOCAB
    steps, block = (StepModel(art.model, 3, 40, CPU) for _ in range(2))
    for at in range(40):
        expected = steps.step(tokens[:, at])
    block.step(tokens[:, 0])  # a block that begins inside a window
    torch.testing.assert_close(block.extend(tokens[:, 1:]), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="has no room for 2 after 40"):
        block.extend(tokens[:, :2])
    with torch.no_grad():
        for p in art.model.parameters():
            p.mul_(0.9)
    block.reload()
    fresh = StepModel(art.model, 3, 40, CPU)
    torch.testing.assert_close(block.extend(tokens[:, :5]), fresh.extend(tokens[:, :5]), atol=0, rtol=0)


@pytest.mark.parametrize("scope", ["matrices", "scalars", "all"])
def test_one_adapted_stream_is_scored_as_the_evaluation_scores_it(tiny_file, scope):
    """One stream and chunks of one window: the coder's order is eval.py's, and so are its steps."""
    from hybrid import evaluate
    from hybrid.adapt import AdaptConfig

    art, tokens = artifact.load(tiny_file), tiny.stream(seed=2, count=12)[:161]  # five windows of 32
    adapt = AdaptConfig(32, 0.01, 0.1, scope)
    bits = []
    for n in (161, 1):
        settings = stream_coder.Settings(n, 1, 0, True, 64, "text", (32, 0.01, 0.1, scope))
        bits.append(stream_coder.encode(art, "0" * 64, tokens[:n], settings, CPU)[1].bits)
    mixed = evaluate.mixed_scores(art, tokens, evaluate.EvalOptions(chunk_tokens=64, read_tokens=1, adapt=adapt), Ranks(0, 1, CPU))
    frozen = evaluate.mixed_scores(art, tokens, evaluate.EvalOptions(chunk_tokens=64, read_tokens=1), Ranks(0, 1, CPU))
    assert np.abs(np.log2(mixed) - np.log2(frozen)).sum() > 1  # the steps matter
    assert bits[0] - bits[1] == pytest.approx(-np.log2(mixed).sum(), rel=1e-5)
