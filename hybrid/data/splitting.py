"""Which document goes where: training or validation by a hash of its text, every document once, none on both sides."""

import math

import numpy as np
import numpy.typing as npt

from hybrid.data.encoded import TRAIN, VAL, Documents, val_key
from hybrid.data.shards import DataError
from ngram.tokenizer import Tokenizer

OVERLAP = ("refuse", "drop", "keep")  # what to do with documents that are both training and validation text


def is_val(data: bytes, fraction: float) -> bool:
    """Whether a document is held out: by a hash of its text, so that copies of it stay on one side."""
    return val_key(data) < fraction * 2**64


class Sides:
    """Encoded documents of both sides, each document once unless `keep_duplicates`.

    everything: the inputs' and those of --val; fraction: of the inputs' documents that is held out, 0 to 1.
    duplicates: documents that were there before, of the same side's source."""

    def __init__(self, everything: Documents, fraction: float, *, keep_duplicates: bool) -> None:
        streams, self.duplicates = [], 0
        for stream in (TRAIN, VAL):
            documents = everything.take(everything.rows["stream"] == stream)
            first = _first_of_each(documents.rows["digest"])
            self.duplicates += int((~first).sum())
            streams.append(documents if keep_duplicates else documents.take(first))
        inputs, given = streams
        held = _below(inputs.rows["key"], fraction)
        self.train, self.val = inputs.take(~held), inputs.take(held).then(given)

    def settle_overlap(self, policy: str) -> int:
        """The number of validation documents that are also training documents; `policy` says what becomes of them.

        Raises DataError with "refuse"."""
        val = np.isin(self.val.rows["digest"], self.train.rows["digest"])
        shared = len(set(self.val.rows["digest"][val].tolist()))
        if shared and policy == "refuse":
            raise DataError(
                f"{shared:,} of {len(self.val):,} validation documents are training documents too; take them out of training with "
                "--overlap drop, or train on them with --overlap keep"
            )
        if policy == "drop":
            self.train = self.train.take(~np.isin(self.train.rows["digest"], self.val.rows["digest"]))
        return shared

    def hold_out_an_end(self, tokenizer: Tokenizer, fraction: float) -> None:
        """Where the hash left one side empty, validation gets the end of the last document.

        Raises DataError when that, too, would leave a side without a token to predict."""
        if len(self.train) and len(self.val):
            return
        documents = self.train.then(self.val)
        if not len(documents):
            return
        numbers = np.arange(len(documents))
        rest, last = documents.take(numbers[:-1]), documents.tokens(len(documents) - 1)
        total = int(documents.rows["tokens"].sum())
        least = 1 if len(rest) else 2  # tokens that have to stay: BOS, and one to predict where nothing else is trained on
        cut = max(least, len(last) - max(1, round(total * fraction)))
        while cut > least and _inside_character(tokenizer, last[cut:]):
            cut -= 1
        self.train = rest.then(_document(documents, tokenizer, last[:cut])) if cut > 1 else rest
        self.val = _document(documents, tokenizer, np.concatenate([last[:1], last[cut:]]))
        if not len(self.train) or int(self.val.rows["tokens"][0]) < 2:
            raise DataError(
                f"{total:,} tokens are too few to hold out {fraction:g} of them for validation; give more text, or validation text with --val"
            )


def _first_of_each(digests: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """(D,) bool: which documents were not there before."""
    first = np.zeros(len(digests), np.bool_)
    first[np.unique(digests, return_index=True)[1]] = True
    return first


def _below(keys: npt.NDArray[np.uint64], fraction: float) -> npt.NDArray[np.bool_]:
    """(D,) bool: which keys are below a share of all, exactly as `is_val` says."""
    limit = math.ceil(fraction * 2**64)
    return np.ones(len(keys), np.bool_) if limit >= 2**64 else keys < np.uint64(limit)


def _inside_character(tokenizer: Tokenizer, tokens: npt.NDArray[np.integer]) -> bool:
    """Whether tokens begin in the middle of a character, with a continuation byte of UTF-8."""
    return len(tokens) > 0 and tokenizer.piece_bytes[tokens[0]][:1] >= b"\x80" and tokenizer.piece_bytes[tokens[0]][:1] < b"\xc0"


def _document(documents: Documents, tokenizer: Tokenizer, tokens: npt.NDArray[np.integer]) -> Documents:
    """A piece of a document as a document of its own: its text is what its tokens say."""
    return documents.new(tokens, tokenizer.decode_bytes(tokens.tolist()))
