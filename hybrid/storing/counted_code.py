"""Which files the challenge counts as code: what training and scoring can import, uncompressed and with every comment.

    python -m hybrid.storing.counted_code      # the files with their sizes, largest first

That is the import closure of `train_gpt.py` and `eval.py`; docs/architecture.md says why.
"""

from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from ngram.errors import SeedgramError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hybrid", "ngram")
ENTRIES = ("train_gpt.py", "eval.py")
SHIPPED = ".shipped"  # beside the scripts where a submission's archive unpacked them: a copy of that archive


@cache
def counted_files(root: Path = ROOT) -> tuple[Path, ...]:
    """The entry scripts and every file of the two packages that they import, directly or through others, also inside functions.

    Sorted paths.  Raises SeedgramError where the scripts are missing."""
    scripts = [_script(root, name) for name in ENTRIES]
    if missing := [str(path) for path in scripts if not path.exists()]:
        raise SeedgramError(f"{', '.join(missing)}: missing, so the size of the code is not known; install the package again")
    finder = _Finder([str(root)])
    for path in scripts:
        finder.run_script(str(path))
    modules = [Path(vars(module)["__file__"]) for name, module in finder.modules.items() if name != "__main__"]
    return tuple(sorted({*scripts, *modules}))


class _Finder(ModuleFinder):
    """Follows the imports of this project's packages alone; nothing is run."""

    def import_hook(self, name: str, *where: Any, **how: Any) -> Any:
        return super().import_hook(name, *where, **how) if name.partition(".")[0] in PACKAGES else None


def _script(root: Path, name: str) -> Path:
    """An entry script: of a checkout, or the copy beside an installed package (data-files in pyproject.toml)."""
    copies = (place / "share" / "seedgram" / name for place in (root, *root.parents[:3]))
    return next((path for path in (root / name, *copies) if path.exists()), root / name)


def code_bytes() -> int:
    """Size of the code that counts against the cap: of the archive that this copy was shipped in, else of the files."""
    shipped = ROOT / SHIPPED
    return shipped.stat().st_size if shipped.exists() else sum(path.stat().st_size for path in counted_files())


def main() -> None:
    for path in sorted(counted_files(), key=lambda path: -path.stat().st_size):
        print(f"{path.stat().st_size:>9,}  {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}")
    print(f"{code_bytes():>9,}  {len(counted_files())} files")


if __name__ == "__main__":
    main()
