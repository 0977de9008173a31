"""A certified number is the size of a file that another process decodes; whatever is wrong with that file is one line."""

import dataclasses
import json
import re
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from hybrid.cli import seedgram
from hybrid.coding import certify, compress
from hybrid.data.write_shards import write_shard
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import printed
from hybrid.scoring.options import AdaptConfig, EvalOptions
from hybrid.scoring.printed import Printed, run_eval
from ngram.errors import SeedgramError
from tests.support import loaded, tiny

CPU = torch.device("cpu")


def certificate(artifact_path, folder, size, streams=8, order_bytes=600, **options):
    wanted = certify.CertifyOptions(size, order_bytes, streams, EvalOptions(**options))
    return certify.certify(str(artifact_path), str(folder), str(folder / "F"), wanted, Ranks(0, 1, CPU))


def test_a_certificate_passes_and_is_decoded_by_a_process_that_has_nothing_else(tiny_file, tmp_path, monkeypatch):
    """The decoders are processes started from nothing; eval.py is forked."""

    def forked(*arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", loaded.python())
            return run_eval(*arguments)

    monkeypatch.setattr(certify, "run_eval", forked)
    said: list[str] = []  # on a terminal, while nothing is to be seen of other processes
    for module in (certify, printed):
        monkeypatch.setattr(module, "stage", lambda title: said.append(title) or nullcontext())
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=30))
    result = certificate(tiny_file, tmp_path, 2000)
    assert result["passed"], result["faults"]
    wide, part = (f"{tokens:,} tokens" for tokens in (result["tokens"], result["in_order"]["tokens"]))
    alone = "in a process of its own"
    assert [title.replace(f"{tmp_path}/", "") for title in said] == [
        f"decoding F, {wide}, {alone}", f"eval.py over {wide}", f"decoding F.order, {part}, {alone}", f"eval.py over {part}",
    ]
    assert 2000 <= result["bytes"] < 2020 and 600 <= result["in_order"]["bytes"] < 620
    for figures, name in ((result, "F"), (result["in_order"], "F.order")):
        assert figures["certified_bpb"] == 8 * (tmp_path / name).stat().st_size / figures["bytes"]  # the whole file, header included
        assert figures["payload_bpb"] == pytest.approx(8 * figures["payload_bytes"] / figures["bytes"])
        assert figures["gap_bits"] <= 0.0001 * 8 * figures["promised_bytes"] + 128
    words = certify.text(result)
    assert "certificate PASSED" in words and f"eval.py prints {result['in_order']['printed_bpb']:.4f}" in words
    for spent in (result["encode_seconds"], result["decode_seconds"]):
        assert set(spent) == {"network", "cache", "gate", "product", "mix", "coder"}
    json.dumps(result)


@pytest.mark.usefixtures("loaded_processes")
@pytest.mark.parametrize(
    "options",
    [
        {"adapt": AdaptConfig(rate=0.01), "stride": 8},
        {"read_tokens": 20, "chunk_tokens": 50, "protocol": "challenge", "match": False, "gate_learns": False},
    ],
    ids=["ttt-stride", "read-challenge"],
)
def test_every_option_of_the_evaluation_is_certified_in_its_own_order(tiny_file, tmp_path, options):
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=10))
    result = certificate(tiny_file, tmp_path, 300, order_bytes=300, **options)
    assert result["passed"], result["faults"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({3: -0.01, 4: 0.01}, "position [45]: eval.py's .* promised"),
        ({3: -1e-5}, "position 4: "),
        ({}, None),
    ],
)
def test_a_printed_bit_that_was_not_promised_is_a_fault(coded, change, why):
    *_, made = coded
    each = np.full(20, 2.5)
    bits = each.copy()
    for place, amount in change.items():
        bits[place] += amount
    size, sums = 10, [float(some.sum()) for some in (bits, each)]
    printed = Printed(round(sums[0] / size, 4), 20, size, 9, {"blended_bpb": sums[0] / size, "artifact_bytes": 9}, bits)
    faults = certify._compare(printed, printed, dataclasses.replace(made, each=each, bits=sums[1]), certify.Stretch(np.zeros(21, np.uint16), b"x" * size), 9)
    assert [bool(re.match(why, fault)) for fault in faults if fault][:1] == ([True] if why else [])


def test_more_text_than_there_is_and_a_failing_decoder_are_one_error(tiny_file, tmp_path, monkeypatch):
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=3))
    with pytest.raises(SeedgramError, match=r"lower --bytes 1,000,000"):
        certificate(tiny_file, tmp_path, 10**6)
    broken = subprocess.CompletedProcess([], 2, "", "FingerprintError: other machine\n")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: broken)
    with pytest.raises(SeedgramError, match="failed with code 2: FingerprintError: other machine; the score is not certified"):
        certificate(tiny_file, tmp_path, 50)


@pytest.mark.parametrize("fails", ["interrupted", "printed otherwise"])
def test_a_coded_file_has_its_name_only_when_everything_is_proven(tiny_file, tmp_path, monkeypatch, fails):
    """Until then an older file of that name stays."""
    write_shard(tmp_path / "x_val_000000.bin", tiny.stream(seed=2, count=3))
    (tmp_path / "F").write_bytes(b"before")

    def decoded(path, out, folder):
        if fails == "interrupted":
            raise KeyboardInterrupt
        compress.decompress(folder / "coded", folder / "bytes", path, folder / "tokens")
        return {"wall_s": 1.0, "tokens_per_s": 1.0, "seconds": {}}

    def printed(path, data, options, *_):
        return Printed(1.0, options.max_tokens - 1, 1, 1, {"blended_bpb": 1.0, "artifact_bytes": 1}, np.ones(options.max_tokens - 1))

    monkeypatch.setattr(certify, "_decode_elsewhere", decoded)
    monkeypatch.setattr(certify, "run_eval", printed)
    if fails == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            certificate(tiny_file, tmp_path, 50, order_bytes=0)
    else:
        result = certificate(tiny_file, tmp_path, 50, order_bytes=0)
        assert result["tokens_equal"] and result["bytes_equal"] and len(result["faults"]) == 1
    assert (tmp_path / "F").read_bytes() == b"before" and not (tmp_path / "F.order").exists()


@pytest.mark.parametrize("flags", [["--bytes", "0", "--out", "x"], ["--out", "x"], ["--bytes", "9", "--out", "x", "--nonsense"]])
def test_bad_flags_are_one_line_and_exit_code_2(flags, tiny_file, capsys):
    assert tiny.exit_code(seedgram, "certify", "--artifact", tiny_file, "--data", "none", *flags) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
