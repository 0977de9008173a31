"""The training loop: what is counted, what warm-up leaves behind, when phases begin, what a checkpoint must fit."""

import gc
import itertools
import json
import os
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import flat_gradients
from hybrid.settings.config import override
from hybrid.training import checkpoint, pack
from hybrid.training.batches import LossReader, TrainError
from hybrid.training.run_log import RunLog
from hybrid.training.table_ahead import TableAhead
from hybrid.training.trainer import Trainer
from ngram.arrays import Tokens
from ngram.counting.row_counter import RowCounter
from ngram.storing.fit_bytes import Stages
from tests.support.paths import ROOT
from tests.support.tiny import VOCAB
from tests.support.training import settings, trainer


def weights(of: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in of.model.parameters()]


def steps_of_an_epoch(data: Path, folder: Path) -> int:
    loader = trainer(settings(), data, folder).batches.loader
    return int(np.ceil(loader.rows_per_epoch / loader.batch_rows))


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_each_corpus_position_is_counted_once_however_many_epochs_are_trained(tiny_data: Path, tmp_path: Path) -> None:
    epoch = steps_of_an_epoch(tiny_data, tmp_path)
    run = trainer(settings(steps=3 * epoch), tiny_data, tmp_path)
    run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.ahead is not None
    assert run.ahead.cache.positions == run.batches.loader.train_tokens - 1


def test_a_table_begun_beside_training_is_the_one_made_after_it(tiny_data: Path, tmp_path: Path) -> None:
    epoch = steps_of_an_epoch(tiny_data, tmp_path)
    coded = []
    for idle_cores in (False, True):
        run = trainer(settings(steps=epoch + 1), tiny_data, tmp_path)
        run.idle_cores = idle_cores
        run.run(checkpoint.Writer(tmp_path / str(idle_cores)))
        assert run.ahead is not None and run.ahead.begun == idle_cores
        pack.merge_counts(run.ahead, run.ranks, run.log)
        coded.append(run.ahead.stages().fit(4000)[1])
        assert run.ahead.figures["positions"] == run.batches.loader.train_tokens - 1
    assert coded[0] == coded[1]


def test_the_log_says_how_many_steps_wait_to_be_counted(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here nothing is counted before the last step; the first that was handed over is at work, and does not wait."""
    run = trainer(settings(steps=4, log_every=1), tiny_data, tmp_path)
    run.warm_up()
    begun, over, count, hand_over = threading.Event(), threading.Event(), RowCounter._count, run.count

    def late(counter: RowCounter, rows: Tokens, given: int) -> None:
        begun.set()
        over.wait(60)
        count(counter, rows, given)

    monkeypatch.setattr(RowCounter, "_count", late)
    monkeypatch.setattr(run, "count", lambda step, rows: (hand_over(step, rows), begun.wait(60)))
    monkeypatch.setattr(run, "warm_up", lambda: 0.0)
    monkeypatch.setattr(run, "_finish", lambda *_, **__: over.set())
    with closing(RunLog(tmp_path / "train.jsonl")) as run.log:
        run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.ahead is not None
    run.ahead.cache.drain()
    lines = map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines())
    assert [line["queued"] for line in lines if line["event"] == "step"] == [0, 1, 2, 3]


def test_the_table_is_coded_after_training_which_would_wait_for_it(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coded, begin = list[int](), Stages.begin
    monkeypatch.setattr(Stages, "begin", lambda stages, room: (coded.append(room), begin(stages, room)))
    run = trainer(settings(steps=steps_of_an_epoch(tiny_data, tmp_path) + 1), tiny_data, tmp_path)
    run.idle_cores = True
    run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.ahead is not None and run.ahead.begun
    run.ahead.stages()  # the table is there
    assert len(coded) == 1  # by the warm-up
    inputs = replace(run.inputs, tokenizer=(tiny_data / "tokenizer.model").read_bytes())
    pack.pack(run.config, inputs, run.ahead, run.ranks, tmp_path, run.log)
    assert len(coded) == 2


def test_a_run_shorter_than_an_epoch_counts_only_what_it_saw(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=2), tiny_data, tmp_path)
    run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.ahead is not None
    assert run.ahead.cache.positions == 2 * 64


def test_warm_up_leaves_no_trace(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=1), tiny_data, tmp_path)
    before, (tensors, shape) = weights(run), checkpoint.snapshot([o.state_dict() for o in run.state.optimisers])
    run.warm_up()
    assert equal(before, weights(run))
    after, shape_after = checkpoint.snapshot([o.state_dict() for o in run.state.optimisers])
    assert shape_after == shape and all(torch.equal(a, b) for a, b in zip(tensors, after, strict=True))
    assert not run.state.gradients.any()
    assert run.ahead is not None
    assert run.ahead.cache.positions == 0


def test_kernels_that_are_prepared_beside_the_compiler_add_no_name_to_numpy() -> None:
    """torch.compile goes through NumPy's names on the main thread, and a name that another thread adds meanwhile ends it with an error."""
    code = (
        "import numpy as np, hybrid.training.trainer\n"
        "from ngram.counting.row_counter import RowCounter\n"
        "modules = [np, np.fft, np.linalg, np.random]\n"
        "before = [set(vars(module)) for module in modules]\n"
        "RowCounter(1024, 7, 1).warm_up()\n"
        "print([sorted(set(vars(module)) - names) for module, names in zip(modules, before)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[[], [], [], []]\n"


@pytest.mark.parametrize("searched", [True, False])
def test_the_search_for_garbage_goes_on_after_the_warm_up_as_before_it_also_where_that_fails(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: bool
) -> None:
    run, seen = trainer(settings(steps=1), tiny_data, tmp_path), []
    (gc.enable if searched else gc.disable)()
    try:
        monkeypatch.setattr(run, "update", lambda _: seen.append(gc.isenabled()))
        run.warm_up()
        assert not any(seen) and seen and gc.isenabled() == searched
        monkeypatch.setattr(run, "update", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run.warm_up()
        assert gc.isenabled() == searched
    finally:
        gc.enable()


def test_kernels_compiled_aside_are_only_loaded_here_and_said_once(tmp_path: Path) -> None:
    code = (
        "from hybrid.training.table_ahead import KernelCache, RowCounter, TableAhead\n"
        "from ngram.compiled import compile_seconds\n"
        "KernelCache.announces = True\n"
        "TableAhead(RowCounter(1024, 7, 1), 1 << 24).warm_up(aside=True)\n"
        "print(compile_seconds())\n"
    )
    place = {**os.environ, "SEEDGRAM_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=place, capture_output=True, text=True, check=True)
    assert done.stdout == "0.0\n"
    assert done.stderr.count("compiling kernels for this machine, once") == 1
    assert len(list(tmp_path.glob("cache/kernels/*/*"))) > 10


def test_where_no_other_process_can_be_started_kernels_are_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/there/is/no/python")
    ahead = TableAhead(RowCounter(1024, 7, 1), 1 << 24)
    ahead.warm_up(aside=True)
    assert ahead.cache.positions == 0


def test_microbatches_give_the_gradient_of_the_whole_batch(tiny_data: Path, tmp_path: Path) -> None:
    parts, whole = (trainer(settings(microbatch_tokens=n), tiny_data, tmp_path) for n in (16, 64))
    rows = whole.batches.loader.batch(0)
    parts.forward_backward(rows)
    whole.forward_backward(rows)
    assert whole.state.gradients.abs().max() > 1e-3
    torch.testing.assert_close(parts.state.gradients, whole.state.gradients, rtol=1e-4, atol=1e-7)


def test_the_loss_falls(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=60, log_every=10), tiny_data, tmp_path)
    result = run.run(checkpoint.Writer(tmp_path / "c"))
    assert result.loss_nats < np.log(VOCAB) - 1


def test_a_run_of_n_steps_has_the_same_loss_at_every_step_whatever_the_clock_says(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schedules follow the step there, not the time: what two people compare who train on the same kind of machine."""

    def curve() -> list[tuple[int, float, float]]:
        run, seen = trainer(settings(steps=10, log_every=1), tiny_data, tmp_path), []
        monkeypatch.setattr(run.log, "record", lambda event, **values: seen.append((event, values)))
        run.run(checkpoint.Writer(tmp_path / "c"))
        (tmp_path / "c").unlink()
        return [(values["step"], values["loss_nats"], values["progress"]) for event, values in seen if event == "step"]

    first, clock = curve(), itertools.count(0, 1000)
    monkeypatch.setattr("hybrid.training.trainer.time.monotonic", lambda: float(next(clock)))
    assert len(first) == 10 and first[0][1] > first[-1][1]
    assert curve() == first


def test_late_phases_begin_at_their_share_and_survive_a_resume(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(model={"freeze": "mlp", "progressive": True}, steps=12, freeze_at=0.5, qat_from=0.75)
    whole, first, second = (trainer(config, tiny_data, tmp_path) for _ in range(3))
    rounded: list[int] = []
    monkeypatch.setattr(whole.model, "set_fake_bits", lambda bits, step=0.0: (rounded.append(bits), HybridLM.set_fake_bits(whole.model, bits)))
    whole.run(checkpoint.Writer(tmp_path / "whole"))
    assert whole.state.frozen_late and len(whole.state.parameters) < len(list(whole.model.parameters()))
    bits = config.quant.weight_bits
    assert rounded == [bits, 0, bits, bits, bits, 0]  # warm-up, the last three steps, packing
    first.warm_up()
    for _ in range(9):  # past freezing
        progress, rows = first.state.progress(), first.batches.loader.batch(first.state.step)
        first._enter_phase(progress)
        first.forward_backward(rows)
        first.update(progress)
        first.state.step += 1
    checkpoint.save(tmp_path / "half", *checkpoint.snapshot(first.state.to_tree()))
    second.run(checkpoint.Writer(tmp_path / "half"))
    assert equal(weights(second), weights(whole))


def test_a_loss_that_is_no_number_ends_the_run_with_the_step(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=9, log_every=3, warmup_steps=0), tiny_data, tmp_path)
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainError, match="step 1.*nan"):
        run.run(checkpoint.Writer(tmp_path / "c"))


def test_a_batch_that_does_not_split_names_the_flag(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="--batch-tokens 80"):
        trainer(settings(batch_tokens=80, microbatch_tokens=32), tiny_data, tmp_path)


def test_a_run_without_a_limit_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="--seconds or --steps"):
        trainer(settings(), tiny_data, tmp_path).run(checkpoint.Writer(tmp_path / "c"))


def test_gradients_are_views_of_one_buffer() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    flat = flat_gradients(parameters)
    (parameters[0].sum() + 2 * parameters[1].sum()).backward()
    assert flat.tolist() == [1.0] * 6 + [2.0] * 4


def test_losses_are_read_in_order_and_averaged_over_the_window() -> None:
    reader = LossReader()
    for value in range(1, 6):
        reader.push(torch.tensor(float(value)))
    assert reader.mean() == pytest.approx((1 + 2 + 3) / 3)
    reader.push(torch.tensor(6.0))
    assert reader.mean() == 4.0


# ---- whole runs through the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qat_from", "changed", "named"),
    [
        (-1.0, {"train": {"matrix_lr": 0.5, "embed_lr": 1.0}}, "train.matrix_lr, train.embed_lr;"),
        (-1.0, {"model": {"rope_base": 9.0}, "quant": {"weight_bits": 5}}, "model.rope_base;"),
        (-1.0, {"cache": {"ngram_order": 3, "cap_bytes": 9_000_000}}, "cache.ngram_order;"),
        (0.5, {"quant": {"weight_bits": 5, "embed_bits": 7}}, "quant.weight_bits;"),
    ],
)
def test_a_changed_training_setting_is_refused_and_named(
    tiny_data: Path, tmp_path: Path, qat_from: float, changed: dict[str, dict[str, object]], named: str
) -> None:
    config = settings(steps=4, qat_from=qat_from)
    made = trainer(config, tiny_data, tmp_path)
    checkpoint.save(tmp_path / "c", *checkpoint.snapshot(made.state.to_tree()))
    other = override(config, {f"{group}.{name}": value for group, values in changed.items() for name, value in values.items()})
    with pytest.raises(TrainError, match=f"other settings: {named}"):
        trainer(other, tiny_data, tmp_path).run(checkpoint.Writer(tmp_path / "c"))
