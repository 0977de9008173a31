"""House rules that a reader relies on: imports flow one way, nothing is pickled, nothing points outside the repository."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SOURCES = [
    *sorted(ROOT.glob("*.py")),
    *(path for folder in ("ngram", "hybrid", "scripts", "examples") for path in sorted((ROOT / folder).rglob("*.py"))),
]
NGRAM, HYBRID, TESTS = (sorted((ROOT / folder).rglob("*.py")) for folder in ("ngram", "hybrid", "tests"))


# Floors, the lowest first.  A file may import from its own folder and from lower floors: not from above, and not from another folder
# of its own floor.  "" stands for the files that lie directly in the package.
FLOORS: dict[str, list[list[str]]] = {
    "ngram": [[""], ["counting", "online"], ["blending", "mixture", "storing", "arpa"], ["library"], ["cli"], ["__main__"]],
    "hybrid": [
        ["", "settings", "parallel"],
        ["data", "model"],
        ["storing"],
        ["scoring"],
        ["training", "coding", "auditing", "reporting"],
        ["submitting", "api"],
        ["cli", "hf"],
        ["__main__"],
    ],
}


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_rules_below_read_every_python_file_that_git_knows() -> None:
    """A rule that looks at no file passes: the number of files read is that of the repository."""
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.py"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    known = {ROOT / name for name in done.stdout.splitlines() if (ROOT / name).exists()}
    assert known <= {*SOURCES, *TESTS}
    assert len(NGRAM) >= 40 and len(HYBRID) >= 48 and len(TESTS) >= 50


def test_no_test_module_is_imported_by_another() -> None:
    """What several of them need lies in tests/support, under a name of its own."""
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
                assert all(name.startswith("tests.support") for name in names if name.split(".")[0] == "tests"), f"{label(path)}: line {node.lineno}"


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


@pytest.mark.parametrize("path", NGRAM, ids=label)
def test_ngram_knows_nothing_of_hybrid_and_loads_no_torch(path: Path) -> None:
    assert not {"hybrid", "train_gpt", "eval", "scripts"} & set(imports(path, everywhere=True))
    assert "torch" not in set(imports(path, everywhere=False))


def test_importing_every_module_of_ngram_loads_no_torch() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in NGRAM if not path.stem.startswith("__")]
    assert len(names) >= 38
    code = f"import sys, importlib\nfor name in {names}: importlib.import_module(name)\nprint([m for m in sys.modules if m in ('torch', 'hybrid')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("path", HYBRID, ids=label)
def test_hybrid_does_not_import_the_entry_scripts(path: Path) -> None:
    allowed = {"eval"} if path.name == "__main__.py" else set()
    assert not ({"train_gpt", "eval", "scripts"} - allowed) & set(imports(path, everywhere=True))


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=label)
def test_nothing_is_pickled_or_evaluated(path: Path) -> None:
    assert not {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "multiprocessing"} & set(imports(path, everywhere=True))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("serialize."):  # numba's: pickles
            assert path.name == "compiled.py", f"line {node.lineno}: only the cache of kernels, in the user's own folder, is pickled"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec"), f"line {node.lineno}"
            assert not re.search(r"_object(_list|s)?$", called), f"line {node.lineno}: {called} pickles between ranks"
            if called in ("torch.load", "torch.save"):
                raise AssertionError(f"line {node.lineno}: {called} pickles")
            if called in ("np.load", "numpy.load"):
                assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_no_path_of_one_machine_is_written_down(path: Path) -> None:
    found = re.findall(r"[\"'](/(?:home|root|work|tmp|Users|mnt|opt|data)\b[^\"']*)[\"']", path.read_text())
    assert found == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=label)
def test_kernels_are_made_by_compiled_alone(path: Path) -> None:
    """numba's own cache of machine code goes wrong when a callee in another file changes and when processes start together."""
    if path.relative_to(ROOT).as_posix() == "ngram/compiled.py":
        return
    makers = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil", "generated_jit", "jit_module"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
            assert not makers & {alias.name for alias in node.names}, f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("numba", "nb"):
            assert node.attr not in makers, f"line {node.lineno}"


def module_file(name: str) -> Path | None:
    """The file of one of our own modules or packages; None for other people's."""
    stem = ROOT.joinpath(*name.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()), None)


def imported_files(path: Path) -> set[Path]:
    """Files of the project that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {module_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {module_file(f"{node.module}.{alias.name}") for alias in node.names}
            found |= parts - {None} or {module_file(node.module)}
    return {file for file in found if file is not None}


def folder_and_floor(path: Path) -> tuple[str, int]:
    """The folder that a file of a package belongs to, and the number of its floor."""
    package, *folders, _ = path.relative_to(ROOT).parts
    folder = "__main__" if path.stem == "__main__" else "/".join(folders)
    return f"{package}/{folder}", next(floor for floor, names in enumerate(FLOORS[package]) if folder in names)


def forbidden(path: Path) -> list[tuple[str, str]]:
    """Imports of a file that point up, or across to another folder of its own floor."""
    home, floor = folder_and_floor(path)
    found = []
    for other in imported_files(path):
        if other.is_relative_to(ROOT / path.relative_to(ROOT).parts[0]):
            folder, height = folder_and_floor(other)
            if height > floor or (height == floor and folder != home):
                found.append((label(path), label(other)))
    return found


def test_no_import_points_up_or_across() -> None:
    assert [arrow for path in [*NGRAM, *HYBRID] for arrow in forbidden(path)] == []


def test_relative_imports_are_not_used() -> None:
    """The rules here, and the count of the code, follow full names only."""
    for path in [*SOURCES, *TESTS]:
        assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level], path


def test_no_import_goes_in_a_circle() -> None:
    graph = {path: imported_files(path) for path in [*NGRAM, *HYBRID, ROOT / "train_gpt.py", ROOT / "eval.py"]}
    assert sum(map(len, graph.values())) > 300
    done: set[Path] = set()

    def walk(path: Path, way: list[Path]) -> None:
        assert path not in way, " → ".join(map(label, [*way[way.index(path) :], path]))
        if path not in done:
            for other in graph.get(path, ()):
                walk(other, [*way, path])
            done.add(path)

    for path in graph:
        walk(path, [])
