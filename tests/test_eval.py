"""eval.py reads nothing but artifact and shards, says what it found in JSON, and what is wrong in one line."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from hybrid.data.write_shards import write_shard
from tests.support import loaded, tiny
from tests.support.folders import jsonl, prepare_into, write
from tests.support.paths import ROOT

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


def test_validation_text_that_was_trained_on_or_comes_twice_is_said(made, tmp_path, capsys):
    (tmp_path / "M").write_bytes(tiny.tokenizer_bytes())
    for name, texts in (("train", tiny.documents(8, 3)), ("val", tiny.documents(4, 3)), ("twice", tiny.documents(4, 4) * 2)):
        write(tmp_path / f"{name}.jsonl", jsonl(list(texts)))
    common = {"tokenizer": str(tmp_path / "M")}
    prepare_into(tmp_path / "kept", str(tmp_path / "train.jsonl"), val=(str(tmp_path / "val.jsonl"),), overlap="keep", **common)
    for keep in (False, True):
        prepare_into(tmp_path / f"twice{keep}", str(tmp_path / "train.jsonl"), val=(str(tmp_path / "twice.jsonl"),), keep_duplicates=keep, **common)
    capsys.readouterr()
    assert call("--artifact", made / "artifact.bin", "--data", tmp_path / "kept") == 2
    refused = capsys.readouterr()
    assert refused.out == "" and "4 validation documents are training documents too" in refused.err and "--allow-overlap" in refused.err
    said = {}
    for folder, *flags in (("kept", "--allow-overlap"), ("twiceFalse",), ("twiceTrue",)):
        assert call("--artifact", made / "artifact.bin", "--data", tmp_path / folder, *flags) == 0
        said[folder] = capsys.readouterr().err
    assert "too good" in said["kept"] and said["twiceFalse"] == ""
    assert "4 of 8 documents, 50.00% of the tokens, have come before in these shards" in said["twiceTrue"]
    assert all(len(text.splitlines()) <= 1 for text in said.values())


@pytest.mark.parametrize("argv", [["audit", "--help"], ["certify", "--out", "x"]], ids=" ".join)
def test_audit_and_certify_become_commands_of_seedgram_wherever_they_are_started(argv, tmp_path):
    """Their output, errors and exit codes are those of `seedgram`; what lies in the current folder under our names is not imported."""
    (tmp_path / "hybrid.py").write_text("raise SystemExit(77)\n")
    ours, theirs = (
        subprocess.run([python, *start, *argv], cwd=folder, capture_output=True, text=True, check=False)
        for python, start, folder in ((sys.executable, [str(ROOT / "eval.py")], tmp_path), (loaded.python(), ["-m", "hybrid"], ROOT))
    )
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert ours.returncode == (0 if "--help" in argv else 2)
    assert f"seedgram {argv[0]}" in ours.stdout + ours.stderr


@pytest.mark.parametrize("argv", [["audit", "--positions", "-1"], ["certify", "--help"], ["certify", "--data", "a b", "--", ""]], ids=str)
def test_audit_and_certify_hand_on_every_word(argv, monkeypatch):
    became = []
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call) or sys.exit(5))
    assert call(*argv) == 5
    ((program, command, environment),) = became
    assert program == sys.executable and command == [sys.executable, "-P", "-m", "hybrid", *argv]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT) and {**environment, "PYTHONPATH": ""} == {**os.environ, "PYTHONPATH": ""}
