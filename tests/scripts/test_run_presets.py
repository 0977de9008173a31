"""The queue of presets: what is skipped, what a kill leaves, what a failure leaves, who may run beside whom, the table."""

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from hybrid.model.hybrid_lm import HybridLM
from hybrid.settings import presets
from hybrid.settings.config import Config, ConfigError, ModelConfig, TrainConfig
from ngram.errors import FileFormatError
from ngram.terminal import UsageError
from scripts.queue import flags as command_line
from scripts.queue import run_presets, run_results
from tests.support import loaded, tiny
from tests.support.paths import ROOT
from tests.support.training import environment

SHAPE = f"""--layers 1 --d-model 32 --heads 2 --kv-heads 1 --mlp-mult 2 --rope-dims 8 --rank-attention 4 --rank-mlp 4 --basis hadamard
--vocab-size {tiny.VOCAB} --seq-len 16 --batch-tokens 64 --microbatch-tokens 64 --holdout-tokens 200 --warmup-steps 1 --ngram-order 3
--bigram-buckets 0 --log-every 5""".split()


def queue_flags(work: Path, data: Path, *more: str) -> list[str]:
    flags = ["--data", str(data), "--fineweb", str(data / "tiny_val_000000.bin"), "--work", str(work), "--commit", "abc", "--gpus", "0"]
    return [*flags, *more, "--", *SHAPE]


def run_here(*flags: str) -> tuple[int, str]:
    """Exit code and output of the queue in this process; its runs are processes all the same, with torch loaded."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", loaded.python())
            code = tiny.exit_code(run_presets, *flags)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, said.getvalue()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(path: Path, text: str) -> None:
    for _ in range(600):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} never said {text}")


def children(group_of: Path) -> list[str]:
    """Command lines of living processes that mention this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                said = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [said] if str(group_of) in said else []
    return found


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> dict:
    """Three calls: the first gets SIGTERM in the middle of training, the second does the rest, the third finds all there."""
    work = tmp_path_factory.mktemp("queue") / "work"
    wrong = tmp_path_factory.mktemp("wrong")  # a preset whose tokenizer does not fit: fails, and the queue goes on
    for path in tiny_data.glob("*.bin"):
        (wrong / path.name).write_bytes(path.read_bytes())
    (wrong / "tokenizer.model").write_bytes(b"no tokenizer at all")
    calls = ["gaussian874", "quickstart", "--data-for", f"gaussian874={wrong}", "--seconds", "3", "--keep", "quickstart"]
    flags = queue_flags(work, tiny_data, *calls)
    command = [loaded.python(), str(ROOT / "scripts/queue/run_presets.py"), *flags]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    run = next(iter(wait_for_folder(work, "quickstart")))
    wait_for(run / "train.jsonl", '"step"')
    first.send_signal(signal.SIGTERM)
    said = [first.communicate(timeout=60)[0]]
    after_kill, left = lines(work / "results.jsonl"), children(work)
    codes = [first.returncode]
    for _ in range(2):
        code, output = run_here(*flags)
        said.append(output)
        codes.append(code)
    return {"work": work, "run": run, "said": said, "codes": codes, "after_kill": after_kill, "left": left}


def wait_for_folder(work: Path, preset: str) -> list[Path]:
    for _ in range(600):
        if found := list(work.glob(f"{preset}-*")):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{preset} never started")


def test_sigterm_stops_every_child_and_records_only_what_ended(killed_and_resumed: dict) -> None:
    assert killed_and_resumed["codes"][0] == 128 + signal.SIGTERM
    assert killed_and_resumed["left"] == []
    assert [(one["preset"], one["status"]) for one in killed_and_resumed["after_kill"]] == [("gaussian874", "failed")]
    assert "stopped in train; the next call takes it up" in killed_and_resumed["said"][0]


def test_a_failure_is_recorded_with_its_last_line_and_the_queue_goes_on(killed_and_resumed: dict) -> None:
    failed = lines(killed_and_resumed["work"] / "results.jsonl")[0]
    assert (failed["stage"], failed["exit"]) == ("train", 2)
    assert failed["last_line"].startswith("TokenizerError: ") and "not a SentencePiece model" in failed["last_line"]
    assert "failed before" in killed_and_resumed["said"][1]


def test_the_next_call_resumes_the_interrupted_run_and_measures_the_packed_artifact(killed_and_resumed: dict) -> None:
    run, results = killed_and_resumed["run"], lines(killed_and_resumed["work"] / "results.jsonl")
    assert len(results) == 2
    done = results[1]
    assert (done["preset"], done["status"], done["commit"], done["resumed"]) == ("quickstart", "ok", "abc", True)
    resumed = [one for one in run_results.events(run / "train.jsonl") if one["event"] == "resume"]
    assert len(resumed) == 1 and resumed[0]["step"] > 0
    assert 3 <= done["train_s"] < 20 and done["steps"] > resumed[0]["step"]
    val = json.loads((run / "val.json").read_text())
    assert done["val"]["neural_bpb"] == val["neural_bpb"] and done["val"]["ngram_bpb"] == val["ngram_bpb"]
    assert done["val"] | {"neural_s": 0, "ngram_s": 0} == done["fineweb"] | {"neural_s": 0, "ngram_s": 0}  # the same shard
    assert done["artifact_bytes"] == val["artifact_bytes"] == next((killed_and_resumed["work"] / "kept").glob("*.bin")).stat().st_size
    assert set(done["packing_s"]) == {"merged", "quantised", "compressed", "table", "cache", "gate"}
    assert done["peak_host_bytes"] > 0 and done["utilisation"] is None and done["weight_bits"] == 8
    assert not (run / "artifact.bin").exists() and (run / "train.log").exists() and (run / "val.log").exists()


def test_a_call_with_nothing_left_to_do_starts_nothing(killed_and_resumed: dict) -> None:
    assert "quickstart" in killed_and_resumed["said"][2] and "already there" in killed_and_resumed["said"][2]
    assert "expected" not in killed_and_resumed["said"][2]
    assert killed_and_resumed["codes"][1:] == [1, 1]  # a preset has failed


def test_the_table_has_presets_in_their_order_and_every_figure(killed_and_resumed: dict) -> None:
    results = killed_and_resumed["work"] / "results.jsonl"
    code, text = run_here("--table", str(results))
    assert code == 0
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    assert rows == [row for row in run_results.table(reversed(lines(results))).splitlines() if row.startswith("| `")]
    assert rows[0].startswith("| `gaussian874` | failed: TokenizerError") and rows[1].startswith("| `quickstart` |")
    done = lines(results)[1]
    for figure in (done["val"]["neural_bpb"], done["val"]["ngram_bpb"], done["fineweb"]["blended_bpb"]):
        assert f"{figure:.4f}" in rows[1]
    assert {row.count("|") for row in rows} == {text.splitlines()[0].count("|")}


def fake(folder: Path, body: str) -> Any:
    """A run of one stage: a Python script that sees `here`, `say(event)` and `wait(path)`."""
    script = textwrap.dedent(
        f"""\
        import json, pathlib, sys, time
        here = pathlib.Path({str(folder)!r})
        def say(event):
            with open(here / "train.jsonl", "a") as log:
                log.write(json.dumps({{"event": event, "wall_s": 1.0}}) + "\\n")
        def wait(path):
            for _ in range(600):
                if pathlib.Path(path).exists():
                    return
                time.sleep(0.05)
            sys.exit(f"waited in vain for {{path}}")
        """
    ) + textwrap.dedent(body)
    key = {"commit": "abc", "preset": folder.name, "seed": 1, "seconds": 1.0, "flags": []}
    return run_presets.Run(key, folder, [("train", [sys.executable, "-c", script], folder / "summary.json")])


def queue_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, str], **settings: object) -> Any:
    defaults = {"gpus": 1, "packing": 2, "budget_s": 0.0, "overhead_s": 10.0, "retry_failed": False, "seconds": 1.0}
    flags = argparse.Namespace(**defaults | {"presets": list(runs), "results": tmp_path / "results.jsonl"} | settings)
    monkeypatch.setattr(run_presets, "make_run", lambda _, preset: fake(tmp_path / preset, runs[preset]))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return run_presets.Queue(flags)


def test_the_next_run_trains_while_this_one_packs_but_never_two_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b, c = tmp_path / "b", tmp_path / "c"
    runs = {
        "a": f"say('trained'); wait({str(b / 'train.jsonl')!r})",  # ends only if b trains beside its packing
        "b": f"say('step'); much = b'x' * 10**8; time.sleep(1); assert not pathlib.Path({str(c)!r}).exists(); say('trained')",
        "c": "import os; say(os.environ['CUDA_VISIBLE_DEVICES'])",
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    queue = queue_of(tmp_path, monkeypatch, runs)
    queue.run()
    by_name = {one["preset"]: one for one in lines(tmp_path / "results.jsonl")}
    assert {name: one["exit"] for name, one in by_name.items()} == {"a": 0, "b": 0, "c": 0}  # "failed": stand-ins write no summary
    assert by_name["b"]["beside"] == ["a"] and by_name["a"]["peak_host_bytes"] < 10**8 < by_name["b"]["peak_host_bytes"]
    assert [one["event"] for one in run_results.events(c / "train.jsonl")] == ["7"]


def test_without_room_for_packing_runs_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = tmp_path / "b"
    runs = {"a": f"say('trained'); time.sleep(1.5); assert not pathlib.Path({str(b)!r}).exists()", "b": "say('trained')"}
    queue_of(tmp_path, monkeypatch, runs, gpus=0, packing=0).run()
    assert [(one["preset"], one["exit"], one["beside"]) for one in lines(tmp_path / "results.jsonl")] == [("a", 0, []), ("b", 0, [])]


def test_nothing_starts_that_cannot_end_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of(tmp_path, monkeypatch, {"a": "", "b": ""}, budget_s=10.5)
    assert queue.run() == 1
    assert not (tmp_path / "a").exists() and len(queue.waiting) == 2 and not (tmp_path / "results.jsonl").exists()


def test_what_still_runs_at_the_end_of_the_budget_is_stopped_and_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = queue_of(tmp_path, monkeypatch, {"a": "time.sleep(100)"}, budget_s=2.0, overhead_s=0.5)
    assert queue.run() == 1
    assert [run.name for run in queue.waiting] == ["a"] and queue.waiting[0].process.returncode == -signal.SIGTERM
    assert not (tmp_path / "results.jsonl").exists()


def test_measured_overheads_replace_the_guess_and_training_already_done_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(preset: str, wall_s: float, **more: object) -> dict:
        key = {"commit": "old", "preset": preset, "seed": 1, "seconds": 110.0, "flags": []}
        return {**key, "status": "ok", "resumed": False, "device": "GPU", "wall_s": wall_s, "train_s": 110.0, **more}

    queue = queue_of(tmp_path, monkeypatch, {"a": "", "b": ""}, seconds=110.0)
    a, b = queue.waiting
    assert queue.expected_s(a) == 120.0
    for one in (seen("a", 300.0), seen("c", 400.0), seen("a", 9000.0, resumed=True), seen("a", 9000.0, device="CPU, 2 threads")):
        run_results.append_result(tmp_path / "results.jsonl", one)
    assert (queue.expected_s(a), queue.expected_s(b)) == (300.0, 400.0)
    a.folder.mkdir()
    (a.folder / "train.jsonl").write_text('{"event": "trained", "wall_s": 80.0}\n{"event": "tra')
    assert queue.expected_s(a) == 220.0


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"commit": "x"}\n')
    with pytest.raises(FileFormatError, match="r: line 1 is no result"):
        run_results.read_results(tmp_path / "r")


def test_a_success_stands_above_a_later_failure_and_a_newer_commit_above_an_older() -> None:
    def one(commit: str, rate: int | None) -> dict:
        key = {"commit": commit, "preset": "dense9", "seed": 1, "seconds": 110.0, "flags": []}
        if rate is None:
            return {**key, "status": "failed", "stage": "train", "last_line": "x"}
        figures: dict[str, Any] = {"tokens_per_s": rate, "artifact_bytes": 1000, "code_bytes": 234, "weight_bits": 7, "int_gap_bpb": None, "cache": {}}
        return {**key, "status": "ok", **figures, "val": {"neural_bpb": 1.23456, "ngram_bpb": None, "blended_bpb": 1.23456}}

    rows = [row for row in run_results.table([one("a", 100_000), one("b", 2_004_000), one("c", None)]).splitlines() if "`dense9`" in row]
    assert rows == ["| `dense9` | 1,234 | INT7 | – | 2.00 M | 1.2346 | – | 1.2346 | – | – |"]


def test_the_operations_of_attention_are_those_of_what_is_looked_at() -> None:
    """Two products forward and four backward, each 2 operations a pair of positions and feature; half the context stands for its mean."""
    small = {"vocab_size": 64, "layers": 3, "d_model": 32, "heads": 2, "kv_heads": 1, "rope_dims": 4}

    def counted(**window: int) -> float:
        shape = ModelConfig(**small, **window)  # type: ignore[arg-type]
        return run_results.flops_per_token(HybridLM(shape, fill_maps=False), Config(model=shape, train=TrainConfig(seq_len=100)))

    pairs = sum(min(t, 10) - 0.5 for t in range(1, 11)) + 90 * 10
    saved = 12 * 32 * (50 - pairs / 100)
    assert counted() - counted(window=10) == pytest.approx(3 * saved)
    assert counted() - counted(window=10, whole_layers=1) == pytest.approx(2 * saved)
    assert counted() == counted(window=100) == counted(window=300)


def test_without_git_the_commit_must_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    with pytest.raises(ConfigError, match="give --commit"):
        command_line.commit_of(None)
    assert command_line.commit_of("abc") == "abc"


def test_the_order_and_its_end_are_the_command_lines(tmp_path: Path) -> None:
    common = ["--data", "d", "--work", str(tmp_path), "--commit", "c", "--gpus", "0"]
    assert command_line.parse([*common, "dense9", "seed1095", "gaussian874", "--until", "seed1095"], None).presets == ["dense9", "seed1095"]
    assert command_line.parse(common, None).presets == presets.names()[:-1]
    assert command_line.parse([*common, "--", "--steps", "3"], None).passed_on == ["--steps", "3"]
    for bad in (["dense99"], ["--data-for", "dense9"], ["dense9", "--until", "seed1095"]):
        with pytest.raises(UsageError):
            command_line.parse([*common, *bad], None)
