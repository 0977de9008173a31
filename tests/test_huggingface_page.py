"""The examples of docs/huggingface.md run, one after the other, and print what they promise."""

import re
import runpy
from pathlib import Path

import pytest

from tests.support import tiny, tiny_hf
from tests.support.paths import ROOT


def test_the_examples_for_hugging_face_models_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/huggingface.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "mine").mkdir()
    for place, text in enumerate(tiny.documents(24, seed=3)):
        (tmp_path / "mine" / f"{place:03}.txt").write_text(text)
    tiny_hf.model().save_pretrained(tmp_path / "my-model")
    tiny_hf.tokenizer().save_pretrained(tmp_path / "my-model")
    (tmp_path / "page.py").write_text("\n".join(blocks))
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(tmp_path / "page.py"))
    out = capsys.readouterr().out
    assert "blended" in out and "PASSED" in out
