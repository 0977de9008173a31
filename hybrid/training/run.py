"""A whole training run: data, training, counting, packing, and the score of what was packed.

`train_gpt.py`, `seedgram train` and `hybrid.train` all call this.
"""

import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from hybrid.data.shards import find_shards
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate, report
from hybrid.scoring.options import EvalOptions
from hybrid.settings.config import Config
from hybrid.storing import artifact
from hybrid.training import checkpoint, pack
from hybrid.training.inputs import Places, read_inputs
from hybrid.training.run_log import RunLog, environment
from hybrid.training.trainer import Trainer
from ngram.terminal import warn


def train(settings: Config, places: Places, ranks: Ranks) -> dict[str, Any]:
    """From data to a scored artifact, or to a checkpoint where a signal stops it; what summary.json says, with "interrupted".

    Raises SeedgramError, naming file or setting, for what cannot be carried out."""
    begin = time.monotonic()
    out, writer = Path(places.out), checkpoint.Writer(Path(places.out) / "checkpoint.bin")
    checkpoint.check_resume(writer.path, places.resume)
    inputs = read_inputs(places, settings, ranks)
    with closing(checkpoint.RunFolder(out)) if ranks.is_first else nullcontext():
        if ranks.is_first and not places.resume:
            writer.path.unlink(missing_ok=True)
        ranks.barrier()  # the folder is there, and a checkpoint that is still in it is one to continue from
        with closing(RunLog(out / "train.jsonl", active=ranks.is_first)) as log:
            log.record("start", config=settings.to_json(), world=ranks.world, data=inputs.loader.digests, **environment(ranks))
            trainer = Trainer(settings, inputs, ranks, log)
            result = trainer.run(writer)
            summary: dict[str, Any] = {"preset": settings.preset, "seed": settings.train.seed, "world": ranks.world, **vars(result)}
            if result.interrupted:
                if ranks.is_first:
                    warn(f"stopped by a signal after step {result.steps:,}; {writer.path} holds all of it, go on with --resume")
                return summary
            pack.merge_counts(trainer.ahead, ranks, log)
            if ranks.is_first:
                summary |= pack.pack(settings, inputs, trainer.ahead, ranks, out, log)
            ranks.barrier()  # the artifact is on disk, and scored as anybody would read it
            if not places.no_score:
                options = EvalOptions(allow_overlap=places.allow_overlap)
                with log.phase("reloaded"):
                    packed = artifact.load(out / "artifact.bin")
                with log.phase("scored"):
                    summary["scores"] = evaluate.evaluate(packed, find_shards(places.data, "val"), ranks, options)[0]
            if ranks.is_first:
                seconds = {"compiled": result.warmup_s, **log.seconds}
                summary["seconds"] = seconds | {"else": time.monotonic() - begin - result.wall_s - sum(seconds.values())}
                report.write_json(out / "summary.json", summary)
                if not places.keep_checkpoint:
                    writer.path.unlink(missing_ok=True)
                log.show("packed", **{name: size for name, size in summary["bytes"].items() if name in ("ngram", "code", "total")})
    return summary
