"""The model `seedgram` of lm-evaluation-harness: its own loop, on tasks in a local file, gives the figures of our scorer.

Where the extra `lm-eval` is not installed (it brings some fifty packages), what a user is told is tested instead."""

import importlib.util
import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from hybrid.coding.compress import with_bos
from hybrid.data import tokenizer
from hybrid.parallel.ranks import Ranks
from hybrid.scoring import evaluate
from hybrid.scoring.options import EvalOptions
from hybrid.storing import artifact
from tests.support import loaded, tiny
from tests.support.paths import ROOT

ROLLING = """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
"""
CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""


def harness(folder: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    offline = {"HF_HOME": str(folder / "home"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [loaded.python(), "-m", "hybrid.hf.harness", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **offline}, check=False)


def bits(path: Path, text: str) -> float:
    art = artifact.load(path)
    tokens = with_bos(tokenizer.load(art.tokenizer), text.encode())
    return float(evaluate.score_tokens(art, tokens, EvalOptions(), Ranks(0, 1, torch.device("cpu"))).bits.sum())


if importlib.util.find_spec("lm_eval") is None:

    def test_without_the_harness_one_line_says_what_to_install(tmp_path: Path) -> None:
        done = harness(tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "pip install 'seedgram[lm-eval]'" in done.stderr

else:

    def test_the_harness_s_loop_prints_the_figures_of_our_scorer(made: Path, tmp_path: Path) -> None:
        texts = list(tiny.documents(3, seed=7))
        (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (tmp_path / "text.yaml").write_text(ROLLING % (tmp_path / "text.jsonl"))
        stem, good = texts[0].rsplit(" ", 1)
        endings = [" " + good, " zq\u00e9xvk"]
        rows = [{"context": stem, "choices": choices, "answer": 0} for choices in (endings, endings[::-1])]
        (tmp_path / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "choice.yaml").write_text(CHOICE % (tmp_path / "choice.jsonl"))
        model = ["--model", "seedgram", "--model_args", f"artifact={made / 'artifact.bin'}"]
        done = harness(tmp_path, *model, "--tasks", "local_text,local_choice", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out.json"))
        assert done.returncode == 0, done.stderr[-2000:]
        (result,) = (json.loads(path.read_text())["results"] for path in tmp_path.glob("out*.json"))
        expected = sum(bits(made / "artifact.bin", text) for text in texts) / sum(len(text.encode()) for text in texts)
        assert result["local_text"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-9)
        assert result["local_choice"]["acc,none"] == 0.5  # the likely ending is chosen both times: once it is the answer

    def test_a_continuation_costs_what_it_adds_to_its_context_and_greedy_means_the_likeliest_token(made: Path) -> None:
        from hybrid.hf.harness import SeedgramLM

        subject = SeedgramLM(artifact=str(made / "artifact.bin"))
        context, continuation = tiny.documents(1, seed=8)[0][:80].rsplit(" ", 1)
        nats, greedy = subject._continuation(context, " " + continuation)
        whole, before = (bits(made / "artifact.bin", text) for text in (f"{context} {continuation}", context))
        assert nats == pytest.approx((before - whole) * math.log(2), abs=1e-3) and not greedy
        tokens = with_bos(subject.codec, context.encode())
        rows = np.array([subject._continuation(context, subject.codec.piece_bytes[token].decode())[0] for token in range(300, 320)])
        likeliest = 300 + int(rows.argmax())
        assert subject._continuation(context, "")[1] and len(tokens) > 2
        assert rows.max() < 0 and subject._continuation(context, subject.codec.piece_bytes[likeliest].decode())[0] == rows.max()
        assert subject._text("") == 0.0
