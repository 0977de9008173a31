"""What a run has reached: weights, optimisers, steps and seconds; what a checkpoint holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hybrid.model.hybrid_lm import HybridLM
from hybrid.model.parameters import flat_gradients
from hybrid.settings.config import Config, training_differences
from hybrid.training import optim
from hybrid.training.batches import TrainError


@contextmanager
def _fitting() -> Iterator[None]:
    """Turns what is wrong with a checkpoint's contents into one line."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise TrainError(f"--resume: the checkpoint does not fit this model ({str(error).splitlines()[0]}); use another --out") from None


class RunState:
    """Weights, gradients, optimisers and progress of a run of `config`.

    model: on its device.  world: number of ranks.  shard_digests: of the training shards."""

    def __init__(self, config: Config, model: HybridLM, world: int, shard_digests: list[str]) -> None:
        self.config, self.model, self.world, self.shard_digests = config, model, world, shard_digests
        self.step, self.wall_s, self.frozen_late = 0, 0.0, False
        self._collect()

    def _collect(self) -> None:
        """The parameters that are trained, one buffer for their gradients, and new optimisers for them."""
        self.parameters: list[torch.Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.gradients = flat_gradients(self.parameters)
        self.optimisers = optim.build(self.model, self.config.train)

    def freeze_late(self) -> None:
        """Progressive freezing: what was trained stays as it is, and is stored like any learned weight."""
        self.model.freeze_learned()
        self._collect()
        self.frozen_late = True

    def unfreeze(self) -> None:
        """Trains on what `freeze_learned` stopped for the warm-up; the optimisers stay."""
        for p in self.parameters:
            p.requires_grad_(True)
        self.gradients = flat_gradients(self.parameters)

    def progress(self) -> float:
        """Share of the run that is done: of the steps or the seconds, the larger where both are limited."""
        return self._share_done(self.step, self.wall_s)

    def _share_done(self, step: int, wall_s: float) -> float:
        limits = ((step, self.config.train.steps), (wall_s, self.config.train.seconds))
        if not (shares := [done / limit for done, limit in limits if limit]):
            raise TrainError("a run needs a limit; give --seconds or --steps")
        return min(1.0, max(shares))

    def to_tree(self) -> dict[str, Any]:
        """All of it, for checkpoint.snapshot."""
        return {
            "config": self.config.to_json(), "world": self.world, "step": self.step, "wall_s": self.wall_s, "data": self.shard_digests,
            "frozen_late": self.frozen_late, "parameters": list(self.model.parameters()), "optimisers": [o.state_dict() for o in self.optimisers],
        }

    @_fitting()
    def is_over(self, tree: dict[str, Any]) -> bool:
        """Whether the run that wrote `tree` has trained to its end.  Raises TrainError as `restore` does."""
        self._check(tree)
        return self._share_done(int(tree["step"]), float(tree["wall_s"])) >= 1.0

    @_fitting()
    def restore(self, tree: dict[str, Any]) -> None:
        """Continues from `tree`.  Raises TrainError when it does not fit this run."""
        self._check(tree)
        if tree["frozen_late"]:
            self.freeze_late()
        with torch.no_grad():
            mine: list[torch.Tensor] = list(self.model.parameters())
            torch._foreach_copy_(mine, [t.to(mine[0].device) for t in tree["parameters"]])
        for optimiser, saved in zip(self.optimisers, tree["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.wall_s = int(tree["step"]), float(tree["wall_s"])

    def _check(self, tree: dict[str, Any]) -> None:
        """Raises TrainError unless `tree` is a checkpoint of this run.  Settings that only packing and evaluation read may differ."""
        if other := training_differences(Config.from_json(tree["config"]), self.config):
            what = f"with other settings: {', '.join(other)}; repeat those or use another --out"
            raise TrainError(f"--resume: the checkpoint was made {what} (only what packing and evaluation alone read may change)")
        if tree["world"] != self.world:
            raise TrainError(f"--resume: the checkpoint was made by {tree['world']} ranks, these are {self.world}; start as many or use another --out")
        if tree["data"] != self.shard_digests:
            raise TrainError("--resume: the training shards are not those of the checkpoint; bring them back or use another --out")
