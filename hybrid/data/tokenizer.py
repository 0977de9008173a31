"""Training a lossless SentencePiece tokenizer; ngram/tokenizer.py has what every tokenizer does."""

import io
import os
import re
from collections.abc import Iterable

import sentencepiece as spm

from ngram.tokenizer import SPACE as SPACE
from ngram.tokenizer import LossError as LossError
from ngram.tokenizer import Tokenizer as Tokenizer
from ngram.tokenizer import TokenizerError as TokenizerError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)  # the public tokenizers' ids


def load(model: bytes | str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from the bytes of a model or a path; see ngram/tokenizer.py.  Raises TokenizerError."""
    return Tokenizer(model)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A lossless BPE model of `vocab_size` pieces, as the bytes of its file; the same texts give the same bytes.

    Ids as in the public exports: pad 0, BOS 1, EOS 2, unknown 3, then 256 byte pieces.  Raises TokenizerError when the
    texts do not support that many pieces.  Sennrich et al. (2016); Kudo & Richardson (2018)."""
    out = io.BytesIO()
    clean = (text.encode("utf-8", "replace").decode().replace("\x00", " ").replace(SPACE, " ") for text in texts)
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=(text for text in clean if text),
            model_writer=out,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.999,  # the public 1,024-piece export's; rarer characters are byte pieces
            max_sentence_length=1 << 30,  # bytes: whole documents are the sentences
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            num_threads=1,
            minloglevel=3,  # the library would print its own lines before our one
        )
    except (RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        most = re.search(r"set it to a value <= (\d+)", said)
        why, remedy = (f"at most {most[1]} can", f"set --vocab-size {most[1]}") if most else (said, "change --vocab-size")
        raise TokenizerError(f"tokenizer: {vocab_size:,} pieces cannot be learned from this text ({why}); {remedy}, or give more text") from None
    return out.getvalue()
