"""eval.py reads nothing but artifact and shards, says what it found in JSON, and what is wrong in one line."""

import importlib
import json
import os

import numpy as np
import pytest

from hybrid import report
from hybrid.data import write_shard
from tests import tiny

pytestmark = pytest.mark.skipif(bool(os.environ.get("NUMBA_DISABLE_JIT")), reason="too much for plain Python kernels")
KEYS = "neural_bpb ngram_bpb blended_bpb tokens bytes artifact_bytes code_bytes total_bytes protocol wall_s seed preset".split()


def call(*argv):
    """Exit code of eval.py with these arguments."""
    return tiny.exit_code(importlib.import_module("eval"), *argv)


def result(made, *flags):
    assert call("--artifact", made / "artifact.bin", "--data", made, "--json", made / "r.json", *flags) == 0
    return json.loads((made / "r.json").read_text())


def test_the_result_has_every_promised_key_and_adds_up(made, capsys):
    found = result(made)
    assert set(KEYS) <= set(found)
    assert found["tokens"] == len(tiny.stream(seed=2, count=20)) - 1
    assert found["bytes"] == len("".join(tiny.documents(20, 2)))
    assert found["total_bytes"] == found["artifact_bytes"] + found["code_bytes"]
    assert found["artifact_bytes"] == (made / "artifact.bin").stat().st_size
    assert f"{found['blended_bpb']:.4f}" in capsys.readouterr().out
    assert result(made)["blended_bpb"] == found["blended_bpb"]


def test_the_published_rules_claim_stands_beside_and_is_labelled(made, capsys):
    write_shard(made / "x_train_000000.bin", tiny.stream(seed=1, count=30))
    found, plain = result(made, "--published-rule", made), result(made)
    assert found["published_rule"]["is_a_probability"] is False
    assert found["published_rule"]["claimed_bpb"] < found["neural_bpb"]
    assert "NOT a probability" in capsys.readouterr().out
    assert plain["published_rule"] is None
    assert found["blended_bpb"] == plain["blended_bpb"]


def test_flags_change_what_they_should_and_nothing_else(made):
    base, frozen, by_chunk = result(made), result(made, "--no-online"), result(made, "--cache-by-chunk", "--chunk-tokens", "100")
    assert base["neural_bpb"] == frozen["neural_bpb"] == by_chunk["neural_bpb"]
    assert frozen["ngram_bpb"] > by_chunk["ngram_bpb"] > base["ngram_bpb"]  # learning helps, and the sooner the more
    paranoid = result(made, "--paranoid", "--chunk-tokens", "100")
    assert paranoid["blended_bpb"] == by_chunk["blended_bpb"]
    strided = result(made, "--stride", "8")
    assert strided["tokens"] == base["tokens"]
    assert strided["neural_bpb"] != base["neural_bpb"]
    assert strided["ngram_bpb"] == base["ngram_bpb"]
    for other in (result(made, "--no-product"), result(made, "--read-tokens", "8")):
        assert (other["neural_bpb"], other["ngram_bpb"]) == (base["neural_bpb"], base["ngram_bpb"])
        assert other["blended_bpb"] != base["blended_bpb"]
    assert result(made, "--no-product")["weights"]["product"] == 0 < base["weights"]["product"]
    assert result(made, "--protocol", "challenge")["tokens"] % tiny.config().train.seq_len == 0


def test_an_artifact_without_a_cache_is_scored_by_its_network_alone(made):
    tiny.write_artifact(made / "b.bin", cache=False)
    assert call("--artifact", made / "b.bin", "--data", made, "--json", made / "b.json") == 0
    found = json.loads((made / "b.json").read_text())
    assert found["ngram_bpb"] is None
    assert found["blended_bpb"] == found["neural_bpb"]


def test_every_kind_of_bad_input_is_one_line_and_exit_code_2(made, tmp_path, capsys):
    artifact, shard = (made / "artifact.bin").read_bytes(), (made / "tiny_val_000000.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(artifact[:-7])
    (tmp_path / "altered.bin").write_bytes(artifact[:900] + bytes([artifact[900] ^ 1]) + artifact[901:])
    (tmp_path / "short_val_0.bin").write_bytes(shard[:-2])
    (tmp_path / "text_val_0.bin").write_bytes(b"once upon a time")
    write_shard(tmp_path / "wide_val_0.bin", np.array([1, 5, tiny.VOCAB], dtype=np.uint16))
    write_shard(tmp_path / "one_val_0.bin", np.array([1], dtype=np.uint16))
    write_shard(tmp_path / "none_val_0.bin", np.array([], dtype=np.uint16))
    write_shard(tmp_path / "silent_val_0.bin", np.array([1, 1, 1], dtype=np.uint16))
    good, data = made / "artifact.bin", made
    cases = [(tmp_path / name, data, name) for name in ("cut.bin", "altered.bin", "missing.bin")]
    cases += [(good, tmp_path / f"{name}_val_0.bin", f"{name}_val_0.bin") for name in ("short", "text", "wide", "one", "none", "silent")]
    cases += [(good, tmp_path / "nowhere", "nowhere")]
    capsys.readouterr()
    for path, where, named in cases:
        assert call("--artifact", path, "--data", where, "--json", tmp_path / "out.json") == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert named in lines[0]
    for flags in (["--stride", "99"], ["--stride", "-1"], ["--chunk-tokens", "-5"], ["--read-tokens", "0"], ["--read-tokens", "65537"], ["--nonsense"]):
        assert call("--artifact", good, "--data", data, *flags) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


def test_the_audit_command_passes_on_our_artifact(made, capsys):
    flags = ["--positions", 100, "--max-tokens", 400, "--json", made / "audit.json", "--png", made / "z.png"]
    assert call("audit", "--artifact", made / "artifact.bin", "--data", made, *flags) == 0
    assert json.loads((made / "audit.json").read_text())["passed"] is True
    assert (made / "z.png").exists()
    assert "blend: PASSED" in capsys.readouterr().out


def test_the_audit_command_fails_with_exit_code_1(made, monkeypatch):
    from hybrid import audit_own

    honest = audit_own.HybridScorer.rows
    monkeypatch.setattr(audit_own.HybridScorer, "rows", lambda *a: honest(*a) * 1.001)
    flags = ["--positions", 100, "--max-tokens", 200]
    assert call("audit", "--artifact", made / "artifact.bin", "--data", made, *flags) == 1


def test_the_report_sets_the_result_beside_compressors(made, capsys):
    (made / "m.model").write_bytes(tiny.tokenizer_bytes())
    report.show(result(made), report.compressors(str(made), str(made / "m.model")))
    printed = capsys.readouterr().out
    assert "xz -9e" in printed
    assert "zstd -19" in printed
