"""The embedded corpus: enough of it, the same every time, split by module with nothing copied across."""

import ast

import pytest

from hybrid.data import python_docs
from hybrid.data.python_docs import Document


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return python_docs.read_documents()


def test_it_is_three_to_four_megabytes_of_distinct_modules(documents: list[Document]) -> None:
    assert 2_500_000 < sum(len(document.text.encode()) for document in documents) < 4_500_000
    names = [document.name for document in documents]
    assert len(set(names)) == len(names)
    assert {"topics.compound", "python.argparse", "numpy._core._add_newdocs"} <= set(names)


def test_it_is_the_same_every_time(documents: list[Document]) -> None:
    assert python_docs.digest(python_docs.read_documents()) == python_docs.digest(documents)


def test_its_hash_covers_names_and_texts_and_their_borders() -> None:
    base = [Document("a", "bc"), Document("d", "e")]
    others = [[Document("ab", "c"), base[1]], [Document("a", "bd"), base[1]], base[::-1], base[:1], [*base, Document("f", "")]]
    assert len({python_docs.digest(other) for other in [base, *others]}) == 6


def test_modules_are_on_one_side_whole_and_few_are_held_out(documents: list[Document]) -> None:
    train, val = python_docs.split(documents)
    assert sorted(d.name for d in train + val) == sorted(d.name for d in documents)
    assert 0.03 < sum(len(d.text) for d in val) / sum(len(d.text) for d in documents) < 0.12


def test_no_held_out_paragraph_was_trained_on(documents: list[Document]) -> None:
    train, val = python_docs.split(documents)
    trained = {paragraph for document in train for paragraph in document.text.rstrip("\n").split("\n\n")}
    copies = [p for document in val for p in document.text.rstrip("\n").split("\n\n") if len(p) >= 60 and p in trained]
    assert copies == []


def test_tests_and_optional_parts_of_python_are_left_out(documents: list[Document]) -> None:
    parts = {part for document in documents for part in document.name.split(".")}
    assert not parts & {"test", "tests", "tkinter", "idlelib", "distutils", "ensurepip", "pip"}


def test_docstrings_are_read_without_importing_anything() -> None:
    source = '"""Module."""\nimport nowhere\ndef f():\n    """Function\n\n    indented."""\nadd_newdoc("m", "f", """Added.""")\n'
    source += 'x = "not one"\ntry:\n    pass\nexcept E:\n    class C:\n        """Deep."""\n'
    assert list(python_docs._strings(ast.parse(source))) == ["Module.", "Function\n\nindented.", "m", "f", "Added.", "Deep."]
