"""Command line of `seedgram check-data`.

    seedgram check-data --data D --tokenizer M [--window 50] [--most-shared 0.01] [--json F]
    seedgram check-data --text FILE… --tokenizer M [--json F]
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hybrid.auditing.byte_accounting import ByteAccounting, account, properties
from hybrid.auditing.windows import SharedWindows, shared_windows
from hybrid.data.overlap import Shared, overlap, repeats
from hybrid.data.shards import Stream, find_shards
from hybrid.scoring import report
from ngram.container import STANDARD
from ngram.documents import NAMED, documents, input_files
from ngram.terminal import UsageError, output, track, warn
from ngram.tokenizer import Tokenizer

WINDOW = 50  # tokens
MOST_SHARED = 0.01  # of the validation tokens in shared windows: licences and boilerplate are in every corpus


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="D", help="folder of *_train_*.bin and *_val_*.bin shards")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text to hold the tokenizer's bytes against: all that prepare reads")
    parser.add_argument("--field", default="text", help="key or column of the text in JSON and tables [text]")
    parser.add_argument("--tokenizer", required=True, metavar="M", help="SentencePiece model of the shards")
    parser.add_argument("--window", type=int, default=WINDOW, metavar="N", help=f"tokens in a row that count as shared text, at least 8 [{WINDOW}]")
    words = f"largest share of validation tokens in such windows that passes, 0 to 1 [{MOST_SHARED}]"
    parser.add_argument("--most-shared", type=float, default=MOST_SHARED, metavar="X", help=words)
    parser.add_argument("--json", type=output, metavar="F", help="write the figures there; - for standard output, which then holds nothing else")


def run(flags: argparse.Namespace) -> int:
    """0 if nothing is wrong, otherwise 1."""
    if not (flags.data or flags.text):
        raise UsageError("give --data, --text or both; see seedgram check-data --help")
    if flags.window < 8 or not 0 <= flags.most_shared <= 1:
        raise UsageError("--window must be at least 8 and --most-shared from 0 to 1; see seedgram check-data --help")
    codec, result, wrong = Tokenizer(flags.tokenizer), dict[str, Any](), list[str]()
    say = warn if flags.json == STANDARD else print
    if flags.data:
        wrong += _sides(flags, codec, result, say)
    if flags.text:
        with input_files(flags.text, names=NAMED) as paths:
            found = account(codec, track(documents(paths, flags.field, lambda done, total: None), "reading"))
        wrong += _bytes(codec, found, result, say)
    for line in wrong:
        say(f"WRONG: {line}")
    if not wrong:
        say("nothing wrong was found")
    report.write_json(flags.json, {**result, "wrong": wrong})
    return 1 if wrong else 0


def _sides(flags: argparse.Namespace, codec: Tokenizer, result: dict[str, Any], say: Callable[[str], None]) -> list[str]:
    """Prints what training and validation text share, adds it to `result`; what is wrong, in lines."""
    train, val = (Stream(find_shards(flags.data, split), codec.vocab_size) for split in ("train", "val"))
    both, again, before = overlap(train, val, codec.bos), repeats(val, codec.bos), repeats(train, codec.bos)
    windows = shared_windows(train, val, codec.bos, flags.window)
    result |= {name: {**asdict(found), "share": found.share} for name, found in (("documents_shared", both), ("val_repeated", again))}
    result |= {"train_repeated": {**asdict(before), "share": before.share}, "windows_shared": {**asdict(windows), "share": windows.share}}
    for line in _table(both, again, before, windows):
        say(line)
    wrong = []
    if both.documents:
        wrong.append(f"{both.documents:,} validation documents are training documents too, {both.share:.2%} of the validation tokens")
    if again.documents:
        wrong.append(f"{again.documents:,} validation documents stand in the validation text more than once, {again.share:.2%} of its tokens")
    if windows.share > flags.most_shared:
        wrong.append(f"{windows.share:.2%} of the validation tokens lie in windows of {windows.size} that the training text has too")
    return wrong


def _table(both: Shared, again: Shared, before: Shared, windows: SharedWindows) -> list[str]:
    rows = [
        ("validation documents that are training documents", both.documents, both.of_documents, both.share),
        ("validation documents seen before in the validation text", again.documents, again.of_documents, again.share),
        ("training documents seen before in the training text", before.documents, before.of_documents, before.share),
        (f"validation documents with a window of {windows.size} tokens in the training text", windows.documents, windows.of_documents, windows.share),
        ("  covered by such windows for more than half", windows.mostly, windows.of_documents, None),
        ("windows themselves", windows.windows, windows.of_windows, None),
    ]
    lines = [f"{'':<76}{'found':>12}{'of':>14}{'tokens':>9}"]
    return lines + [f"{name:<76}{found:>12,}{of:>14,}{'' if share is None else f'{share:.2%}':>9}" for name, found, of, share in rows]


def _bytes(codec: Tokenizer, found: ByteAccounting, result: dict[str, Any], say: Callable[[str], None]) -> list[str]:
    """Prints how a tokenizer counts the bytes of some text, adds it to `result`; what is wrong, in lines."""
    known = properties(codec)
    result |= {"tokenizer": known, "byte_accounting": {**asdict(found), "excess": found.excess}}
    for name, holds in known.items():
        say(f"{name:<76}{'yes' if holds else 'no':>12}")
    say(f"{'bytes of the text, and as the challenge counts its tokens':<76}{found.bytes:>12,}{found.counted:>14,}{found.excess:>+9.2%}")
    say(f"{'documents counted with more bytes than they have, and with fewer':<76}{found.longer:>12,}{found.shorter:>14,}")
    say(f"{'documents whose text does not come back':<76}{found.changed:>12,}{found.documents:>14,}")
    for kind, count in found.kinds.most_common():
        say(f"  {kind:<74}{count:>12,}")
    wrong = []
    if found.longer:
        share, where = found.worst
        wrong.append(f"{found.longer:,} documents are counted with more bytes than they have, at worst {share:+.1%} ({where!r}): their BPB is too small")
    if found.changed:
        wrong.append(f"{found.changed:,} documents do not come back from their tokens; `seedgram prepare` encodes them losslessly")
    return wrong
