"""The challenge's own environment variables.  No other file reads them; torchrun's are read in parallel/ranks.py."""

from collections.abc import Mapping

from hybrid.settings.config import FIELDS, ConfigError

# name: key in the parsed flags.  A flag on the command line wins over the environment.
CHALLENGE_NAMES = {
    "DATA_PATH": "data", "TOKENIZER_PATH": "tokenizer", "RUN_ID": "out", "VOCAB_SIZE": "model.vocab_size",
    "MAX_WALLCLOCK_SECONDS": "train.seconds", "ITERATIONS": "train.steps", "SEED": "train.seed",
    "TRAIN_BATCH_TOKENS": "train.batch_tokens", "TRAIN_SEQ_LEN": "train.seq_len", "VAL_LOSS_EVERY": "train.val_every",
}


def challenge_settings(environment: Mapping[str, str]) -> dict[str, object]:
    """{flag key: value} of the challenge's names that are set.  RUN_ID names a folder under runs/.

    Raises ConfigError for a value that is not of the setting's type."""
    found: dict[str, object] = {}
    for name, key in CHALLENGE_NAMES.items():
        if text := environment.get(name):
            kind = type(FIELDS[key].default) if key in FIELDS else str
            try:
                found[key] = f"runs/{text}" if name == "RUN_ID" else kind(text)
            except ValueError:
                raise ConfigError(f"environment variable {name}: {text!r} is not {kind.__name__}; correct or unset it") from None
    return found
