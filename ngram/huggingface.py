"""Hugging Face tokenizers: a `tokenizer.json`, or a folder with one, becomes a model that `Pieces` reads and this module encodes with.

    model = convert("gpt2/")            # bytes; begins with pieces.CONVERTED
    Tokenizer("gpt2/")                  # the same through the one place where a path becomes a tokenizer (tokenizer.py)

Two families can give every text back: byte-level BPE (GPT-2, Llama 3, Qwen), whose pieces are bytes written as printable characters, and
those that write a space as ▁ (Llama 2, Gemma, T5), with or without byte pieces.  As for SentencePiece, what normalises is left out and
special tokens are never found in a text, so the pieces are used as they are and nothing is lost; any other tokenizer is refused.

The converted model is JSON: what each piece decodes to (as Latin-1), the ids of byte pieces, the id that begins a document, and a twin of the
tokenizer without normaliser, whose vocabulary is written again from the pieces.  The library `tokenizers` is needed to encode only.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ngram.container import read_bytes
from ngram.pieces import CONVERTED, SPACE, TokenizerError
from ngram.table import MAX_VOCAB

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
BEGINNINGS = ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[BOS]", "<|endoftext|>", "</s>", "<eos>", "<|im_end|>")  # where nothing says which
SPLITTERS = {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "UnicodeScripts", "FixedLength"}  # that can keep every character
DROPPED = {"WhitespaceSplit", "Whitespace"}  # that lose spaces, and that ▁ makes superfluous
MODELS = {"BPE", "Unigram"}


def byte_characters() -> dict[str, int]:
    """{character: byte} of GPT-2's way to write bytes: printable ones as themselves, the others as characters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in printable]
    return {chr(value): value for value in printable} | {chr(0x100 + place): value for place, value in enumerate(others)}


BYTES = byte_characters()
CHARACTERS = {value: character for character, value in BYTES.items()}



def convert(path: str | os.PathLike[str]) -> bytes:
    """The converted model of a tokenizer.json or of a folder with one; the same files give the same bytes.

    What begins a document is the BOS token that the folder's tokenizer_config.json names, else its EOS token; without that file, what
    the tokenizer puts in front of a text, else a special token of a usual name.  Raises TokenizerError for tokenizers that lose text."""
    place = Path(path)
    file = place / FILE if place.is_dir() else place
    if place.is_dir() and not file.exists():
        raise TokenizerError(f"{path}: holds no {FILE}; save it with AutoTokenizer.from_pretrained(…).save_pretrained(…), or give a SentencePiece model")
    settings = read_bytes(file.parent / SETTINGS) if place.is_dir() and (file.parent / SETTINGS).exists() else b"{}"
    return convert_text(read_bytes(file), settings, str(file))


def convert_text(tokenizer: bytes | str, settings: bytes | str, name: str) -> bytes:
    """The same from the text of a tokenizer.json and of a tokenizer_config.json ("{}" for none); name: for error messages."""
    try:
        converted = _Conversion(json.loads(tokenizer), json.loads(settings), name).converted()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise TokenizerError(f"{name}: not a tokenizer of the library tokenizers ({type(error).__name__}: {error}); save it again") from None
    return CONVERTED + json.dumps(converted, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


class _Conversion:
    """One tokenizer.json on its way.  settings: its tokenizer_config.json, or {}."""

    def __init__(self, spec: dict[str, Any], settings: dict[str, Any], name: str) -> None:
        self.spec, self.settings, self.name, self.model = spec, settings, name, spec["model"]
        self.splitters = list(_parts(spec.get("pre_tokenizer"), "pretokenizers"))
        self.byte_level = any(part["type"] == "ByteLevel" for part in self.splitters)
        normal = [*_parts(spec.get("normalizer"), "normalizers"), *_parts(spec.get("decoder"), "decoders")]
        self.marking = [part for part in normal if part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE]
        self.marked = bool(self.marking) or any(part["type"] == "Metaspace" for part in [*self.splitters, *normal])
        self._check()
        vocab = self.model["vocab"]
        self.vocab: dict[str, int] = vocab if isinstance(vocab, dict) else {piece: token for token, (piece, _) in enumerate(vocab)}
        self.added: dict[int, dict[str, Any]] = {entry["id"]: entry for entry in spec.get("added_tokens") or []}

    def _check(self) -> None:
        lossy = [part["type"] for part in self.splitters if part["type"] not in SPLITTERS | (DROPPED if self.marked else set())]
        removed = [part["type"] for part in self.splitters if part.get("behavior") == "Removed"]
        if self.model["type"] not in MODELS or not (self.byte_level or self.marked) or lossy or removed:
            how = ", ".join(lossy or removed or [self.model["type"]])
            raise TokenizerError(f"{self.name}: a tokenizer that loses text ({how}); give byte-level BPE, or one that writes a space as {SPACE}")
        if self.model.get("end_of_word_suffix") or self.model.get("continuing_subword_prefix"):
            raise TokenizerError(f"{self.name}: its pieces change with their place in a word, so text does not come back; give byte-level BPE")

    def converted(self) -> dict[str, Any]:
        texts = {token: piece for piece, token in self.vocab.items()} | {token: entry["content"] for token, entry in self.added.items()}
        size = max(texts) + 1
        if size > MAX_VOCAB:
            raise TokenizerError(f"{self.name}: {size:,} pieces; at most {MAX_VOCAB:,} are supported")
        bos = self._beginning({text: token for token, text in texts.items()})
        silent = {bos, *(token for token, entry in self.added.items() if entry["special"]), self._unknown()}
        pieces = [b"" if token in silent or token not in texts else self._bytes_of(token, texts[token]) for token in range(size)]
        ids = sorted(self.vocab.values())
        return {
            "bos": bos,
            "bytes": [token for token in range(size) if token in texts and self._is_byte(texts[token], pieces[token])],
            "marked": not self.byte_level,
            "pieces": [piece.decode("latin-1") for piece in pieces],
            "names": {str(token): piece for piece, token in self.vocab.items() if written(pieces[token], byte_level=self.byte_level) != piece},
            "vocabulary": len(ids) if ids == list(range(len(ids))) else ids,
            "added": [[token, entry["content"]] for token, entry in sorted(self.added.items()) if pieces[token]],
            "tokenizer": self._twin(),
        }

    def _unknown(self) -> int:
        unknown = self.model.get("unk_token", self.model.get("unk_id"))
        return -1 if unknown is None else self.vocab.get(unknown, -1) if isinstance(unknown, str) else int(unknown)

    def _beginning(self, ids: dict[str, int]) -> int:
        """The token that begins a document."""
        for key in ("bos_token", "eos_token"):
            said = self.settings.get(key)
            text = said["content"] if isinstance(said, dict) else said
            if text in ids:
                return ids[text]
        for part in _parts(self.spec.get("post_processor"), "processors"):
            first = part.get("single", [{}])[0].get("SpecialToken", {}).get("id")
            if first in ids:
                return ids[first]
        special = [entry["content"] for entry in self.added.values() if entry["special"]]
        for text in (*BEGINNINGS, *(special if len(special) == 1 else ())):
            if text in special:
                return ids[text]
        raise TokenizerError(f"{self.name}: names no token to begin a document with; give the folder with its {SETTINGS}")

    def _bytes_of(self, token: int, text: str) -> bytes:
        if token in self.added:
            return text.encode()
        if self.byte_level:
            return bytes(BYTES[c] for c in text) if all(c in BYTES for c in text) else b""
        if self.model.get("byte_fallback") and len(text) == 6 and text[:3] == "<0x":
            return bytes([int(text[3:5], 16)])
        return text.replace(SPACE, " ").encode()

    def _is_byte(self, text: str, piece: bytes) -> bool:
        return len(piece) == 1 and (self.byte_level and len(text) == 1 and text in BYTES or len(text) == 6 and text[:3] == "<0x")

    def _twin(self) -> dict[str, Any]:
        """The tokenizer without normaliser, special tokens, chance, and anything that adds or takes away; its vocabulary is put back by `restored`."""
        model = {key: value for key, value in self.model.items() if key not in ("vocab", "dropout")}
        if self.model["type"] == "Unigram":
            model["scores"] = [score for _, score in self.model["vocab"]]
        splitters = [{**part, **_quiet(part)} for part in self.splitters if part["type"] not in DROPPED]
        marking = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE} if self.marked and not self.byte_level else None
        return {"model": model, "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters} if splitters else None, "normalizer": marking}


def _parts(component: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """The members of a component that may be a sequence of others."""
    if component and component["type"] == "Sequence":
        for part in component[key]:
            yield from _parts(part, key)
    elif component:
        yield component


def _quiet(part: dict[str, Any]) -> dict[str, Any]:
    """Settings of a splitter that puts no space in front of a text."""
    changes: dict[str, dict[str, Any]] = {"ByteLevel": {"add_prefix_space": False}, "Metaspace": {"prepend_scheme": "never"}}
    return changes.get(part["type"], {})


def written(piece: bytes, *, byte_level: bool) -> str:
    """How a vocabulary writes a piece; what it writes otherwise stands in "names"."""
    return "".join(map(CHARACTERS.__getitem__, piece)) if byte_level else piece.decode("utf-8", "replace").replace(" ", SPACE)


def restored(model: bytes) -> dict[str, Any]:
    """The twin as the library takes it, from a converted model."""
    said = json.loads(model[len(CONVERTED) :])
    names, pieces = said["names"], [piece.encode("latin-1") for piece in said["pieces"]]
    ids = range(said["vocabulary"]) if isinstance(said["vocabulary"], int) else said["vocabulary"]
    vocab = {names[str(token)] if str(token) in names else written(pieces[token], byte_level=not said["marked"]): token for token in ids}
    twin = said["tokenizer"]
    scores = twin["model"].pop("scores", None)
    twin["model"]["vocab"] = vocab if scores is None else [[piece, score] for piece, score in zip(vocab, scores, strict=True)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    added = [{"id": token, "content": text, **flags} for token, text in said["added"]]
    return {**twin, "version": "1.0", "added_tokens": added, "truncation": None, "padding": None, "post_processor": None, "decoder": None}


def encoder(model: bytes, name: str) -> Callable[..., list[list[int]]]:
    """(texts, num_threads=…) → their tokens: what `Pieces` asks for.  The library takes its threads from RAYON_NUM_THREADS.

    Raises TokenizerError where the library is missing or cannot read the model."""
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(f"{name}: encoding with it needs the package tokenizers; install it with pip install 'seedgram[hf]'") from None
    twin = restored(model)
    try:
        codec = tokenizers.Tokenizer.from_str(json.dumps(twin))
    except Exception as error:  # the library raises nothing more special
        raise TokenizerError(f"{name}: the installed library tokenizers cannot read it ({error}); install seedgram[hf]") from None
    wanted = dict(_ids(twin))
    ids = {token: wanted[text] for text, token in codec.get_vocab(with_added_tokens=True).items()}
    same = all(token == real for token, real in ids.items())

    def encode(texts: list[str], num_threads: int = -1) -> list[list[int]]:
        found = [encoding.ids for encoding in codec.encode_batch_fast(texts, add_special_tokens=False)]
        return found if same else [[ids[token] for token in tokens] for tokens in found]

    return encode


def _ids(twin: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """(text, id) of everything in a twin's vocabulary, added tokens last."""
    vocab = twin["model"]["vocab"]
    yield from vocab.items() if isinstance(vocab, dict) else ((piece, token) for token, (piece, _) in enumerate(vocab))
    yield from ((entry["content"], entry["id"]) for entry in twin["added_tokens"])
