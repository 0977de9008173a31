"""The challenge's own environment variables, in one table.  No other file reads them; torchrun's are read in parallel/ranks.py."""

from collections.abc import Mapping

from hybrid.settings.config import ConfigError

# name: (key in the parsed flags, type).  A flag on the command line wins over the environment.
CHALLENGE_NAMES: dict[str, tuple[str, type]] = {
    "DATA_PATH": ("data", str),
    "TOKENIZER_PATH": ("tokenizer", str),
    "RUN_ID": ("out", str),
    "VOCAB_SIZE": ("model.vocab_size", int),
    "MAX_WALLCLOCK_SECONDS": ("train.seconds", float),
    "ITERATIONS": ("train.steps", int),
    "SEED": ("train.seed", int),
    "TRAIN_BATCH_TOKENS": ("train.batch_tokens", int),
    "TRAIN_SEQ_LEN": ("train.seq_len", int),
    "VAL_LOSS_EVERY": ("train.val_every", int),
}


def challenge_settings(environment: Mapping[str, str]) -> dict[str, object]:
    """{flag key: value} of the challenge's names that are set.  RUN_ID names a folder under runs/.

    Raises ConfigError for a value that is not of the name's type."""
    found: dict[str, object] = {}
    for name, (key, kind) in CHALLENGE_NAMES.items():
        if text := environment.get(name):
            try:
                found[key] = f"runs/{text}" if name == "RUN_ID" else kind(text)
            except ValueError:
                raise ConfigError(f"environment variable {name}: {text!r} is not {kind.__name__}; correct or unset it") from None
    return found
