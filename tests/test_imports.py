"""House rules that a reader relies on: imports flow one way, nothing is pickled, nothing points outside the repository."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    *sorted(ROOT.glob("*.py")),
    *(path for folder in ("ngram", "hybrid", "scripts") for path in sorted((ROOT / folder).glob("*.py"))),
]


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """Packages that a file imports when it is imported itself; everywhere: also inside functions and for type checkers."""
    tree = ast.parse(path.read_text())
    hidden = {
        node
        for block in ast.walk(tree)
        if isinstance(block, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test))
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in hidden and not everywhere:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0] if not node.level else path.parent.name


@pytest.mark.parametrize("path", sorted((ROOT / "ngram").glob("*.py")), ids=lambda path: path.name)
def test_ngram_knows_nothing_of_hybrid_and_loads_no_torch(path: Path) -> None:
    assert not {"hybrid", "train_gpt", "eval", "scripts"} & set(imports(path, everywhere=True))
    assert "torch" not in set(imports(path, everywhere=False))


def test_importing_every_module_of_ngram_loads_no_torch() -> None:
    names = [f"ngram.{path.stem}" for path in sorted((ROOT / "ngram").glob("*.py")) if not path.stem.startswith("__")]
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\nprint([m for m in sys.modules if m in ('torch', 'hybrid')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "hybrid").glob("*.py")), ids=lambda path: path.name)
def test_hybrid_does_not_import_the_entry_scripts(path: Path) -> None:
    allowed = {"eval"} if path.name == "__main__.py" else set()
    assert not ({"train_gpt", "eval", "scripts"} - allowed) & set(imports(path, everywhere=True))


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").glob("*.py"))], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_is_pickled_or_evaluated(path: Path) -> None:
    assert not {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "multiprocessing"} & set(imports(path, everywhere=True))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec"), f"line {node.lineno}"
            assert not re.search(r"_object(_list|s)?$", called), f"line {node.lineno}: {called} pickles between ranks"
            if called in ("torch.load", "torch.save"):
                raise AssertionError(f"line {node.lineno}: {called} pickles")
            if called in ("np.load", "numpy.load"):
                assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_path_of_one_machine_is_written_down(path: Path) -> None:
    found = re.findall(r"[\"'](/(?:home|root|work|tmp|Users|mnt|opt|data)\b[^\"']*)[\"']", path.read_text())
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_numba_writes_no_cache_that_processes_would_share(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "cache":
            assert ast.unparse(node.value) != "True", f"line {node.lineno}"
