"""Hostile versions of a valid file, for tests/support/fuzz.py: bytes, JSON values or text lines changed; containers with their digests repaired.

Every function takes a valid input and a generator, and returns a mutant that is a function of the two alone.
"""

import copy
import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ngram import container

NUMBERS: list[Any] = [0, 1, -1, 2, 7, 8, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308]
LEAVES: list[Any] = [*NUMBERS, float("nan"), float("inf"), "", "x" * 300, "\x00", None, True, False, [], {}, [[]], {"a": 1}, [1, 2, 3]]
INTS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four changes of the kinds that files suffer from chance or malice."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(out) + 1) if draw.random() < 0.7 else draw.randrange(min(len(out), 64) + 1)  # headers more often
        kind = draw.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at : at + 1] = draw.randbytes(1)
        elif kind == 2:  # a number where one may stand
            width = draw.choice((1, 2, 4, 8))
            number = (draw.choice(INTS) & (2 ** (8 * width) - 1)).to_bytes(width, "little")
            out[at : at + width] = number
        elif kind == 3:
            del out[at : at + draw.choice((1, 2, 4, 8, 64, 1 << 20))]
        elif kind == 4:
            out[at:at] = out[at : at + draw.choice((1, 4, 16, 256))] * draw.choice((1, 2, 8))
        elif kind == 5:
            out[at:at] = draw.choice((bytes, draw.randbytes))(draw.choice((1, 4, 32)))
        else:
            size = draw.choice((4, 16, 64))
            out[at : at + size] = draw.randbytes(size)
    return bytes(out)


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from _places(inner, (*at, key))


def mutate_json(value: Any, draw: random.Random) -> Any:
    """Replaces, nudges, removes, duplicates or swaps parts of a JSON value."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return draw.choice(LEAVES)
        *path, last = draw.choice(places)
        inside = value
        for key in path:
            inside = inside[key]
        old, kind = inside[last], draw.randrange(5)
        if kind == 0:
            del inside[last]
        elif kind == 1 and type(old) in (int, float):
            inside[last] = draw.choice((old + 1, old - 1, -old, old * 2, old * 1000, old // 2))
        elif kind == 2 and isinstance(inside, list):
            inside.insert(draw.randrange(len(inside) + 1), copy.deepcopy(old))
        elif kind == 3 and isinstance(inside, dict):
            inside[draw.choice(list(inside))] = copy.deepcopy(old)
        else:
            inside[last] = copy.deepcopy(draw.choice(LEAVES))
    return value


def mutate_text(data: bytes, draw: random.Random) -> bytes:
    """Changes words and lines of a text format."""
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, kind = draw.randrange(len(lines)), draw.randrange(6)
        if kind == 0:
            del lines[at]
        elif kind == 1:
            lines.insert(draw.randrange(len(lines) + 1), lines[at])
        elif kind == 2:
            lines[at] = mutate_bytes(lines[at], draw)
        elif kind == 3:
            lines[at] = lines[at][:2000] * draw.choice((2, 100, 5000))
        else:
            words = lines[at].replace(b"=", b" = ").split(b" ")
            odd = [b"nan", b"-inf", b"1e999", b"-99", b"0", b"-1", b"65535", b"9" * 15, b"9" * 400, b"<s>", b"</s>", b"<unk>", b"\\end\\", b"=", b""]
            words[draw.randrange(len(words))] = draw.choice([*odd, draw.choice(lines)])
            lines[at] = (b"\t" if kind == 4 else b" ").join(words)
        lines = lines or [b""]
    return b"\n".join(lines)


@dataclass(frozen=True)
class Sealed:
    """A container taken apart, so that a mutant's table and digest can be right."""

    magic: bytes
    version: int
    header: dict[str, Any]
    sections: dict[str, bytes]
    repair: Callable[[dict[str, Any], dict[str, bytes]], None] = field(default=lambda header, sections: None)

    @classmethod
    def open(cls, data: bytes, repair: Callable[[dict[str, Any], dict[str, bytes]], None] | None = None) -> "Sealed":
        magic, version = data[:8], struct.unpack_from("<I", data, 8)[0]
        parts = container.unpack(data, magic, version, "seed")
        return cls(magic, version, *parts, repair) if repair else cls(magic, version, *parts)

    def sound(self) -> bytes:
        """The file as its reader wants it."""
        header, sections = copy.deepcopy(self.header), dict(self.sections)
        self.repair(header, sections)
        return container.pack(self.magic, self.version, header, sections)

    def mutant(self, draw: random.Random) -> bytes:
        header, sections, kind = self.header, dict(self.sections), draw.random()
        if kind < 0.08:  # the frame itself, digest repaired
            body = mutate_bytes(container.pack(self.magic, self.version, header, sections)[: -container.DIGEST_BYTES], draw)
            return body + hashlib.sha256(body).digest()
        if kind < 0.45:
            header = mutate_json(header, draw)
        names = [name for name, section in sections.items() if section]
        if kind >= 0.4 and names:
            name = draw.choice(names)
            sections[name] = mutate_bytes(sections[name], draw)
        if draw.random() < 0.05 and names:
            other = draw.choice(names)
            sections[draw.choice(names)] = sections[other]
            if draw.random() < 0.5:
                del sections[other]
        if not isinstance(header, dict):
            header = {"x": header}
        if draw.random() < 0.8:
            try:
                header = copy.deepcopy(header)
                self.repair(header, sections)
            except (KeyError, TypeError, AttributeError, IndexError):
                pass  # the header is too broken to repair
        return container.pack(self.magic, self.version, header, sections)
