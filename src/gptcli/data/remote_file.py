"""A file that is somewhere else, and what its name tells about its format."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gptcli.data.retries import RETRIES, Retries, Told
from gptcli.data.transfer import Place

# Names of parameters that sign an address: of AWS, Google, Azure, CloudFront, and what others call a key
_SECRET = re.compile(
    r"x-(amz|goog|ms)-.*|sig|signature|s[eprtv]|ske|skoid|sktid|policy|expires|key-pair-id|awsaccesskeyid|"
    r"googleaccessid|(access_?|auth_?)?token|api_?key|password",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RemoteFile(ABC):
    """A file to fetch; plain data that pickles.

    address: what messages and the manifest call it, without credentials. name: with the suffix that tells the format.
    size: bytes, None where the server doesn't say. version: changes with the content; "" where that is unknown.
    """

    address: str
    name: str
    size: int | None
    version: str

    @property
    def place(self) -> str:
        """Where it lies, whatever version of it is meant."""
        return self.address

    @abstractmethod
    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        """A local file with these bytes, fetched into the folder `cache` unless an earlier call has done so.

        told: called with one line for each wait, from the thread that waits. Raises UsageError for a file that is no
        longer there, and UserError for what can't be reached, read, or held by the disk.
        """


@dataclass(frozen=True)
class LocalFile(RemoteFile):
    """A file of this machine, behind an address or in a dataset's folder: taken as it stands."""

    path: Path

    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        """Its path."""
        return self.path


def kind_of(name: str) -> str:
    """The suffix that tells the format, as .parquet or .jsonl.gz; "" for a name of no known kind."""
    from gptcli.data.formats import FORMATS  # not before it is needed: it brings Arrow with it
    from gptcli.data.formats.compression import SUFFIXES

    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    packing = suffixes.pop() if suffixes and suffixes[-1] in SUFFIXES else ""
    return suffixes[-1] + packing if suffixes and suffixes[-1] in FORMATS else ""


def kinds_hint() -> str:
    """The kinds that can be read, for hints."""
    from gptcli.data.formats import KINDS

    return f"The kinds are: {KINDS}."


def place_of(file: RemoteFile, cache: Path) -> Place:
    """Where a file is kept in the cache: another version is another place."""
    key = hashlib.sha256(f"{file.address}\n{file.version}".encode()).hexdigest()[:32]
    return Place(cache / f"{key}{kind_of(file.name)}", cache / f"{key}.part", cache / f".{key}.lock")


def host_of(url: str) -> str:
    """The server's name for messages."""
    return urlsplit(url).hostname or url


def without_secrets(url: str) -> str:
    """The address without user, password, fragment, and what signs it."""
    parts = urlsplit(url)
    query = [
        (key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _SECRET.fullmatch(key)
    ]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, urlencode(query), ""))
