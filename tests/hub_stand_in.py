"""A web server in this process that answers as the Hugging Face Hub and other servers do, their failures included."""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
from pyarrow import parquet

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "someone/stories"


@dataclass
class Served:
    """A file with what its server says of it."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    head: bool = True


@dataclass
class Failure:
    """What happens at a request instead: an answer, or a body that ends after `cut` bytes. held: what it waits for."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    held: Event | None = None


class Asked(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


class StandIn:
    """The server's files by path, the failures that come before them, and what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, Served] = {}
        self.failures: dict[str, deque[Failure]] = defaultdict(deque)
        self.asked: list[Asked] = []

    def file(self, path: str, content: bytes, *, etag: str | None = '"1"', **more: bool) -> str:
        """Serve a file; its address."""
        self.files[path] = Served(content, {"ETag": etag} if etag else {}, **more)
        return self.url + path

    def fail(self, path: str, *failures: Failure) -> None:
        """What the next requests for the path meet."""
        self.failures[path].extend(failures)

    def bodies(self, path: str) -> list[str | None]:
        """The ranges of the GETs for a path."""
        return [asked.range for asked in self.asked if asked.method == "GET" and asked.path == path]

    def dataset(self, files: dict[str, bytes], repository: str = REPOSITORY, commit: str = COMMIT) -> None:
        """Serve a dataset of the Hub: `files` by path, in the place of those that it had at this commit."""
        api = f"/api/datasets/{repository}"
        for path in [path for path in self.files if repository in path and commit in path]:
            del self.files[path]
        info = {"id": repository, "sha": commit, "private": False, "disabled": False, "tags": [], "siblings": []}
        for path in (api, f"{api}/revision/main", f"{api}/revision/{commit}"):
            self._json(path, info)
        entries = [_entry(path, content) for path, content in files.items()]
        folders = {path.rpartition("/")[0] for path in files if "/" in path}
        entries += [{"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)]
        self.files[f"{api}/paths-info/{commit}"] = Served(json.dumps(entries).encode())
        for folder in ["", *folders]:
            below = [entry for entry in entries if f"{entry['path']}".startswith(f"{folder}/" if folder else "")]
            self._json(f"{api}/tree/{commit}" + (f"/{folder}" if folder else ""), below)
        for path, content in files.items():
            headers = {"ETag": f'"{_checksum(path, content)}"', "X-Repo-Commit": commit}
            self.files[f"/datasets/{repository}/resolve/{commit}/{path}"] = Served(content, headers)

    def resolved(self, path: str, repository: str = REPOSITORY, commit: str = COMMIT) -> str:
        """The path at which the Hub gives the bytes of a dataset's file."""
        return f"/datasets/{repository}/resolve/{commit}/{path}"

    def _json(self, path: str, value: object) -> None:
        self.files[path] = Served(json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A server on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    state = StandIn(f"http://127.0.0.1:{server.server_address[1]}")
    server.state = state  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def stories(**splits: list[str]) -> dict[str, bytes]:
    """A dataset with the configurations `plain` (two files for training, one for testing) and `small`, and a README."""
    readme = """---
configs:
- config_name: plain
  default: true
  data_files:
  - {split: train, path: plain/train-*}
  - {split: test, path: plain/test-*}
- config_name: small
  data_files:
  - {split: train, path: small/*.parquet}
---
Stories.
"""
    return {
        "README.md": readme.encode(),
        "plain/test-00000.parquet": table(["t"]),
        "plain/train-00001.parquet": table(["b" * 5000, "c"]),
        "plain/train-00000.parquet": table(["a"]),
        "small/one.parquet": table(["s"]),
    }


def table(texts: list[str]) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), file, compression="none")
    return file.getvalue()


def _checksum(path: str, content: bytes) -> str:
    """As the Hub has it: sha256 for large files, that of a Git blob for others."""
    if path.endswith(".parquet"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, object]:
    checksum = _checksum(path, content)
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": checksum[:40]}
    if path.endswith(".parquet"):
        entry["lfs"] = {"oid": checksum, "size": len(content), "pointerSize": 130}
    return entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Nothing: askers that go away in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        """The Hub's question for several paths."""
        wanted = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        self._answer(wanted)

    def _answer(self, wanted: list[str] | None = None) -> None:
        state: StandIn = self.server.state  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        state.asked.append(Asked(self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        failures = state.failures[path]
        failure = failures.popleft() if failures else Failure()
        if failure.held is not None:
            failure.held.wait(30)
        if failure.status != 200:
            self._send(failure.status, failure.headers, b"")
        elif path not in state.files:
            code = "EntryNotFound" if REPOSITORY in path else "RepoNotFound"
            self._send(404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT}, b"")
        elif self.command == "HEAD" and not state.files[path].head:
            self._send(405, {}, b"")
        else:
            self._send_file(state.files[path], failure, wanted)

    def _send_file(self, file: Served, failure: Failure, wanted: list[str] | None) -> None:
        content, status, headers = file.content, 200, dict(file.headers) | failure.headers
        if wanted is not None:
            content = json.dumps([entry for entry in json.loads(content) if entry["path"] in wanted]).encode()
        asked = self.headers.get("Range")
        if asked and file.ranges:
            begin = int(asked.removeprefix("bytes=").partition("-")[0])
            if begin >= len(content):
                self._send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[begin:]
        self._send(status, headers, content, failure.cut)

    def _send(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        with suppress(ConnectionError):  # the asker may be gone
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""
