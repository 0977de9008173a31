"""The training loop: what is counted, what warm-up leaves behind, when phases begin, what a checkpoint must fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PIECES

from hybrid import checkpoint
from hybrid.batches import LossReader, TrainError
from hybrid.config import CacheConfig, Config, ModelConfig, TrainConfig, override
from hybrid.data import Loader, find_shards
from hybrid.distributed import Ranks
from hybrid.log import RunLog
from hybrid.model import HybridLM
from hybrid.optim import flat_gradients
from hybrid.train import Trainer

SMALL = {
    "layers": 2,
    "d_model": 32,
    "heads": 2,
    "kv_heads": 1,
    "mlp_mult": 2.0,
    "rope_dims": 8,
    "basis": "hadamard",
    "rank_attention": 4,
    "rank_mlp": 4,
}


def settings(**train: object) -> Config:
    values = {"seconds": 0.0, "batch_tokens": 64, "microbatch_tokens": 32, "seq_len": 16, "holdout_tokens": 200, "warmup_steps": 1} | train
    return Config(model=ModelConfig(vocab_size=PIECES, **SMALL), train=TrainConfig(**values), cache=CacheConfig(ngram_order=4))  # type: ignore[arg-type]


def trainer(config: Config, data: Path, folder: Path) -> Trainer:
    loader = Loader(
        find_shards(data, "train"),
        batch_rows=config.train.batch_tokens // config.train.seq_len,
        seq_len=config.train.seq_len,
        history=config.cache.ngram_order - 1,
        seed=config.train.seed,
        holdout_tokens=config.train.holdout_tokens,
    )
    torch.manual_seed(config.train.seed)
    return Trainer(config, loader, HybridLM(config.model), Ranks(0, 1, torch.device("cpu")), RunLog(folder / "log", active=False))


def weights(of: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in of.model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_each_corpus_position_is_counted_once_however_many_epochs_are_trained(tiny_data: Path, tmp_path: Path) -> None:
    probe = trainer(settings(), tiny_data, tmp_path)
    epoch = int(np.ceil(probe.batches.loader.steps_per_epoch))
    run = trainer(settings(steps=3 * epoch), tiny_data, tmp_path)
    run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.cache is not None
    assert run.cache.positions == run.batches.loader.train_tokens - 1


def test_a_run_shorter_than_an_epoch_counts_only_what_it_saw(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=2), tiny_data, tmp_path)
    run.run(checkpoint.Writer(tmp_path / "c"))
    assert run.cache is not None
    assert run.cache.positions == 2 * 64


def test_warm_up_leaves_no_trace(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=1), tiny_data, tmp_path)
    before, states = weights(run), [o.state_dict() for o in run.optimisers]
    run.warm_up()
    assert equal(before, weights(run))
    for optimiser, state in zip(run.optimisers, states, strict=True):
        assert optimiser.state_dict().keys() == state.keys()
        assert all(torch.equal(optimiser.state_dict()[k], state[k]) for k in state)
    assert not run.gradients.any()
    assert run.cache is not None
    assert run.cache.positions == 0


def test_microbatches_give_the_gradient_of_the_whole_batch(tiny_data: Path, tmp_path: Path) -> None:
    parts, whole = (trainer(settings(microbatch_tokens=n), tiny_data, tmp_path) for n in (16, 64))
    rows = whole.batches.host(0)
    parts.forward_backward(rows)
    whole.forward_backward(rows)
    assert whole.gradients.abs().max() > 1e-3
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-4, atol=1e-7)


def test_the_loss_falls(tiny_data: Path, tmp_path: Path) -> None:
    run = trainer(settings(steps=60, log_every=10), tiny_data, tmp_path)
    result = run.run(checkpoint.Writer(tmp_path / "c"))
    assert result.loss_nats < np.log(PIECES) - 1


def test_the_average_of_a_short_run_is_not_its_start(tiny_data: Path, tmp_path: Path) -> None:
    plain, averaged = (trainer(settings(steps=20, ema_decay=d), tiny_data, tmp_path) for d in (0.0, 0.999))
    start = weights(plain)
    for name, run in (("plain", plain), ("averaged", averaged)):
        run.run(checkpoint.Writer(tmp_path / name))
    moved = sum(float((a - b).square().sum()) for a, b in zip(weights(plain), start, strict=True))
    lag = sum(float((a - b).square().sum()) for a, b in zip(weights(plain), weights(averaged), strict=True))
    assert lag < 0.5 * moved


def test_late_phases_begin_at_their_share_and_survive_a_resume(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(steps=12, freeze_at=0.5, swa_every=2, qat_from=0.75)
    config = Config(
        model=ModelConfig(vocab_size=PIECES, **SMALL | {"freeze": "mlp", "progressive": True}), train=config.train, cache=config.cache
    )
    whole, first, second = (trainer(config, tiny_data, tmp_path) for _ in range(3))
    rounded: list[int] = []
    monkeypatch.setattr(whole.model, "set_fake_bits", lambda bits: (rounded.append(bits), HybridLM.set_fake_bits(whole.model, bits)))
    whole.run(checkpoint.Writer(tmp_path / "whole"))
    assert whole.frozen_late and whole.average.snapshots > 0 and len(whole.parameters) < len(list(whole.model.parameters()))
    bits = config.quant.weight_bits
    assert rounded == [bits, 0, bits, bits, bits, 0]  # warm-up, the last three steps, packing
    first.warm_up()
    for _ in range(9):  # past freezing and the first snapshots
        first._enter_phase(first.progress())
        progress, rows = first.progress(), first.batches.host(first.step)
        first.forward_backward(rows)
        first.update(progress)
        first.average.update(first.parameters, first.step, progress)
        first.step += 1
    checkpoint.save(tmp_path / "half", *checkpoint.snapshot(first.state()))
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
    reader = LossReader(torch.device("cpu"))
    for value in range(1, 6):
        reader.push(torch.tensor(float(value)))
    assert reader.mean() == pytest.approx((1 + 2 + 3) / 3)
    reader.push(torch.tensor(6.0))
    assert reader.mean() == 4.0


# ---- whole runs through the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qat_from", "changed", "named"),
    [
        (-1.0, {"train": {"matrix_lr": 0.5, "clip_norm": 1.0}}, "train.matrix_lr, train.clip_norm;"),
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
    checkpoint.save(tmp_path / "c", *checkpoint.snapshot(made.state()))
    other = override(config, {f"{group}.{name}": value for group, values in changed.items() for name, value in values.items()})
    with pytest.raises(TrainError, match=f"other settings: {named}"):
        trainer(other, tiny_data, tmp_path).run(checkpoint.Writer(tmp_path / "c"))
