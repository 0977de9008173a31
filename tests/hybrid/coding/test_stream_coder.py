"""Streams coded side by side: the bytes come back, at the size that the probabilities promise; a foreign or altered file is one line."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.coding import compress, fingerprint, stream_coder
from hybrid.coding.lockstep import Layout, Lockstep
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.mixture import Mixture, load_gate
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.storing import artifact
from ngram import container
from ngram.errors import FileFormatError, SeedgramError
from ngram.online.cache import OnlineCache
from ngram.row_at import row_at
from ngram.score_first import ScoreFirst
from tests.support import tiny

CPU = torch.device("cpu")


def five(tokens, streams=5, **options):
    return stream_coder.Settings(len(tokens), streams, "text", EvalOptions(**options))


def columns_of(art, tokens, *, threads, streams=80, stride=0):
    """Every column's whole distributions, and the lockstep that made them."""
    layout, mixture = Layout(len(tokens), streams, -(-len(tokens) // streams)), Mixture(load_gate(art.gate, learning=True), 100)
    lockstep = Lockstep(art.model, OnlineCache(art.table), mixture, layout, seq_len=8, stride=stride, device=CPU, threads=threads)
    order, found = ScoreFirst(layout.columns(tokens), {"wide": lockstep}), []
    for t in range(1, layout.length + 1):
        step = row_at(order, t)["wide"]
        found.append((step.mixed.copy(), step.mass.copy()))
        order.score_then_update(t, t + 1)
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
    expected, streams = OnlineCache(art.table), lockstep.tokens
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
    assert np.array_equal(layout.columns(values)[1:].T.reshape(-1)[:tokens], values)


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
    assert stream_coder.encode(art, sha, tokens, five(tokens), CPU, b"")[0] == data


TAUGHT = [{"adapt": AdaptConfig(32, 0.01)}, {"adapt": AdaptConfig(16, 0.01), "stride": 8, "streams": 2}]
SWITCHES = [{"match": False}, {"product": False}, {"match": False, "product": False, "gate_learns": False}]


@pytest.mark.parametrize("change", [{"online": False}, {"stride": 8}, {"streams": 1}, *TAUGHT, *SWITCHES])
def test_every_setting_round_trips(coded, change):
    art, sha, tokens, _, _ = coded
    tokens = tokens[:150]
    data, made = stream_coder.encode(art, sha, tokens, five(tokens, **change), CPU, b"")
    found = stream_coder.decode(art, sha, data, "F")
    assert np.array_equal(found.tokens, tokens)
    assert np.array_equal(found.each, made.each)
    assert made.each.sum() == pytest.approx(made.bits, rel=1e-12)


def test_streams_differ_where_something_learned(coded):
    """A decoder that learned otherwise than its file says would lose the text."""
    art, sha, tokens, _, _ = coded
    made = [stream_coder.encode(art, sha, tokens[:150], five(tokens[:150], 2, adapt=adapt), CPU, b"")[0] for adapt in (None, AdaptConfig(16, 0.01))]
    payloads = {container.unpack(data, stream_coder.MAGIC, stream_coder.VERSION, "F")[1]["p"] for data in made}
    assert len(payloads) == 2


def test_an_artifact_without_a_cache_codes_too(tmp_path):
    tiny.write_artifact(tmp_path / "b.bin", cache=False)
    art, tokens = artifact.load(tmp_path / "b.bin"), tiny.stream(seed=2, count=2)
    for streams in (4, stream_coder.IN_ORDER):
        data, _ = stream_coder.encode(art, "0" * 64, tokens, five(tokens, streams), CPU, b"")
        assert np.array_equal(stream_coder.decode(art, "0" * 64, data, "F").tokens, tokens)


@pytest.mark.parametrize("online", [False, True])
def test_the_coder_uses_the_same_probabilities_as_the_evaluation(coded, online):
    """With one stream the order is eval.py's, so the bits must be too: cache and its rows after every token, gate every 64 (the first token is extra)."""
    art, sha, tokens, _, _ = coded
    bits = []
    for n in (200, 1):
        _, made = stream_coder.encode(art, sha, tokens[:n], five(tokens[:n], 1, online=online), CPU, b"")
        bits.append(made.bits)
    expected = evaluate.score_tokens(art, tokens[:200], EvalOptions(read_tokens=1, online=online), Ranks(0, 1, CPU)).bits
    assert bits[0] - bits[1] == pytest.approx(expected.sum(), rel=1e-6)


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
        {"s": -1},
        {"n": 1, "s": 0},
        {"kind": "x"},
        {"n": "7"},
        {"first": 1 << 16},
        {"first": True},
        {"opt": {"chunk_tokens": -1}},
        {"opt": {"online": 1}},
        {"opt": {"read_tokens": 0}},
        {"opt": {"paranoid": True}},
        {"opt": {"adapt": [1]}},
        {"opt": {"adapt": [1, 0.1, 0.0]}},
        {"opt": {"adapt": [1, -1.0, 0.0, "all"]}},
        {"opt": {"adapt": ["a", 0.1, 0.0, "all"]}},
        {"opt": {"adapt": [float("inf"), 0.1, 0.0, "all"]}},
        {"opt": {"adapt": [1, 0.1, 0.0, "embeddings"]}},
        {"opt": {"adapt": [1, 0.1, 0.0, ["all"]]}},
        {"opt": {"adapt": [1, 0.1, 0.0, "all", "all"]}},
        {"opt": {"adapt": 3}},
        {"opt": 3},
    ],
)
def test_a_forged_header_is_refused(coded, change):
    art, sha, _, data, _ = coded
    header, sections = container.unpack(data, stream_coder.MAGIC, stream_coder.VERSION, "F")
    forged = container.pack(stream_coder.MAGIC, stream_coder.VERSION, {**header, "set": {**header["set"], **change}}, sections)
    with pytest.raises(FileFormatError, match="F: malformed header"):
        stream_coder.decode(art, sha, forged, "F")


def test_one_adapted_stream_is_scored_as_the_evaluation_scores_it(tiny_file):
    """One stream and chunks of one window: the coder's order is eval.py's, and so are its steps."""
    art, tokens = artifact.load(tiny_file), tiny.stream(seed=2, count=12)[:161]  # five windows of 32
    adapt = AdaptConfig(32, 0.01)
    bits = []
    for n in (161, 1):
        bits.append(stream_coder.encode(art, "0" * 64, tokens[:n], five(tokens[:n], 1, adapt=adapt), CPU, b"")[1].bits)
    mixed = evaluate.score_tokens(art, tokens, EvalOptions(read_tokens=1, adapt=adapt), Ranks(0, 1, CPU)).blend.mixed
    frozen = evaluate.score_tokens(art, tokens, EvalOptions(read_tokens=1), Ranks(0, 1, CPU)).blend.mixed
    assert np.abs(np.log2(mixed) - np.log2(frozen)).sum() > 1  # the steps matter
    assert bits[0] - bits[1] == pytest.approx(-np.log2(mixed).sum(), rel=1e-5)


def test_decoded_bytes_that_are_not_the_original_ones_are_refused_before_anything_is_written(tiny_file, tmp_path):
    art, sha = artifact.load(tiny_file), stream_coder.artifact_sha256(tiny_file)
    tokens = tiny.stream(seed=2, count=2)
    (tmp_path / "F").write_bytes(stream_coder.encode(art, sha, tokens, five(tokens), CPU, b"another text")[0])
    with pytest.raises(FileFormatError, match="F: decodes to other bytes than were coded, nothing is written"):
        compress.decompress(tmp_path / "F", tmp_path / "out", tiny_file, tmp_path / "tokens")
    assert not (tmp_path / "out").exists() and not (tmp_path / "tokens").exists()
