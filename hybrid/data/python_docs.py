"""The embedded corpus: English documentation that every CPython and NumPy installation carries.

`pydoc_data.topics` and the docstrings of the standard library and of NumPy, read with `ast` (nothing is imported or run
but pydoc_data, a dictionary of strings), one document a module.  3–4 MB, no download.  Split by module, not by line,
and each paragraph kept once, so that no held-out paragraph is a copy of one trained on.  The same Python and NumPy
versions give the same text: its hash names the corpus.
"""

import ast
import hashlib
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import xxhash

from hybrid.data.shards import DataError

# Not in every installation of one Python version (Debian packages them apart), test code, or not documentation
_LEFT_OUT = {
    "test", "tests", "testing", "idle_test", "idlelib", "tkinter", "turtle", "turtledemo", "distutils", "lib2to3",
    "ensurepip", "site-packages", "dist-packages", "sitecustomize", "usercustomize", "pydoc_data", "lib-dynload",
}  # fmt: skip
_SHORTEST = 40  # characters: shorter docstrings ("Return self.") are no prose
_PARAGRAPH = 60  # characters: shorter paragraphs ("Examples") may repeat
VAL_SHARE = 0.06  # of the modules, by hash of the name
EDITION = 1  # of the rules above: part of what a prepared folder remembers


@dataclass(frozen=True)
class Document:
    """One module's documentation: its dotted name and text."""

    name: str
    text: str


def _strings(node: ast.AST) -> Iterator[str]:
    """Docstrings, and the texts that NumPy attaches to C functions through add_newdoc, in source order.

    Goes down statements only: expressions hold no docstrings and are most of a tree."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if doc := ast.get_docstring(node):
            yield doc
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith("add_newdoc"):
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield inspect.cleandoc(part.value)
    for block in ("body", "handlers", "orelse", "finalbody"):
        for statement in getattr(node, block, ()):
            yield from _strings(statement)


def _package(root: Path, prefix: str) -> Iterator[tuple[str, list[str]]]:
    """(module name, documentation strings) of every module under `root`, by name."""
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).with_suffix("").parts):
        parts = path.relative_to(root).with_suffix("").parts
        if _LEFT_OUT.isdisjoint(parts) and not parts[-1].startswith(("_sysconfigdata", "_distutils_")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError, OSError):  # a template or a broken third-party file is no documentation
                continue
            yield ".".join((prefix, *parts)), list(_strings(tree))


def _topics() -> Iterator[tuple[str, list[str]]]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topics.{name}", [topics[name].strip()]


def _unseen(text: str, seen: set[str]) -> str:
    """The text without the paragraphs in `seen`, which grows; empty when too little is left."""
    kept = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) < _PARAGRAPH or paragraph not in seen:
            kept.append(paragraph)
            seen.add(paragraph)
    left = "\n\n".join(kept)
    return left if len(left) >= _SHORTEST and any(len(paragraph) >= min(_PARAGRAPH, len(text)) for paragraph in kept) else ""


def read_documents() -> list[Document]:
    """All documents, in order of source and module name.  Raises DataError when the installation carries too little."""
    numpy_spec = find_spec("numpy")
    numpy_roots = list(numpy_spec.submodule_search_locations or []) if numpy_spec else []
    sources = [
        _topics(),
        _package(Path(sysconfig.get_paths()["stdlib"]), "python"),
        *(_package(Path(root), "numpy") for root in numpy_roots),
    ]
    documents, seen = [], set[str]()
    for source in sources:
        for name, strings in source:
            text = "\n\n".join(filter(None, (_unseen(string, seen) for string in strings)))
            if text:
                documents.append(Document(name, text + "\n"))
    if sum(len(document.text) for document in documents) < 1_000_000:
        raise DataError("embedded corpus: this Python and NumPy carry little documentation; give prepare_data.py a text file instead")
    return documents


def is_val(name: str) -> bool:
    """Whether a module is held out: a hash of its name, so that a module is on one side whole."""
    return xxhash.xxh3_64_intdigest(name.encode()) < VAL_SHARE * 2**64


def split(documents: list[Document]) -> tuple[list[Document], list[Document]]:
    """(train, val), by module."""
    return [d for d in documents if not is_val(d.name)], [d for d in documents if is_val(d.name)]


def digest(documents: list[Document]) -> str:
    """SHA-256 hex of names and texts: two machines with the same one have the same corpus."""
    content = hashlib.sha256()
    for document in documents:
        content.update(f"{document.name}\0{document.text}\0".encode("utf-8", "surrogatepass"))
    return content.hexdigest()
