"""Inputs that people bring, each made on the spot and given to the command as a user types it: the right answer, or one line that says why not.

Every kind is tested in all its forms beside the module that handles it; here stands one of each, from the command line to what it prints.
"""

import bz2
import csv
import gzip
import io
import json
import math
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from hybrid.cli import prepare
from ngram.__main__ import main as ngram
from ngram.errors import run_cli
from tests.support.folders import jsonl, read_back, write
from tests.support.tokenizers import kinds, small_texts, without_bytes

BOOK = "\n\n".join(small_texts())
TEXTS = [f"{text[:200]} {number}\n" for number, text in enumerate(small_texts())]
ARPA = "\\data\\\nngram 1=3\n\n\\1-grams:\n-0.30103\t<unk>\n-0.60206\t260\n-0.60206\t261\n\n\\end\\\n"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def refused(self, said: str) -> None:
        assert self.code == 2 and self.out == "" and said in self.err and len(self.err.splitlines()) == 1, self

    def fine(self) -> "Done":
        assert self.code == 0 and "Traceback" not in self.err, self
        return self


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `prepare …` or `ngram …` in a folder of its own that holds the tokenizer M."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "M", kinds()["public"])
    mains: dict[str, Callable[[], object]] = {"prepare": lambda: prepare.main(None), "ngram": ngram}

    def call(line: str) -> Done:
        command, *arguments = line.split()
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_cli(mains[command])  # type: ignore[arg-type]
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return call


def test_a_book_beside_its_packed_copy_is_counted_once(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "twice/book.txt", BOOK)
    write(tmp_path / "twice/book.txt.gz", gzip.compress(BOOK.encode()))
    done = run("prepare twice --tokenizer M --val-fraction 0.1 --out D").fine()
    assert "1 documents that were there before, left out" in " ".join(done.out.split())
    (train,), (val,) = read_back(tmp_path / "D", "train"), read_back(tmp_path / "D", "val")
    assert train + val == BOOK.encode()


def test_validation_text_inside_training_text_is_an_error(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "docs.jsonl", jsonl(TEXTS))
    write(tmp_path / "val.jsonl", jsonl(TEXTS[3:7]))
    run("prepare docs.jsonl --val val.jsonl --tokenizer M --out D").refused("4 of 4 validation documents are training documents too")
    assert (
        "4 validation documents are training documents too, left out"
        in run("prepare docs.jsonl --val val.jsonl --tokenizer M --out D --overlap drop").err
    )


def test_an_unk_that_stands_for_a_thousand_tokens_is_no_good_guess_for_each(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "unk.arpa", ARPA)
    write(tmp_path / "test.txt", BOOK[:2000])
    report = json.loads(run("ngram score --model unk.arpa --tokenizer M --test test.txt").fine().out)
    pieces = 340
    assert report["bits_per_token"] == pytest.approx(1 + math.log2(pieces - 2), abs=0.5)  # half the mass for all but two of the pieces
    assert report["row_sums"] == pytest.approx([1, 1], abs=1e-4)


def test_probabilities_times_ten_are_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.txt", BOOK)
    run("ngram train --train a.txt --tokenizer M --orders 2-3 --out a.c").fine()
    run("ngram arpa a.c --out a.arpa").fine()
    honest = json.loads(run("ngram score --model a.arpa --tokenizer M --test a.txt").fine().out)
    lines = (tmp_path / "a.arpa").read_text().splitlines()
    scaled = [f"{min(0.0, float(line.split(chr(9))[0]) + 1)}\t{line.split(chr(9), 1)[1]}" if "\t" in line else line for line in lines]
    write(tmp_path / "scaled.arpa", "\n".join(scaled) + "\n")
    run("ngram score --model scaled.arpa --tokenizer M --test a.txt").refused("scaled.arpa: its probabilities are none, they sum to")
    assert honest["bpb"] == pytest.approx(json.loads(run("ngram score --model a.c --test a.txt").out)["bpb"], rel=1e-6)


@pytest.mark.parametrize(
    "name, content",
    [
        ("comment.arpa", b"made by a toolkit\n\n" + ARPA.encode()),
        ("plain.arpa.gz", gzip.compress(ARPA.encode(), mtime=0)),
        ("marked.arpa", b"\xef\xbb\xbf" + ARPA.encode()),
        ("i.arpa", b"iARPA\n\n" + ARPA.encode()),
    ],
    ids=["comment", "gzip", "byte order mark", "iARPA"],  # not the contents: workers of pytest-xdist have to agree on names
)
def test_an_arpa_file_is_read_however_it_was_written(run: Run, tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path / "plain.arpa", ARPA)
    write(tmp_path / name, content)
    write(tmp_path / "test.txt", BOOK[:2000])
    figures = [
        json.loads(run(f"ngram score --model {model} --tokenizer M --test test.txt").fine().out)["bpb"] for model in (name, "plain.arpa")
    ]
    assert figures[0] == figures[1]


def test_an_arpa_file_without_a_prefix_is_read_and_one_without_a_token_is_not(run: Run, tmp_path: Path) -> None:
    pruned = ARPA.replace("ngram 1=3", "ngram 1=3\nngram 2=0\nngram 3=1").replace(
        "\\end\\", "\\2-grams:\n\\3-grams:\n-0.5\t260 261 260\n\\end\\"
    )
    write(tmp_path / "pruned.arpa", pruned)
    write(tmp_path / "closed.arpa", ARPA.replace("-0.30103\t<unk>\n", "").replace("ngram 1=3", "ngram 1=2").replace("-0.60206", "-0.30103"))
    write(tmp_path / "test.txt", BOOK[:2000])
    assert json.loads(run("ngram score --model pruned.arpa --tokenizer M --test test.txt").fine().out)["restored_ngrams"] == 1
    run("ngram score --model closed.arpa --tokenizer M --test test.txt").refused("closed.arpa: has no probability for token")


def test_a_vocabulary_without_a_lone_space_counts_a_space_once(run: Run, tmp_path: Path) -> None:
    text = " ".join(map(str, range(900)))
    write(tmp_path / "no_space.model", kinds()["no space"])
    write(tmp_path / "digits.txt", text)
    run("prepare digits.txt --tokenizer no_space.model --val-fraction 0.5 --out D").fine()
    splits = json.loads((tmp_path / "D/manifest.json").read_text())["splits"]
    assert sum(split["bytes"] for split in splits.values()) == len(text)


def test_characters_that_a_normaliser_blows_up_or_drops_count_as_what_they_are(run: Run, tmp_path: Path) -> None:
    for character in ("\ufdfa", "\u00bd", "  ", "\r\n"):
        text = character * 400 + "end"
        write(tmp_path / "a.txt", text)
        run("prepare a.txt --tokenizer M --val-fraction 0 --out D").fine()
        assert json.loads((tmp_path / "D/manifest.json").read_text())["splits"]["train"]["bytes"] == len(text.encode())
        assert read_back(tmp_path / "D", "train") == [text.encode()]


def test_a_tokenizer_without_byte_pieces_is_refused_or_says_what_it_loses(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "B", without_bytes())
    write(tmp_path / "a.txt", "the cat " * 50 + "\u4e2d" * 300)
    run("prepare a.txt --tokenizer B --out D").refused("B: has no byte pieces and cannot hold 69.23% of a document of 1,300 bytes")
    assert "lost 69.23% of 1,300 bytes" in run("prepare a.txt --tokenizer B --out D --allow-loss --val-fraction 0").fine().err


@pytest.mark.parametrize(
    "name, content",
    [
        ("long_window.jsonl.zst", lambda: _long_window(jsonl(TEXTS))),
        ("array.jsonl", lambda: json.dumps([{"text": text} for text in TEXTS]).encode()),
        ("one_null.jsonl", lambda: jsonl(TEXTS[:4]) + b'{"text": null}\n' + jsonl(TEXTS[4:])),
        ("a.csv", lambda: _csv(TEXTS)),
        ("a.ndjson.bz2", lambda: bz2.compress(jsonl(TEXTS))),
        ("mixed/B.TXT", lambda: BOOK.encode()),
        ("mixed/c.json", lambda: json.dumps([{"text": text} for text in TEXTS], indent=2).encode()),
    ],
)
def test_formats_that_were_refused_or_passed_over_are_read(run: Run, tmp_path: Path, name: str, content: Callable[[], bytes]) -> None:
    write(tmp_path / name, content())
    run(f"prepare {Path(name).parts[0]} --tokenizer M --val-fraction 0 --out D").fine()
    expected = [BOOK] if name.endswith("TXT") else TEXTS
    assert sorted(read_back(tmp_path / "D", "train")) == sorted(text.encode() for text in expected)


def _long_window(data: bytes) -> bytes:
    packer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=30)).compressobj()
    return packer.compress(data) + packer.flush()


def _csv(texts: list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([["text"], *([text] for text in texts)])
    return out.getvalue().encode()


def test_what_a_mac_or_a_notebook_leaves_in_a_folder_is_no_document_and_what_is_not_read_is_said(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "mac/a.txt", BOOK)
    write(tmp_path / "mac/._a.txt", b"\x00\x05\x16\x07")
    write(tmp_path / "mac/.ipynb_checkpoints/a-checkpoint.txt", BOOK + "an older state")
    write(tmp_path / "mac/a.docx", b"PK")
    done = run("prepare mac --tokenizer M --val-fraction 0 --out D").fine()
    assert read_back(tmp_path / "D", "train") == [BOOK.encode()]
    assert "3 files not read: ._a.txt, .ipynb_checkpoints/, a.docx" in " ".join(done.out.split())


def test_seven_lines_leave_text_on_both_sides_and_blank_text_is_refused(run: Run, tmp_path: Path) -> None:
    for seed in range(6):  # whatever the hash of the text says
        write(tmp_path / "seven.txt", "".join(f"line {number} {random.Random(seed).random():.3f}\n" for number in range(7)))
        run("prepare seven.txt --tokenizer M --val-fraction 0.2 --out D").fine()
        assert read_back(tmp_path / "D", "train")[0] + read_back(tmp_path / "D", "val")[0] == (tmp_path / "seven.txt").read_bytes()
        shutil.rmtree(tmp_path / "D")
    write(tmp_path / "blank.txt", "\n \n" * 40)
    run("prepare blank.txt --tokenizer M --val-fraction 0.2 --out D").refused("nothing but white space")
    write(tmp_path / "tiny.txt", "t")
    run("prepare tiny.txt --tokenizer M --val-fraction 0.2 --out D").refused("give more text, or validation text with --val")


@pytest.mark.parametrize("kind, bos", [("Gemma", 2), ("T5", 1)])
def test_a_bos_that_is_not_1_begins_documents_and_stands_in_the_manifest(run: Run, tmp_path: Path, kind: str, bos: int) -> None:
    write(tmp_path / "a.jsonl", jsonl(TEXTS))
    write(tmp_path / "T", kinds()[kind])
    run("prepare a.jsonl --tokenizer T --val-fraction 0.2 --out D").fine()
    assert json.loads((tmp_path / "D/manifest.json").read_text())["bos"] == bos
    assert len(read_back(tmp_path / "D", "train")) + len(read_back(tmp_path / "D", "val")) == len(TEXTS)


def test_a_damaged_folder_is_not_called_complete(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl(TEXTS))
    command = "prepare a.jsonl --tokenizer M --val-fraction 0.2 --out D"
    run(command).fine()
    shard = tmp_path / "D/text_train_000000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2] + b"\x07\x00")
    assert "already there" not in run(command).fine().out
    assert shard.read_bytes() == whole
    assert "already there" in run(command).fine().out


def test_train_and_score_of_n_grams_take_folders_json_and_standard_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in/a.jsonl.gz", gzip.compress(jsonl(TEXTS)))
    run("ngram train --train in --tokenizer M --orders 2-3 --out a.c").fine()
    write(tmp_path / "t.txt", BOOK[:3000])
    from_file = json.loads(run("ngram score --model a.c --test t.txt").fine().out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BOOK[:3000].encode())))
    assert json.loads(run("ngram score --model a.c --test -").fine().out)["bpb"] == from_file["bpb"]
