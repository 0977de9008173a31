"""Whether a tokenizer's tokens stand for the bytes of a text: what the challenge's way of counting makes of it, document by document.

The challenge counts the bytes of each token from its piece.  That is right for its own tokenizers on clean web text.  It counts bytes
that are not there, and so makes bits per byte too small, where the vocabulary has no piece for a single space (each space then counts as
three bytes), where a normaliser writes something longer than the text (U+FDFA becomes 18 characters), and it loses bytes where
spaces are collapsed or characters have no piece.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from hybrid.data.token_bytes import TokenBytes
from ngram.tokenizer import SPACE, Tokenizer

SHOWN_CHARS = 24  # of a passage that does not come back


@dataclass
class ByteAccounting:
    """documents, bytes: of the text itself; counted: what the challenge's way counts; longer, shorter: documents for which it counts more
    or fewer bytes than they have; changed: documents whose text does not come back, and `kinds` why; worst: (share counted too many,
    the document's first characters)."""

    documents: int = 0
    bytes: int = 0
    counted: int = 0
    longer: int = 0
    shorter: int = 0
    changed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    worst: tuple[float, str] = (0.0, "")

    @property
    def excess(self) -> float:
        """(counted - bytes) / bytes: by so much a bits-per-byte figure is too small."""
        return (self.counted - self.bytes) / max(1, self.bytes)


def properties(codec: Tokenizer) -> dict[str, bool]:
    """What decides whether a tokenizer can hold any text."""
    probe = "  two  spaces  \u00bd\ufdfa"
    return {
        "piece for a single space": SPACE in codec.pieces(),
        "pieces for all 256 bytes": codec.has_all_bytes,
        "text left as it is (no normaliser, no added or removed space)": codec.sp is None or codec.sp.normalize(probe).replace(SPACE, " ") == probe,
    }


def account(codec: Tokenizer, texts: Iterable[str]) -> ByteAccounting:
    """Encodes each text as the challenge's export does, and compares what is counted with what is there.

    A tokenizer that is not SentencePiece's has only the lossless encoding of this project, which is compared instead."""
    found, counter = ByteAccounting(), TokenBytes.from_model(codec.model)
    originals: list[str] = []

    def kept() -> Iterable[str]:
        for text in texts:
            originals.append(text)
            yield text

    for tokens in (codec.encode_documents if codec.sp is None else codec.encode_as_challenge)(kept()):
        text = originals.pop(0)
        size, counted = len(text.encode("utf-8", "surrogatepass")), counter.total(tokens)
        said = codec.decode(tokens[1:])
        found.documents, found.bytes, found.counted = found.documents + 1, found.bytes + size, found.counted + counted
        found.longer, found.shorter = found.longer + (counted > size), found.shorter + (counted < size)
        if said != text and said != " " + text:
            found.changed += 1
            found.kinds[_kind(text, said)] += 1
        share = (counted - size) / max(1, size)
        if share > found.worst[0]:
            found.worst = share, text[:SHOWN_CHARS]
    return found


def _kind(text: str, said: str) -> str:
    """Why a text does not come back, in words."""
    plain = said.strip(" ")
    if plain == text.strip(" "):
        return "spaces at the ends added or removed"
    if plain.replace(SPACE, " ") == text.strip(" "):
        return "spaces written as the mark \u2581"
    if plain.split() == text.split():
        return "runs of spaces or line ends collapsed"
    if len("".join(plain.split())) < len("".join(text.split())):
        return "characters dropped"
    return "characters replaced by a normaliser"
