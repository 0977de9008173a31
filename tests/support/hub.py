"""A stand-in for the Hugging Face hub over HTTP on loopback: its addresses, headers and redirects, and faults on demand.

Files above LFS_BYTES are kept as the hub keeps large ones: the address redirects to another one, which carries a signature, and
answers ranges.  `faults[path]` lists what befalls the next requests for a file's content: a status, or one of CUT, WRONG, SHORT.
"""

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

CUT, WRONG = "the connection is cut half-way", "one byte is another"
LFS_BYTES = 1000
SIGNATURE = "X-Amz-Signature=SECRETSIGNATURE"


class StandIn(ThreadingHTTPServer):
    """One data set; files: {revision: {path: content}}; token: what requests have to carry, if any."""

    daemon_threads = True

    def __init__(self, dataset: str, files: dict[str, bytes], token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.dataset, self.files, self.token = dataset, {"main": files}, token
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.asked: list[tuple[str, str, str | None]] = []  # (method, path of a file's content, its Range)
        self.authorizations: set[str | None] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self) -> list[str]:
        """Paths whose content was asked for, in order."""
        return [path for method, path, _ in self.asked if method == "GET"]


@contextmanager
def serving(dataset: str, files: dict[str, bytes], token: str | None = None) -> Iterator[StandIn]:
    server = StandIn(dataset, files, token)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def commit(revision: str) -> str:
    """The commit that a revision stands for."""
    return hashlib.sha1(revision.encode()).hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """How the hub describes a file."""
    sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": sha1}
    if len(content) > LFS_BYTES:
        described["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return described


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn
    revision = ""  # that the request is about, once that is known

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        files = self.files_of(r"/api/datasets/(.+)/paths-info/(.+)")
        if files is not None:
            self.json([entry(path, files[path]) for path in asked["paths"] if path in files])

    def do_GET(self) -> None:
        place = unquote(urlsplit(self.path).path)
        if place.startswith("/cdn/"):
            _, _, revision, path = place.split("/", 3)
            here = next(files for name, files in self.server.files.items() if commit(name) == revision)
            self.content(path, here[path])
        elif "/resolve/" in place:
            self.resolve(place)
        elif "/tree/" in place:
            before, _, inside = urlsplit(self.path).path.partition("/tree/")  # a revision's slashes are quoted there, a path's are not
            revision, _, folder = inside.partition("/")
            recursive, self.path = "recursive=true" in self.path.lower(), f"{before}/tree/{revision}"
            if (files := self.files_of(r"/api/datasets/(.+)/tree/(.+)")) is not None:
                within = {path: files[path] for path in sorted(files) if path.startswith(folder and unquote(folder) + "/")}
                deep = len(folder.split("/")) if folder else 0
                inner = {"/".join(path.split("/")[: deep + 1]) for path in within if path.count("/") > deep}
                listed = [{"type": "directory", "path": name, "oid": commit(name)} for name in sorted(inner)]
                self.json(listed + [entry(path, content) for path, content in within.items() if recursive or path.count("/") == deep])
        elif (files := self.files_of(r"/api/datasets/(.+)/revision/(.+)")) is not None:
            self.json({"id": self.server.dataset, "sha": commit(self.revision), "siblings": [{"rfilename": path} for path in files]})

    def files_of(self, pattern: str) -> dict[str, bytes] | None:
        """The files of the revision that an address names; answers with an error where there is none."""
        self.server.authorizations.add(self.headers.get("Authorization"))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(401, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
            return None
        found = re.fullmatch(pattern, unquote(urlsplit(self.path).path))
        if found is None or found[1] != self.server.dataset:
            self.answer(404, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        self.revision = next((name for name in self.server.files if found[2] in (name, commit(name))), "")
        files = self.server.files.get(self.revision)
        if files is None:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Revision not found"})
        return files

    def resolve(self, place: str) -> None:
        before, path = re.fullmatch(r"/datasets/(.+?/resolve/(?:refs/convert/\w+|[^/]+))/(.+)", place).groups()
        self.path = "/datasets/" + before
        files = self.files_of(r"/datasets/(.+)/resolve/(.+)")
        if files is None:
            return
        if path not in files:
            self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit(self.revision)})
            return
        content, described = files[path], entry(path, files[path])
        headers = {"X-Repo-Commit": commit(self.revision), "ETag": f'"{described["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in described:
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{described["lfs"]["oid"]}"'}
            elsewhere = self.server.endpoint.replace("127.0.0.1", "localhost")  # another host, as with the real one
            headers["Location"] = f"{elsewhere}/cdn/{commit(self.revision)}/{path}?{SIGNATURE}"
            self.answer(302, headers=headers)
        else:
            self.content(path, content, headers)

    def content(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        """The bytes, or the part that is asked for, or the next fault."""
        asked, headers = self.headers.get("Range"), {"Accept-Ranges": "bytes", **(headers or {})}
        self.server.asked.append((self.command, path, asked))
        fault = self.server.faults[path].pop(0) if self.command == "GET" and self.server.faults[path] else None
        if isinstance(fault, int):
            self.answer(fault, headers={"Retry-After": "1"})
            return
        whole = bytes([content[0] ^ 1]) + content[1:] if fault == WRONG else content
        status, part = 200, whole
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = whole[int(first) : int(last) + 1 if last else None]
            status, headers["Content-Range"] = 206, f"bytes {first}-{int(first) + len(part) - 1}/{len(whole)}"
        headers["Content-Length"] = str(len(part))
        if fault == CUT:
            self.answer(status, part[: len(part) // 2], headers)
            self.close_connection = True
        else:
            self.answer(status, part, headers)


def read_files(folder: Path) -> dict[str, bytes]:
    """{path: content} of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
