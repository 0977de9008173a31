"""Files of public data sets on the Hugging Face hub, through `huggingface_hub`: whole, checked, and in one line when that cannot be had.

`HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN` mean what they mean to that library.  Nothing that the hub or the library says is passed on as it
is: addresses may carry signatures, headers a token.  What is told is the file, the kind of trouble, and the remedy.
"""

import errno
import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from hybrid.extras import missing
from ngram.errors import DataError

T = TypeVar("T")
SPARE_BYTES = 64 << 20  # left free on a disk beside what is fetched
PAUSES_S = (1.0, 4.0, 15.0, 60.0)  # between attempts, beside the shorter ones that the library makes itself
LASTING = {  # answers that another attempt does not change
    401: "access is refused; set HF_TOKEN to a token that may read it",
    403: "access is refused; accept the data set's terms on the hub, or set HF_TOKEN to a token that may read it",
    404: "is not on the hub; check the name, the revision and HF_ENDPOINT",
    416: "is shorter on the hub than it says; report it there",
}

Advance = Callable[[int], None]  # bytes that have arrived


class HubError(DataError):
    """Public data that cannot be had as it was published."""


class NotThere(HubError):
    """A data set, revision or file that the hub does not have."""


@dataclass(frozen=True)
class Remote:
    """A file of a data set: its path there, its size, and the digest that the hub keeps ("sha256" or git's "sha1" of a blob)."""

    path: str
    size_bytes: int
    kind: str
    digest: str


class Hub:
    """One data set at one commit.  pauses: seconds before each further attempt."""

    def __init__(self, dataset: str, revision: str = "main", pauses: Sequence[float] = PAUSES_S) -> None:
        """Asks the hub which commit `revision` is.  Raises HubError."""
        library = _library()
        self.dataset, self.pauses = dataset, tuple(pauses)
        self.endpoint = os.environ.get("HF_ENDPOINT") or None
        self.api = library.HfApi(endpoint=self.endpoint)
        info = self._trying(dataset, lambda: self.api.repo_info(dataset, repo_type="dataset", revision=revision))
        self.commit: str = info.sha

    def files(self) -> list[Remote]:
        """Every file of the data set."""
        tree = self._trying(self.dataset, lambda: list(self.api.list_repo_tree(self.dataset, repo_type="dataset", revision=self.commit, recursive=True)))
        return [_remote(entry) for entry in tree if hasattr(entry, "blob_id")]

    def find(self, paths: Sequence[str]) -> list[Remote]:
        """The files at these paths, in order.  Raises HubError naming the first that is missing."""
        found = self._trying(self.dataset, lambda: self.api.get_paths_info(self.dataset, list(paths), repo_type="dataset", revision=self.commit))
        known = {entry.path: _remote(entry) for entry in found if hasattr(entry, "blob_id")}
        if missing := [path for path in paths if path not in known]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise HubError(f"{self.dataset}: {missing[0]}{more} is not there, although its manifest promises it; ask for fewer shards")
        return [known[path] for path in paths]

    def fetch(self, remote: Remote, target: Path, staging: Path, advance: Advance) -> None:
        """Puts a file at `target` once its size and digest are the hub's; what is there already and right is left.

        staging: a folder on the same disk.  Raises HubError when it cannot be had, and leaves nothing half-written at `target`."""
        if is_whole(target, remote):
            advance(remote.size_bytes)
            return

        altered = False

        def attempt() -> None:
            nonlocal altered
            counted = _Counted(advance)
            try:
                path = Path(self._download(remote, staging, counted.bar(), force_download=altered))
                if not is_whole(path, remote):
                    altered = True  # it may have come from the cache in HF_HOME: the next attempt does not look there
                    path.unlink(missing_ok=True)
                    raise _Mismatch
                os.replace(path, target)
            except BaseException:
                counted.take_back()
                raise
            counted.complete(remote.size_bytes)

        target.parent.mkdir(parents=True, exist_ok=True)
        self._trying(f"{self.dataset}: {remote.path}", attempt)

    def _download(self, remote: Remote, staging: Path, bar: type, *, force_download: bool) -> str:
        where = {"repo_type": "dataset", "revision": self.commit, "local_dir": staging}
        return str(self.api.hf_hub_download(self.dataset, remote.path, **where, force_download=force_download, tqdm_class=bar))

    def open(self, remote: Remote) -> BinaryIO:
        """A file read over the network, from where it is asked for; reading raises what `told` makes a HubError of."""
        system = _library().HfFileSystem(endpoint=self.endpoint, skip_instance_cache=True)
        opened: BinaryIO = system.open(f"datasets/{self.dataset}@{self.commit}/{remote.path}", "rb")
        return opened

    def _trying(self, what: str, work: Callable[[], T]) -> T:
        """The result of `work`, tried again after each pause while the trouble may pass.  Raises HubError."""
        for pause in (*self.pauses, None):
            try:
                with quiet():
                    return work()
            except Exception as error:
                if not is_outside(error):
                    raise
                reason, passing = told(error)
                if pause is None or not passing:
                    kind = NotThere if reason == LASTING[404] else HubError
                    raise kind(f"{what}: {reason}") from None
            time.sleep(pause)
        raise AssertionError("unreachable")


class _Mismatch(Exception):
    """What arrived is not what the hub says it is."""


def is_outside(error: Exception) -> bool:
    """Whether something outside of this program went wrong: the hub, the way to it, the disk; and not the program itself."""
    if isinstance(error, ValueError) and isinstance(error.__cause__, Exception):
        return is_outside(error.__cause__)  # the library's own wrapping of a failed request
    theirs = type(error).__module__.partition(".")[0] in ("huggingface_hub", "httpx", "httpx2", "requests", "hf_xet")
    return theirs or isinstance(error, OSError | RuntimeError | _Mismatch)  # hf_xet's errors are RuntimeErrors


def told(error: Exception) -> tuple[str, bool]:
    """(the trouble and its remedy in words that carry no address and no token, whether another attempt may help)."""
    if isinstance(error, ValueError) and isinstance(error.__cause__, Exception):
        return told(error.__cause__)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, _Mismatch):
        return "what arrives has another digest than the hub says, time and again; try later, or report it there", True
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on this disk; free some, and start again: what is whole is kept", False
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"cannot be written: {os.strerror(error.errno)}; choose another --out", False
    if status in LASTING:
        return LASTING[status], False
    if type(error).__name__ in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "FileNotFoundError", "HFValidationError"):
        return LASTING[404], False
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE forbids to ask the hub; unset it", False
    if status == 429:
        return "the hub asks to wait (429); try again later, or set HF_TOKEN, which is allowed more", True
    if status is not None:
        return f"the hub fails (status {status}); try again later: what is whole is kept", True
    return f"the connection fails ({type(error).__name__}); check the network and HF_ENDPOINT, and start again: what is whole is kept", True


def is_whole(path: Path, remote: Remote) -> bool:
    """Whether a file has the size and the digest that the hub says."""
    if not path.is_file() or path.stat().st_size != remote.size_bytes:
        return False
    state = hashlib.sha256() if remote.kind == "sha256" else hashlib.sha1(f"blob {remote.size_bytes}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
    return state.hexdigest() == remote.digest


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raises HubError when a disk has no room for what is to come."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed_bytes + SPARE_BYTES > free:
        raise HubError(f"{folder}: {needed_bytes / 1e9:,.2f} GB are to be fetched and {free / 1e9:,.2f} GB are free there; free space or choose another --out")


def _remote(entry: Any) -> Remote:
    lfs = entry.lfs
    return Remote(entry.path, entry.size, "sha256", lfs.sha256) if lfs else Remote(entry.path, entry.size, "sha1", entry.blob_id)


class _Counted:
    """Bytes of one attempt, so that a failed one can be taken back from the progress."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._seen = advance, 0

    def bar(self) -> type:
        """What the library takes for its progress bar."""
        count, theirs = self._count, _library().utils.tqdm

        def start(self: Any, *args: Any, **kwargs: Any) -> None:
            theirs.__init__(self, *args, **{**kwargs, "disable": True})

        return type("Bar", (theirs,), {"__init__": start, "update": lambda self, n=1: count(int(n or 0))})

    def _count(self, size: int) -> None:
        self._seen += size
        self._advance(size)

    def take_back(self) -> None:
        self._count(-self._seen)

    def complete(self, size: int) -> None:
        """The rest, where the library does not report every byte (Xet knows some of them already)."""
        self._count(size - self._seen)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise missing("huggingface_hub") from None
    return huggingface_hub


@contextmanager
def quiet() -> Iterator[None]:
    """The library's warnings name addresses with their signatures, and disks that `check_space` has looked at: inside, it says nothing."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
