"""The table of an evaluation beside general compressors."""

import json

from hybrid.cli import beside_compressors
from hybrid.parallel.ranks import Ranks, start
from hybrid.scoring import evaluate
from hybrid.storing import artifact
from tests.support import tiny


def test_the_report_sets_the_result_beside_compressors(made, capsys):
    ranks: Ranks = start("cpu")
    result = evaluate.evaluate(artifact.load(made / "artifact.bin"), [made / "tiny_val_000000.bin"], ranks)[0]
    (made / "eval.json").write_text(json.dumps(result))
    (made / "m.model").write_bytes(tiny.tokenizer_bytes())
    assert tiny.exit_code(beside_compressors, "--eval", made / "eval.json", "--data", made, "--tokenizer", made / "m.model") == 0
    printed = capsys.readouterr().out
    assert "xz -9e" in printed
    assert "zstd -19" in printed
