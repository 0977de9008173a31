"""The code of a submission as one file that Python runs as it is, and what it needs to be installed beside it.

`submission.zip` holds `__main__.py` (shipped_main.py) and `code.tar.xz`: the import closure of train_gpt.py and eval.py, every file as
it stands in the checkout.  One packed tar instead of a packed member a file: files of one hand share most of their words, and 518 kB
of code become 134 kB instead of 201 kB.  The same sources give the same bytes, on any machine with the same zlib and liblzma.
"""

import ast
import functools
import importlib.metadata
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hybrid.storing.counted_code import PACKAGES, ROOT, counted_files
from ngram.errors import SeedgramError

ARCHIVE = "submission.zip"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: no time of making is kept
MAIN = Path(__file__).with_name("shipped_main.py")
# Modules that reach other machines.  torch.distributed, which the ranks of one run speak through, is not among them.
NETWORK = {"ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket", "socketserver", "ssl", "telnetlib", "urllib"}


@functools.cache
def archive_bytes(root: Path = ROOT) -> bytes:
    """The archive of the code under `root`.  Raises SeedgramError where the entry scripts are missing."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(_member("__main__.py", zipfile.ZIP_DEFLATED), MAIN.read_bytes(), compresslevel=9)
        archive.writestr(_member("code.tar.xz", zipfile.ZIP_STORED), lzma.compress(_tar(root), preset=9 | lzma.PRESET_EXTREME))
    return whole.getvalue()


def _member(name: str, packing: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, FIRST_DAY)
    info.compress_type, info.create_system, info.external_attr = packing, 3, 0o644 << 16
    return info


def _tar(root: Path) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in counted_files(root):
            info = tarfile.TarInfo(path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name)  # an installed script lies elsewhere
            content = path.read_bytes()
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names that a file imports.  Relative imports are not resolved: the project has none (tests/test_imports.py)."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def foreign_imports(files: Iterable[Path]) -> set[str]:
    """Top-level modules that some files import and that are neither Python's nor this project's; also Python's that reach a network."""
    named = {name.split(".")[0] for path in files for name in imported_names(path)}
    own = {*PACKAGES, "train_gpt", "eval", "__future__"}
    return {name for name in named - own if name not in sys.stdlib_module_names or name in NETWORK}


def requirements(root: Path = ROOT) -> list[str]:
    """`name==version` of every installed package that the counted code imports, sorted.  Raises SeedgramError for code that reaches a network."""
    named = foreign_imports(counted_files(root))
    if reaching := sorted(named & NETWORK):
        raise SeedgramError(f"the counted code imports {', '.join(reaching)}, which reach a network; evaluation must not: move it to another command")
    homes = importlib.metadata.packages_distributions()
    found = {distribution for name in named for distribution in homes.get(name, [])}
    return sorted(f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in found)
