"""EvalOptions: everything that changes a score at evaluation, apart from the artifact and the text; and the flags that say it."""

import argparse
from dataclasses import dataclass, fields

from hybrid.parallel.device import add_device_flag
from hybrid.settings.config import Checked, ConfigError, add_flag, setting
from ngram.terminal import output

READ_TOKENS = 1024  # targets whose rows are read before the cache learns them (docs/decisions.md)


@dataclass(frozen=True)
class AdaptConfig(Checked):
    """How the network learns at evaluation.  Defaults are what helped most on held-out text (LOG.md)."""

    chunk_tokens: int = setting(0, "targets scored between two updates of the network, 0: one window; tokens")
    rate: float = setting(1e-4, "step of every weight a chunk, in units of its gradient's running root mean square", high=1)


@dataclass(frozen=True)
class EvalOptions(Checked):
    """How to score.

    adapt: test-time training of the network, None: frozen.  paranoid: digests of all state are compared around every score; implies
    cache_by_chunk."""

    stride: int = setting(0, "new targets a window, 0: windows side by side; tokens")
    chunk_tokens: int = setting(0, "targets between two gate updates, 0: as the artifact says; tokens")
    cache_by_chunk: bool = setting(False, "the online cache learns once a chunk instead of after every token")
    protocol: str = setting("full", "challenge: drop the tail that fills no window", choices=("full", "challenge"))
    max_tokens: int = setting(0, "tokens of the stream's beginning, 0: all")
    online: bool = setting(True, "cache and gate learn at evaluation, score-first; otherwise trained counts only, and no match model")
    match: bool = setting(True, "the match model has a say")
    product: bool = setting(True, "the product of network and cache has a say")
    read_tokens: int = setting(
        READ_TOKENS, "targets whose whole cache distributions the product reads at once, before the cache learns them", low=1, high=1 << 16
    )
    gate_learns: bool = setting(True, "the gate adapts, where anything does")
    adapt: AdaptConfig | None = None
    exact: bool = setting(False, "one way to compute, the same bits every time: one window at a time, one thread for torch")
    paranoid: bool = False
    allow_overlap: bool = setting(False, "score although validation documents are training documents too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens == 1:
            raise ConfigError("EvalOptions.max_tokens: 1 token is given and leaves none to predict; take at least 2, or 0 for all")


DEFAULTS = EvalOptions()
FIRST = {"stride", "max_tokens", "protocol", "allow_overlap"}  # options that people touch first


def add_scoring_flags(parser: argparse.ArgumentParser, *, max_tokens: int = 0, needed: bool = True) -> None:
    """What every command that scores an artifact has.  max_tokens: the default of that flag.  needed: --artifact and --data must be given."""
    parser.add_argument("--artifact", required=needed, help="artifact.bin of a run")
    parser.add_argument("--data", required=needed, help="folder with *_val_*.bin shards, or one shard")
    add_device_flag(parser)
    parser.add_argument("--json", type=output, metavar="F", help="write the result there too")
    add_option_flags(parser)
    parser.set_defaults(max_tokens=max_tokens)


def add_option_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for every option but paranoid."""
    first, learns, adapts = map(parser.add_argument_group, ("settings to begin with", "what has a say and learns", "test-time training"))
    for field in fields(EvalOptions):
        if field.metadata:
            add_flag(first if field.name in FIRST else learns, "--" + field.name.replace("_", "-"), field)
    learns.add_argument("--fixed-gate", dest="gate_learns", action="store_false", help="the same as --no-gate-learns")
    adapts.add_argument("--ttt", action="store_true", help="test-time training: the network, too, learns from what was scored")
    for field in fields(AdaptConfig):
        add_flag(adapts, f"--ttt-{field.name.replace('_tokens', '')}", field)


def options_of(flags: argparse.Namespace) -> EvalOptions:
    """What the flags of `add_option_flags` say.  Raises ConfigError on a value out of range."""
    names = {field.name for field in fields(EvalOptions)} - {"adapt"}
    adapt = AdaptConfig(flags.ttt_chunk, flags.ttt_rate)
    if not flags.ttt and adapt != AdaptConfig():
        raise ConfigError("--ttt-chunk and --ttt-rate say how --ttt learns; give --ttt, too")
    return EvalOptions(**{name: value for name, value in vars(flags).items() if name in names}, adapt=adapt if flags.ttt else None)
