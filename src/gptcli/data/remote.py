"""Addresses as sources: a file, a glob or a folder behind https://, hf:// or what fsspec knows; and fetching ahead."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gptcli.data.remote_file import LocalFile, RemoteFile, kind_of, kinds_hint, place_of, without_secrets
from gptcli.data.retries import RETRIES, CancelledError, Retries, Told, brief, retried
from gptcli.data.transfer import CHUNK, transfer
from gptcli.errors import UsageError, UserError, nearest

_MAGIC = re.compile(r"[*?\[]")
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "xet_hash", "sha256", "mtime", "LastModified",
             "last_modified", "updated", "modify", "modified", "created")  # fmt: skip  # as the file systems call it
_PUBLIC = {"s3": "FSSPEC_S3_ANON=true", "s3a": "FSSPEC_S3A_ANON=true", "gs": "FSSPEC_GS_TOKEN=anon",
           "gcs": "FSSPEC_GCS_TOKEN=anon"}  # fmt: skip


@dataclass(frozen=True)
class StoredFile(RemoteFile):
    """A file of a store that fsspec knows (s3, gs, sftp, memory …). `options`: what the store is opened with."""

    path: str
    options: tuple[tuple[str, Any], ...] = field(repr=False)  # a password may be among them

    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        """Fetched from the byte on at which an earlier call stopped. Raises as RemoteFile says."""
        with _told_in_words(self.address):
            return transfer(
                self._open, place_of(self, cache), self.address, _store(self.address), self.size, bool(self.version),
                told, retries,
            )  # fmt: skip

    @contextmanager
    def _open(self, begin: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        import fsspec

        system = fsspec.filesystem(urlsplit(self.address).scheme, **dict(self.options))
        system.invalidate_cache()
        if self.version and _version(system.info(self.path)) != self.version:
            raise UserError(f"{self.address} has changed meanwhile.", "Start again.")
        with system.open(self.path, "rb") as file:
            file.seek(begin)
            yield begin, iter(lambda: file.read(CHUNK), b"")


def is_address(text: str) -> bool:
    r"""Whether it begins with a scheme, as s3://; a drive of Windows (C:\) is none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def address_files(url: str, told: Told | None = None, retries: Retries = RETRIES) -> list[RemoteFile]:
    """The files behind an address, sorted by path: one, those a glob matches, or those below a folder; of known kinds,
    and not hidden. The web has no folders: http:// and https:// are one file.

    Raises UsageError for what isn't there, is of no known kind, or needs a package that isn't installed, and UserError
    for what can't be reached or read.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("http", "https"):
        from gptcli.data.http_file import http_file

        return [http_file(url, told, retries)]
    if scheme == "hf" and not url.startswith("hf://buckets/"):
        from gptcli.data.hub_file import hub_files

        return list(hub_files(url, told, retries))
    if "::" in url:
        raise UsageError(f"{url}: addresses inside addresses (::) can't be read.", "Unpack it, and give the files.")
    address = without_secrets(url)
    with _told_in_words(address):
        return retried(lambda: _listed(url), address, _store(address), told, retries)


def prefetch(
    files: Sequence[RemoteFile], cache: Path, told: Told | None = None, retries: Retries = RETRIES
) -> Generator[Path]:
    """The local files of `files` in order, the next one being fetched while the caller uses the present one.

    An error is raised when its file is due. Closing the generator ends the fetching without waiting for it; what was
    fetched of a file is kept. `told` is called from other threads.
    """
    cancelled = threading.Event()
    patient = replace(retries, cancelled=cancelled)
    try:
        ahead = _begin(files[0], cache, told, patient) if files else None
        for number in range(len(files)):
            assert ahead is not None
            # In short waits, since Windows interrupts no other.
            while not futures.wait([ahead], timeout=0.2).done:
                pass
            path = ahead.result()
            ahead = _begin(files[number + 1], cache, told, patient) if number + 1 < len(files) else None
            yield path
    finally:
        cancelled.set()


def _begin(file: RemoteFile, cache: Path, told: Told | None, retries: Retries) -> futures.Future[Path]:
    """Fetch in a thread of its own: a daemon, which an executor's threads are not, so that it never delays an exit."""
    result: futures.Future[Path] = futures.Future()

    def fetch() -> None:
        try:
            result.set_result(file.fetch(cache, told, retries))
        except CancelledError:
            result.cancel()
        except BaseException as error:
            result.set_exception(error)
            if not isinstance(error, Exception):
                raise

    threading.Thread(target=fetch, name=f"fetch {file.name}", daemon=True).start()
    return result


def _listed(url: str) -> list[RemoteFile]:
    system, path = _file_system(url)
    try:  # not `exists`, which takes a store that can't be reached for one that is empty
        info = system.info(path)
    except FileNotFoundError:
        if not _MAGIC.search(path):
            raise _missing(system, without_secrets(url), path) from None
        base = _MAGIC.split(path)[0].rpartition("/")[0]
        found = system.glob(path, detail=True)
        for folder in [name for name, info in found.items() if info["type"] == "directory"]:
            found |= system.find(folder, detail=True)
    else:
        if info["type"] == "file" and not kind_of(path):
            raise UsageError(f"{url} is of no kind that can be read.", kinds_hint())
        base = path
        found = {path: info} if info["type"] == "file" else system.find(path, detail=True)
    infos = [info for name, info in found.items() if info["type"] == "file" and _wanted(name, base)]
    if not infos:
        raise UsageError(f"{url} has no files of a kind that can be read.", kinds_hint())
    return [
        _file(system, urlsplit(url).scheme, info) for info in sorted(infos, key=lambda info: info["name"].split("/"))
    ]


def _wanted(name: str, base: str) -> bool:
    """Of a known kind, and neither hidden nor below a hidden folder."""
    below = name.removeprefix(base).strip("/").split("/")
    return bool(kind_of(name)) and not any(part.startswith(".") for part in below)


def _file(system: Any, scheme: str, info: dict[str, Any]) -> RemoteFile:
    name, size = str(info["name"]), info.get("size")
    last = name.rsplit("/", 1)[-1]
    host = system.storage_options.get("host")  # where a path doesn't begin with its bucket
    address = f"{scheme}://{host}/{name.lstrip('/')}" if host else str(system.unstrip_protocol(name))
    if "file" in system.protocol:
        return LocalFile(address, last, size, _version(info), Path(name))
    options = tuple(system.storage_options.items())
    return StoredFile(address, last, None if size is None else int(size), _version(info), name, options)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system and the path in it. Raises UsageError where no package for it is installed."""
    import fsspec
    from fsspec.registry import known_implementations

    scheme = urlsplit(url).scheme
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        module = str(known_implementations[scheme]["class"]).split(".")[0]
        hint = str(error) if module == "fsspec" else f"Install it: pip install {module}"
        raise UsageError(f"{scheme}:// needs a package that is not installed.", hint) from error
    except ValueError as error:
        close = nearest(scheme, known_implementations)
        hint = f"Did you mean {close}://?" if close else "Known are https, s3, gs, hf, az, sftp and others of fsspec."
        raise UsageError(f"{scheme}:// is no kind of address that is known.", hint) from error
    return system, path


def _missing(system: Any, url: str, path: str) -> UsageError:
    parent, _, last = path.rstrip("/").rpartition("/")
    siblings = (
        [name.rstrip("/").rsplit("/", 1)[-1] for name in system.ls(parent, detail=False)]
        if system.isdir(parent)
        else []
    )
    close = nearest(last, siblings)
    return UsageError(f"There is no file or folder {url}.", f"Did you mean {close}?" if close else "Check the address.")


def _version(info: dict[str, Any]) -> str:
    found = next((info[key] for key in _VERSIONS if info.get(key)), "")
    # Listings and single answers of one store give the same time in both forms.
    return str(found.timestamp() if isinstance(found, datetime) else found).strip('"')


def _store(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}".removesuffix("://")


@contextmanager
def _told_in_words(address: str) -> Iterator[None]:
    """Failures of a store as errors for the user."""
    try:
        yield
    except (UserError, CancelledError):
        raise
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {address}.", "Check the address.") from error
    except Exception as error:  # each store has exceptions of its own
        scheme = urlsplit(address).scheme
        public = f" Is it public, set {_PUBLIC[scheme]}." if scheme in _PUBLIC else ""
        raise UserError(
            f"{address} can't be read: {brief(error)}.",
            f"Are you logged in, as the store's own tools have it?{public}",
        ) from error
