"""Private folders of whole files below the user's cache folder (README.md), one for each kind and key: what can be made again, kept for the next start."""

import hashlib
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ngram.container import atomic_write
from ngram.errors import SeedgramError

VARIABLE = "SEEDGRAM_CACHE_DIR"
FOLDERS_KEPT = 8  # of other versions and checkouts, those used last; one takes about 10 MB
IN_USE_S = 600.0  # a folder that was used since then may still be in use: it stays, however many there are


def user_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where the stores are; None: nowhere."""
    if (named := environment.get(VARIABLE)) is not None:
        return Path(named).absolute() if named else None
    base = "~/Library/Caches" if sys.platform == "darwin" else environment.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # a relative XDG_CACHE_HOME is to be ignored, its specification says
        base = os.path.expanduser(base if base.startswith("~") else "~/.cache")
    return Path(base, "seedgram") if os.path.isabs(base) else None


def store_of(kind: str, key: Callable[[], str]) -> "Store":
    """The store of a kind of files under a key; one that keeps nothing where there is no place for it."""
    try:
        folder = user_folder()
        return Store(folder / kind / key() if folder is not None else None)
    except OSError:  # sources that cannot be read, as in a zip file
        return Store(None)


class Store:
    """Whole files in one folder that only this user can write; without such a folder nothing is kept or found."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, name: str) -> bytes | None:
        """What was saved under a name, or None if nothing whole is there."""
        try:
            if self.folder is None or not _is_private(self.folder):
                return None
            with suppress(OSError):  # it may be read-only
                os.utime(self.folder)
            content = (self.folder / name).read_bytes()
        except OSError:
            return None
        return content[32:] if _seal(name, content[32:]) == content[:32] else None

    def save(self, name: str, content: bytes) -> bool:
        """Keeps content under a name, if that can be done; says whether it was."""
        try:
            if self.folder is None or not _is_private(_made(self.folder)):
                return False
            atomic_write(self.folder / name, _seal(name, content) + content)
        except (OSError, SeedgramError):  # read-only, full, or removed by another process
            return False
        return True


def _seal(name: str, content: bytes) -> bytes:
    """Stands before a file's content, so that no file is taken for another."""
    return hashlib.sha256(name.encode() + content).digest()


def _made(folder: Path) -> Path:
    """The folder, made if it is missing; then those of the others beside it go that were not used for longest."""
    if not folder.is_dir():
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        for place in (folder.parent, folder):
            place.mkdir(mode=0o700, exist_ok=True)
        others = [(path.stat().st_mtime, path) for path in folder.parent.iterdir() if path != folder and not path.is_symlink()]
        for used_s, path in sorted(others, reverse=True)[FOLDERS_KEPT:]:
            if used_s < time.time() - IN_USE_S:
                shutil.rmtree(path, ignore_errors=True)  # a process that still uses it compiles
    return folder


def _is_private(folder: Path) -> bool:
    """Whether a folder and the one above belong to this user and are closed to all others, so that what lies there is the user's own."""
    found = [os.lstat(place) for place in (folder.parent, folder)]
    return all(stat.S_ISDIR(one.st_mode) and one.st_uid == os.geteuid() and not one.st_mode & 0o077 for one in found)
