"""Hugging Face tokenizers of every family that people bring, trained on the spot from a few kilobytes."""

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support.tokenizers import small_texts

BYTE_PIECES = [f"<0x{value:02X}>" for value in range(256)]


def lines() -> list[str]:
    return [line for text in small_texts() for line in text.split("\n")]


def gpt2(texts: Iterable[str] = (), vocab_size: int = 320) -> Tokenizer:
    """Byte-level BPE; its one special token ends, and so begins, a document."""
    codec = Tokenizer(models.BPE())
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    codec.train_from_iterator(texts or small_texts(), trainer)
    return codec


def qwen() -> Tokenizer:
    """Byte-level BPE with a normaliser, a space put in front of a text, and added tokens, of which some are text."""
    codec = gpt2()
    codec.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    codec.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    codec.add_special_tokens(["<|im_start|>"])
    codec.add_tokens(["    ", "<think>"])
    return codec


def llama() -> Tokenizer:
    """BPE that writes a space as ▁, puts one in front of a text, and has byte pieces."""
    codec = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    codec.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    codec.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *BYTE_PIECES]
    codec.train_from_iterator(lines(), trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False, max_token_length=8))
    codec.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    spec = json.loads(codec.to_str())
    spec["added_tokens"] = [entry for entry in spec["added_tokens"] if entry["content"] not in BYTE_PIECES]  # pieces of the model, as in Llama's
    return Tokenizer.from_str(json.dumps(spec))


def t5() -> Tokenizer:
    """Unigram that writes a space as ▁, with a normaliser and without byte pieces or BOS."""
    codec = Tokenizer(models.Unigram())
    codec.normalizer = normalizers.NFKC()
    codec.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    codec.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    codec.train_from_iterator(lines(), trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False))
    return codec


KINDS: dict[str, Callable[[], Tokenizer]] = {"gpt2": gpt2, "qwen": qwen, "llama": llama, "t5": t5}
LOSSLESS = ("gpt2", "qwen", "llama")


@functools.cache
def theirs(kind: str) -> Tokenizer:
    return KINDS[kind]()


def write(kind: str, folder: Path, settings: dict[str, object] | None = None) -> Path:
    """tokenizer.json in `folder`, and tokenizer_config.json where `settings` are given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(theirs(kind).to_str())
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder / "tokenizer.json"
