"""Files behind http:// and https://."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from gptcli.data.remote_file import RemoteFile, host_of, kind_of, kinds_hint, place_of, without_secrets
from gptcli.data.retries import RETRIES, Retries, Told, brief, retried, status_of
from gptcli.data.transfer import CHUNK, transfer
from gptcli.errors import UsageError, UserError

_TIMEOUT = (10.0, 30.0)  # seconds to connect, and without a byte
# identity: ranges and lengths are to be those of the file, not of a packing for the way
_HEADERS = {"User-Agent": "gpt-from-scratch", "Accept-Encoding": "identity"}
_NO_HEAD = {400, 403, 405, 501}  # what signed addresses and small servers say to HEAD


@dataclass(frozen=True)
class HttpFile(RemoteFile):
    """A file of a web server. `url` is its address with what may be secret in it."""

    url: str = field(repr=False)

    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        """Fetched with ranges where the server knows them. Raises as RemoteFile says."""
        place, host = place_of(self, cache), host_of(self.url)
        try:
            return transfer(
                lambda begin: open_http(self.url, begin, version=self.version, address=self.address),
                place, self.address, host, self.size, bool(self.version), told, retries,
            )  # fmt: skip
        except (OSError, urllib3.exceptions.HTTPError) as error:  # requests' own are of the first kind
            raise http_error(self.address, host, error) from error


def http_file(url: str, told: Told | None = None, retries: Retries = RETRIES) -> HttpFile:
    """The file behind a web address. Raises UsageError if it isn't there or of no known kind, UserError if its server
    doesn't answer or refuses."""
    address, host = without_secrets(url), host_of(url)
    try:
        response = retried(lambda: _ask(url), address, host, told, retries)
    except OSError as error:  # requests' own are of this kind
        raise http_error(address, host, error) from error
    packed = response.headers.get("Content-Encoding", "identity") != "identity"
    length = response.headers.get("Content-Length", "")
    name = _name(url, response)
    if not kind_of(name):
        raise UsageError(f"{address} is of no kind that can be read.", kinds_hint())
    size = int(length) if length.isdigit() and not packed else None
    return HttpFile(address, name, size, _version(response.headers), url)


@contextmanager
def open_http(
    url: str, begin: int, *, address: str, version: str = "", headers: Mapping[str, str] | None = None
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The byte at which the answer begins, `begin` or 0, and its chunks as they were sent.

    Raises requests.HTTPError for answers that are no success, and UserError for a file whose version is another one.
    """
    ranged = {"Range": f"bytes={begin}-"} if begin else {}
    with requests.get(url, headers=_HEADERS | dict(headers or {}) | ranged, stream=True, timeout=_TIMEOUT) as response:
        if begin and response.status_code == 416:  # nothing there: what is kept can't be its beginning
            with open_http(url, 0, address=address, version=version, headers=headers) as opened:
                yield opened
            return
        response.raise_for_status()
        found = _version(response.headers)
        if version and found and found != version:
            raise UserError(f"{address} has changed meanwhile.", "Start again.")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UserError(f"{address} is only given packed for the way.", "Download it, and give the file.")
        start = 0
        if response.status_code == 206:
            told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            start = int(told[1]) if told else begin
        if start not in (0, begin):
            raise UserError(f"{address}: the server sends another part than was asked for.", "Download it by hand.")
        yield start, response.raw.stream(CHUNK, decode_content=False)


def http_error(address: str, host: str, error: Exception) -> UserError:
    """What a user is told of a failure that does not pass."""
    status = status_of(error)
    if status in (404, 410):
        return UsageError(f"There is no file {address}.", "Check the address.")
    if status in (401, 403):
        return UserError(f"{host} refuses {address} ({status}).", "Is it public, or its signature still valid?")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return UsageError(f"{address} is no address.", "Check it.")
    return UserError(f"{address} can't be fetched: {brief(error)}.", "Download it by hand, and give the file.")


def _ask(url: str) -> requests.Response:
    """The headers that a GET would have."""
    response = requests.head(url, headers=_HEADERS, timeout=_TIMEOUT, allow_redirects=True)
    if response.status_code in _NO_HEAD:
        with requests.get(url, headers=_HEADERS, stream=True, timeout=_TIMEOUT) as response:
            pass
    response.raise_for_status()
    return response


def _version(headers: Mapping[str, str]) -> str:
    tag = headers.get("ETag", "").removeprefix("W/").strip('"')
    return tag or headers.get("Last-Modified", "")


def _name(url: str, response: requests.Response) -> str:
    """The file's name by its address, by what the server calls it, or by where it was redirected to."""
    message = Message()
    message["Content-Disposition"] = response.headers.get("Content-Disposition", "")
    names = [_last(url), message.get_filename() or "", _last(response.url)]
    return next((name for name in names if kind_of(name)), names[0])


def _last(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name
