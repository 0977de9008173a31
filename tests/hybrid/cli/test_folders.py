"""Commands that write a folder: it cannot be standard output."""

import pytest

from hybrid.cli import seedgram, train
from ngram.terminal import UsageError

REST = {
    "prepare": ["text.txt"],
    "prepare hub": ["owner/name"],
    "prepare merge": ["part"],
    "prepare fineweb": [],
    "submit": ["run"],
    "train": [],
}


@pytest.mark.parametrize("command", [*REST, "train_gpt.py"])
def test_a_dash_is_refused_as_the_name_of_a_folder(command: str) -> None:
    script = command == "train_gpt.py"
    parse, arguments = (train.make_parser().parse_args, []) if script else (seedgram.parse, [*command.split(), *REST[command]])
    with pytest.raises(UsageError, match="argument --out: - is standard output, and this writes a folder; give the name of one"):
        parse([*arguments, "--out", "-"])
