"""The library: one predictor behind every method, and what a caller can rely on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hybrid
from hybrid.api.continuing import CachedNetwork, Sampling, drawn, pick
from hybrid.cli import seedgram
from hybrid.data.write_shards import write_shard
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from ngram.errors import DataError, FileFormatError
from tests.support import tiny
from tests.support.paths import ROOT

CPU = torch.device("cpu")
TEXT = "".join(tiny.documents(3, 7))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny.write_artifact(folder / "artifact.bin")
    tiny.write_artifact(folder / "alone.bin", cache=False)
    return folder


@pytest.fixture(scope="module", params=["artifact.bin", "alone.bin"])
def model(request: pytest.FixtureRequest, place: Path) -> hybrid.Model:
    return hybrid.load(place / request.param)


def test_a_text_costs_what_seedgram_score_and_eval_print(place: Path, model: hybrid.Model) -> None:
    (place / "text").write_bytes(TEXT.encode())
    write_shard(place / "one_val_000000.bin", model.encode(TEXT))
    for argv in (["score", place / "text"], ["eval", "--data", place / "one_val_000000.bin", "--device", "cpu"]):
        assert tiny.exit_code(seedgram, *argv, "--artifact", model.path, "--json", place / f"{argv[0]}.json") == 0
    printed, evaluated = (json.loads((place / f"{name}.json").read_text()) for name in ("score", "eval"))
    found = model.score(TEXT)
    assert (found.total_bits, found.bits_per_byte) == (printed["bits"], printed["bpb"])
    assert found.bits_per_byte == model.bits_per_byte(TEXT.encode()) == pytest.approx(evaluated["blended_bpb"], rel=1e-12)
    assert b"".join(found.pieces) == TEXT.encode() and found.size_bytes == len(TEXT.encode())
    assert len(found.bits) == len(found.network_bits) == len(found.pieces) == evaluated["tokens"]


def test_the_distribution_after_a_context_is_the_one_that_the_next_token_is_scored_with(model: hybrid.Model) -> None:
    tokens, bits = model.encode(TEXT), model.score(TEXT).bits
    for n in (1, 2, 33, 65, 100):  # windows are 32 tokens, chunks of the gate 64
        row = model.distribution(tokens[:n])
        assert row.shape == (model.vocab_size,) and row.sum() == pytest.approx(1, abs=2e-6) and row.min() >= 0
        assert -np.log2(row[tokens[n]]) == pytest.approx(bits[n - 1], abs=1e-4)
    np.testing.assert_array_equal(model.distribution(TEXT[:20]), model.distribution(model.encode(TEXT[:20]).tolist()))


def test_options_reach_the_scores(place: Path) -> None:
    model = hybrid.load(place / "artifact.bin")
    frozen = model.bits_per_byte(TEXT, EvalOptions(online=False))
    assert frozen > model.bits_per_byte(TEXT) != model.bits_per_byte(TEXT, EvalOptions(stride=8))
    assert not np.array_equal(model.distribution(TEXT), model.distribution(TEXT, EvalOptions(online=False)))


def test_what_is_written_is_drawn_from_the_blend_as_it_is_scored(model: hybrid.Model) -> None:
    """The likeliest token each time, up to rounding: by a second reader who has the whole text, in the same windows."""
    art, prompt = artifact.load(model.path), model.encode("the cache and")
    written = list(drawn(art, model.tokenizer, prompt, 60, Sampling(temperature=0), CPU))
    assert model.tokenizer.decode(written) == model.generate("the cache and", tokens=60, temperature=0)
    tokens, options = np.concatenate([prompt, np.array(written, np.uint16)]), EvalOptions(stride=16, read_tokens=1)
    says_something = np.array([bool(piece) or t == model.tokenizer.bos for t, piece in enumerate(model.tokenizer.piece_bytes)])
    for n in range(len(prompt), len(tokens), 7):
        row = model.distribution(tokens[:n], options)
        assert row[tokens[n]] >= 0.9999 * row[says_something].max()


def test_the_cached_network_has_the_rows_of_evaluation(place: Path) -> None:
    art, tokens = artifact.load(place / "artifact.bin"), tiny.stream(seed=2, count=3)
    for stride in (0, 8, 16):
        expected = evaluate.score_tokens(art, tokens, EvalOptions(stride=stride), Ranks(0, 1, CPU)).nll_nats
        network = CachedNetwork(art.model, 32, stride, CPU)
        found = np.concatenate([piece.nll_nats for piece in network.take(tokens, 1, len(tokens))])
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_cache_learns_what_is_written(place: Path) -> None:
    """A phrase that the prompt repeats comes again, far oftener than from the table alone."""
    model = hybrid.load(place / "artifact.bin")
    phrase = " zebra quux"
    after = model.distribution("the gate" + phrase * 6 + " zebra")
    before = model.distribution("the gate zebra")
    token = model.encode(phrase * 7)[len(model.encode(phrase * 6 + " zebra"))]
    assert after[token] > 10 * before[token]


def test_the_same_seed_writes_the_same_text_and_calls_leave_no_trace(model: hybrid.Model) -> None:
    before = model.score(TEXT).bits
    one, two = (model.generate("the", tokens=30, seed=3) for _ in range(2))
    assert one == two != model.generate("the", tokens=30, seed=4)
    assert model.generate("the", tokens=0) == ""
    np.testing.assert_array_equal(model.score(TEXT).bits, before)


def test_drawing_follows_temperature_and_top_p() -> None:
    row = np.array([0.1, 0.0, 0.6, 0.3])

    def chosen(**how: float) -> set[int]:
        return {pick(row, Sampling(**how), at) for at in np.linspace(0, 1, 1000, endpoint=False)}  # type: ignore[arg-type]

    assert chosen() == {0, 2, 3} and chosen(top_p=0.9) == {2, 3} and chosen(top_p=0.61) == {2, 3} and chosen(top_p=0.6) == {2}
    assert chosen(temperature=0) == {2} == chosen(temperature=0.001)
    share = np.mean([pick(row, Sampling(), at) == 3 for at in np.linspace(0, 1, 10000, endpoint=False)])
    assert share == pytest.approx(0.3, abs=1e-3)
    hot = np.mean([pick(row, Sampling(temperature=2.0), at) == 3 for at in np.linspace(0, 1, 10000, endpoint=False)])
    assert hot == pytest.approx(0.3**0.5 / (0.1**0.5 + 0.6**0.5 + 0.3**0.5), abs=1e-3)


def test_compressing_gives_the_bytes_back_and_is_the_command_s_format(model: hybrid.Model, place: Path) -> None:
    data = TEXT.encode() + b"\xff\x00"
    packed = model.compress(data)
    assert model.decompress(packed) == data and len(packed) < len(data) + 64
    assert model.decompress(model.compress(b"")) == b""
    (place / "packed").write_bytes(packed)
    assert tiny.exit_code(seedgram, "decompress", place / "packed", "-o", place / "out", "--artifact", model.path) == 0
    assert (place / "out").read_bytes() == data
    with pytest.raises(FileFormatError):
        model.decompress(packed[:-1])


@pytest.mark.parametrize("context", [[], [-1], [9999], [1.5], [[1, 2]]])
def test_tokens_of_another_vocabulary_are_refused(place: Path, context: list) -> None:
    with pytest.raises(DataError, match="expected whole numbers below 320"):
        hybrid.load(place / "artifact.bin").distribution(context)


def test_values_out_of_range_are_refused(model: hybrid.Model) -> None:
    for how in ({"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"seed": -1}, {"tokens": -1}, {"temperature": float("nan")}):
        with pytest.raises(hybrid.SeedgramError):
            model.generate("the", **how)
    with pytest.raises(DataError, match="empty text"):
        model.bits_per_byte("")


def test_the_commands_say_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = place / "artifact.bin", hybrid.load(place / "artifact.bin")
    argv = ["sample", path, "--prompt", "the", "--tokens", "9", "--temperature", "0.5", "--top-p", "0.9", "--seed", "2"]
    assert tiny.exit_code(seedgram, *argv) == 0
    assert capsys.readouterr().out == "the" + model.generate("the", 9, 0.5, 0.9, 2) + "\n"
    assert tiny.exit_code(seedgram, "inspect", path, "--json", "-") == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    art = artifact.load(path)
    assert art.table is not None
    assert facts["file_bytes"] == path.stat().st_size == facts["header_bytes"] + sum(part["bytes"] for part in facts["sections"].values())
    assert (
        facts["ngrams"]["total"] == sum(art.table.sizes())
        and facts["preset"] == "tiny"
        and facts["config"] == json.loads(json.dumps(art.config.to_json()))
    )
    assert f"{facts['ngrams']['total']:,} in" in said.err and "rank_mlp 4" in said.err
    assert tiny.exit_code(seedgram, "inspect", "--artifact", place / "alone.bin") == 0  # as the other commands name it
    assert "n-grams" not in capsys.readouterr().out
    for words in ((), (place / "alone.bin", "--artifact", place / "alone.bin")):
        assert tiny.exit_code(seedgram, "inspect", *words) == 2 and "artifact.bin of a run" in capsys.readouterr().err
    assert tiny.exit_code(seedgram, "inspect", ROOT / "README.md") == 2


def test_the_library_loads_no_torch_until_it_is_used() -> None:
    code = "import sys, hybrid; dir(hybrid); print([m for m in sys.modules if m in ('torch', 'numba', 'numpy')], hybrid.__version__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", hybrid.__version__]


def test_types_are_those_of_the_names_and_there_are_few() -> None:
    """The names are found when they are used, so the types stand in a file of their own."""
    lines = (ROOT / "hybrid/__init__.pyi").read_text().splitlines()
    homes = {line.split()[3]: line.split()[1] for line in lines if line.startswith("from ")}
    assert homes == hybrid._HOMES and len(homes) <= 12  # type: ignore[attr-defined]
    assert sorted(hybrid.__all__) == sorted(homes)
    for name in hybrid.__all__:
        assert getattr(hybrid, name).__doc__
