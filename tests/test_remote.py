from __future__ import annotations

import errno
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
from filelock import FileLock
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from hub_stand_in import Failure, StandIn, stand_in
from hypothesis import given
from hypothesis import strategies as st

from gptcli.data import retries as retrying
from gptcli.data import transfer
from gptcli.data.remote import address_files, is_address, prefetch
from gptcli.data.remote_file import LocalFile, RemoteFile, kind_of, place_of
from gptcli.data.retries import RETRIES, AnswerError, Retries, Told, passing, retried, retry_after
from gptcli.errors import UsageError, UserError

TEXT = bytes(range(256)) * 20_000  # 5 MB: several chunks


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def patient(waits: list[float]) -> Retries:
    """Retries whose waits are noted and not waited."""
    return Retries(sleep=waits.append)


# Addresses


@pytest.mark.parametrize(
    "text", ["s3://b/c", "https://example.org/a.txt", "file:///a", "memory://a", "hf://datasets/a/b"]
)
def test_what_begins_with_a_scheme_is_an_address(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize("text", ["a.txt", r"C:\a.txt", "C:/a", "c://a", "/a", "a:b", "-", "", "://a"])
def test_paths_are_no_addresses(text: str) -> None:
    assert not is_address(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.txt", ".txt"), ("A.JSONL.GZ", ".jsonl.gz"), ("v1.5.parquet", ".parquet"), ("a.tar.gz", ""), ("gz", ""),
     (".txt", ""), ("a.csv.zst", ".csv.zst"), ("a.zip", ""), ("a.gz", "")],
)  # fmt: skip
def test_the_kind_is_told_by_the_suffix(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_scheme_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "nothere", {"class": "notherefs.FS", "err": "Install it"})
    with pytest.raises(UsageError, match="not installed") as caught:
        address_files("nothere://bucket/a.txt")
    assert caught.value.faults[0].hint == "Install it: pip install notherefs"


def test_an_unknown_scheme_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="sftpp") as caught:
        address_files("sftpp://host/a.txt")
    assert "sftp" in caught.value.faults[0].hint


# Files of web servers


def test_a_web_file_is_fetched_and_named_by_its_address(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/some dir/a b.jsonl.gz", TEXT).replace(" ", "%20"))
    assert (file.name, file.size, file.version) == ("a b.jsonl.gz", len(TEXT), "1")
    ours, theirs = multiprocessing.Pipe()
    ours.send(file)  # as to a worker
    path = theirs.recv().fetch(tmp_path)
    assert path.read_bytes() == TEXT
    assert path.name.endswith(".jsonl.gz")
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")] == [path.name]


def test_a_whole_file_is_not_fetched_again_and_a_new_version_is(server: StandIn, tmp_path: Path) -> None:
    url = server.file("/a.txt", b"old")
    first = address_files(url)[0].fetch(tmp_path)
    assert address_files(url)[0].fetch(tmp_path) == first
    assert len(server.bodies("/a.txt")) == 1
    server.file("/a.txt", b"new", etag='W/"2"')
    assert address_files(url)[0].fetch(tmp_path).read_bytes() == b"new"


def test_a_file_that_changes_before_it_is_fetched_is_told(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/a.txt", b"old"))
    server.file("/a.txt", b"new", etag='"2"')
    with pytest.raises(UserError, match="has changed"):
        file.fetch(tmp_path)


def test_a_cut_connection_goes_on_where_it_broke(
    server: StandIn, tmp_path: Path, patient: Retries, waits: list[float]
) -> None:
    (file,) = address_files(server.file("/a.txt", TEXT))
    server.fail("/a.txt", Failure(cut=3_000_000), Failure(cut=1_500_000))
    told: list[str] = []
    assert file.fetch(tmp_path, told.append, patient).read_bytes() == TEXT
    begins = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.bodies("/a.txt") if asked]
    assert len(begins) == 2
    assert 0 < begins[0] <= 3_000_000 < begins[1]
    assert len(waits) == 2
    assert "127.0.0.1 broke the connection" in told[0]


def test_an_interrupted_fetch_is_continued_by_the_next_call(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/a.txt", TEXT))
    server.fail("/a.txt", Failure(cut=3_000_000))
    with pytest.raises(UserError, match="broke the connection"):
        file.fetch(tmp_path, retries=Retries(tries=1))
    kept = place_of(file, tmp_path).part.stat().st_size
    assert kept > 2_000_000
    assert file.fetch(tmp_path).read_bytes() == TEXT
    assert server.bodies("/a.txt") == [None, f"bytes={kept}-"]


@given(cuts=st.lists(st.integers(0, 2500), max_size=6), ranges=st.booleans(), tagged=st.booleans())
def test_however_it_is_cut_the_bytes_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], ranges: bool, tagged: bool
) -> None:
    content = TEXT[:2500]
    with stand_in() as server:
        (file,) = address_files(server.file("/a.txt", content, etag='"1"' if tagged else None, ranges=ranges))
        server.fail("/a.txt", *(Failure(cut=cut) for cut in cuts))
        path = file.fetch(tmp_path_factory.mktemp("cut"), retries=Retries(tries=9, sleep=lambda _: None))
        assert path.read_bytes() == content


def test_a_part_that_is_too_long_is_begun_anew(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/a.txt", b"text"))
    place_of(file, tmp_path).part.write_bytes(b"much longer than the file")
    assert file.fetch(tmp_path).read_bytes() == b"text"


def test_a_part_of_unknown_length_that_the_server_can_not_continue_is_begun_anew(
    server: StandIn, tmp_path: Path
) -> None:
    from dataclasses import replace

    file = replace(address_files(server.file("/a.txt", b"text"))[0], size=None)
    place_of(file, tmp_path).part.write_bytes(b"much longer than the file")
    assert file.fetch(tmp_path).read_bytes() == b"text"


def test_without_a_version_nothing_is_continued_or_kept(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/a.txt", b"text", etag=None))
    place_of(file, tmp_path).part.write_bytes(b"xx")
    assert file.version == ""
    assert file.fetch(tmp_path).read_bytes() == b"text"
    server.file("/a.txt", b"next", etag=None)
    assert file.fetch(tmp_path).read_bytes() == b"next"


@pytest.mark.parametrize("promised", [3, 5])
def test_a_length_other_than_the_promised_one_is_not_taken(
    server: StandIn, tmp_path: Path, patient: Retries, promised: int
) -> None:
    from dataclasses import replace

    file = replace(address_files(server.file("/a.txt", b"text"))[0], size=promised)
    with pytest.raises(UserError):
        file.fetch(tmp_path, retries=patient)
    assert not place_of(file, tmp_path).whole.exists()


def test_a_server_that_asks_to_wait_is_waited_for(
    server: StandIn, tmp_path: Path, patient: Retries, waits: list[float]
) -> None:
    (file,) = address_files(server.file("/a.txt", b"text"))
    server.fail("/a.txt", Failure(429, {"Retry-After": "30"}), Failure(503))
    told: list[str] = []
    assert file.fetch(tmp_path, told.append, patient).read_bytes() == b"text"
    assert told[0] == "127.0.0.1 asks to wait 30 s"
    assert "127.0.0.1 answers 503; going on in" in told[1]
    assert 30 <= waits[0] <= 31


def test_a_wait_that_is_too_long_ends_at_once(
    server: StandIn, tmp_path: Path, patient: Retries, waits: list[float]
) -> None:
    (file,) = address_files(server.file("/a.txt", b"text"))
    server.fail("/a.txt", Failure(429, {"Retry-After": "3600"}))
    with pytest.raises(UserError, match="asks to wait 60 min"):
        file.fetch(tmp_path, retries=patient)
    assert waits == []


def test_after_five_tries_it_gives_up(server: StandIn, patient: Retries, waits: list[float]) -> None:
    url = server.file("/a.txt", b"text")
    server.fail("/a.txt", *[Failure(503)] * 9)
    with pytest.raises(UserError, match="answers 503, 5 times in a row") as caught:
        address_files(url, retries=patient)
    assert caught.value.exit_code == 1
    assert len(waits) == 4
    assert waits == sorted(waits)


def test_a_file_that_is_not_there_is_a_wrong_call(server: StandIn, patient: Retries, waits: list[float]) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        address_files(f"{server.url}/a.txt", retries=patient)
    assert waits == []


def test_a_refused_file_is_told_without_its_signature(server: StandIn, patient: Retries) -> None:
    server.file("/a.txt", b"text")
    server.fail("/a.txt", Failure(403), Failure(403))
    with pytest.raises(UserError, match="refuses") as caught:
        address_files(f"{server.url}/a.txt?X-Amz-Signature=abcdef&part=2", retries=patient)
    assert "abcdef" not in str(caught.value)
    assert "part=2" in str(caught.value)


def test_an_address_is_recorded_without_what_is_secret(server: StandIn, tmp_path: Path) -> None:
    server.file("/a.txt", b"text")
    url = f"{server.url}/a.txt?token=hush&v=1".replace("://", "://me:hush@")
    (file,) = address_files(url)
    assert file.address == f"{server.url}/a.txt?v=1"
    assert "hush" not in repr(file)
    assert file.fetch(tmp_path).read_bytes() == b"text"


def test_a_server_without_head_is_asked_otherwise(server: StandIn) -> None:
    (file,) = address_files(server.file("/a.txt", b"text", head=False))
    assert (file.size, file.version) == (4, "1")


def test_the_server_may_name_the_file(server: StandIn) -> None:
    server.file("/download", b"text")
    server.files["/download"].headers["Content-Disposition"] = 'attachment; filename="a.csv.xz"'
    assert address_files(f"{server.url}/download?id=1")[0].name == "a.csv.xz"
    server.files["/download"].headers.clear()
    with pytest.raises(UsageError, match="no kind") as caught:
        address_files(f"{server.url}/download?id=1")
    assert ".parquet" in caught.value.faults[0].hint


def test_a_server_that_is_not_there_is_told_after_tries(tmp_path: Path, patient: Retries, waits: list[float]) -> None:
    with stand_in() as gone:
        url = gone.url
    with pytest.raises(UserError, match=r"127\.0\.0\.1 does not answer"):
        address_files(f"{url}/a.txt", retries=patient)
    assert len(waits) == 4


# The disk


def test_too_little_room_is_told_before_anything_is_fetched(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = address_files(server.file("/a.txt", TEXT))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(UserError, match=r"needs 5\.1 MB and .* has 1\.0 MB free"):
        file.fetch(tmp_path)
    assert server.bodies("/a.txt") == []


def test_a_disk_that_gets_full_is_told_and_what_is_there_is_kept(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (file,) = address_files(server.file("/a.txt", TEXT))
    monkeypatch.setattr(transfer.os, "fsync", full)
    with pytest.raises(UserError, match="is full"):
        file.fetch(tmp_path)
    assert place_of(file, tmp_path).part.exists()


# Stores behind fsspec


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_folder_of_a_store_is_its_readable_files_by_path(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a-b.TXT", "a/.hidden.txt", ".git/x.txt", "notes.rst", "a/b/c.jsonl.gz"):
        memory.pipe(f"/texts/{name}", name.encode())
    files = address_files("memory://texts")
    assert [file.address for file in files] == [
        f"memory:///texts/{name}" for name in ("a/b/c.jsonl.gz", "a/z.md", "a-b.TXT", "b.txt")
    ]
    assert [file.fetch(tmp_path).read_bytes() for file in files[:2]] == [b"a/b/c.jsonl.gz", b"a/z.md"]
    assert [file.name for file in address_files("memory://texts/*.[tT]*")] == ["a-b.TXT", "b.txt"]
    assert [file.name for file in address_files("memory://texts/**/*.md")] == ["z.md"]


def test_what_a_store_does_not_have_is_told_with_the_nearest(memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/texts/shakespeare.txt", b"")
    with pytest.raises(UsageError, match="There is no file or folder") as caught:
        address_files("memory://texts/shakespear.txt")
    assert caught.value.faults[0].hint == "Did you mean shakespeare.txt?"
    memory.pipe("/texts/a.rst", b"")
    for nothing in ("memory://texts/a.rst", "memory://texts/*.parquet"):
        with pytest.raises(UsageError, match="kind"):
            address_files(nothing)


def test_a_stored_file_is_continued_while_its_version_is_the_same(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.pipe("/a.txt", b"0123456789")
    (file,) = address_files("memory://a.txt")
    place_of(file, tmp_path).part.write_bytes(b"abcd")
    assert file.fetch(tmp_path).read_bytes() == b"abcd456789"  # the beginning is taken as it is kept
    memory.pipe("/a.txt", b"9876543210")
    (changed,) = address_files("memory://a.txt")
    assert changed.version != file.version
    assert changed.fetch(tmp_path).read_bytes() == b"9876543210"


def test_a_stored_file_that_fails_for_a_while_is_tried_again(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, patient: Retries, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/a.txt", b"0123456789")
    (file,) = address_files("memory://a.txt")
    opened, failures = type(memory).open, iter([TimeoutError(), ConnectionResetError()])

    def shaky(*arguments: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return opened(*arguments, **options)

    monkeypatch.setattr(type(memory), "open", shaky)
    assert file.fetch(tmp_path, retries=patient).read_bytes() == b"0123456789"


def test_a_store_that_refuses_is_told_and_one_that_is_slow_is_tried_again(
    memory: fsspec.AbstractFileSystem, patient: Retries, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/a.txt", b"")
    informed, failures = type(memory).info, iter([TimeoutError(), PermissionError("Forbidden")])

    def shaky(*arguments: object) -> object:
        for failure in failures:
            raise failure
        return informed(*arguments)

    monkeypatch.setattr(type(memory), "info", shaky)
    with pytest.raises(UserError, match="can't be read: PermissionError") as caught:
        address_files("memory://a.txt", retries=patient)
    assert (caught.value.exit_code, len(waits)) == (1, 1)


class Hosted(MemoryFileSystem):
    """A store that is logged in to, as sftp:// is; its paths don't name the host."""

    protocol = "hosted"
    cachable = False

    def __init__(self, host: str, password: str) -> None:
        super().__init__(host=host, password=password)
        assert password == "hush"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.split("/", 3)[3] if "://" in path else path

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        parts = urlsplit(path)
        return {"host": parts.hostname or "", "password": parts.password or ""}


def test_a_store_with_a_password_is_recorded_without_it(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    memory.pipe("/texts/a.txt", b"text")
    (file,) = address_files("hosted://me:hush@example.org/texts")
    assert file.address == "hosted://example.org/texts/a.txt"
    assert "hush" not in repr(file)
    assert file.fetch(tmp_path).read_bytes() == b"text"
    with pytest.raises(UsageError, match=r"hosted://example\.org/none") as caught:
        address_files("hosted://me:hush@example.org/none")
    assert "hush" not in str(caught.value)


def test_two_that_fetch_the_same_file_fetch_it_once(server: StandIn, tmp_path: Path) -> None:
    (file,) = address_files(server.file("/a.txt", TEXT))
    told: list[str] = []
    with FileLock(place_of(file, tmp_path).lock):
        paths = prefetch([file], tmp_path, told.append)
        reader = threading.Thread(target=lambda: next(paths))
        reader.start()
        wait_until(lambda: told)
        place_of(file, tmp_path).whole.write_bytes(TEXT)  # the other one has it
    reader.join(10)
    assert "another process is fetching" in told[0]
    assert server.bodies("/a.txt") == []


def test_a_folder_that_can_not_be_written_to_is_told(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file of that name")
    with pytest.raises(UserError, match="can't be written to"):
        address_files(server.file("/a.txt", b""))[0].fetch(tmp_path / "cache")


def test_a_stored_file_that_vanishes_is_told(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe("/a.txt", b"0123456789")
    (file,) = address_files("memory://a.txt")
    memory.rm("/a.txt")
    with pytest.raises(UsageError, match="There is no file"):
        file.fetch(tmp_path)


def test_a_local_address_is_taken_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (file,) = address_files((tmp_path / "a.txt").as_uri())
    assert file.fetch(tmp_path / "cache").samefile(tmp_path / "a.txt")
    assert not (tmp_path / "cache").exists()


# Waiting


@given(seconds=st.integers(0, 10**6))
def test_retry_after_is_seconds_or_a_date(seconds: int) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert retry_after({"retry-after": str(seconds)}) == seconds
    date = format_datetime(now + timedelta(seconds=seconds), usegmt=True)
    assert retry_after({"Retry-After": date}, now) == seconds
    assert retry_after({"RateLimit": f'"api";r=0;t={seconds}'}) == seconds


def test_a_date_in_the_past_is_no_wait_and_nonsense_is_none() -> None:
    assert retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({"RateLimit": '"api";r=3;t=20'}) is None
    assert retry_after({}) is None


def test_what_passes_is_told_from_what_does_not() -> None:
    class ClientError(Exception):  # as botocore's
        def __init__(self, status: int) -> None:
            self.response = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "3"}}}

    slow = passing(ClientError(503))
    assert slow is not None
    assert slow.wait == 3
    assert passing(ClientError(403)) is None
    assert passing(AnswerError(404, {})) is None
    assert passing(TimeoutError()) is not None
    assert passing(ValueError()) is None
    assert passing(FileNotFoundError(2, "No such file")) is None
    wrapped = OSError("store")
    wrapped.__cause__ = ClientError(500)
    assert passing(wrapped) is not None


@given(asked=st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=1, max_size=12))
def test_waits_are_bounded_whatever_is_asked(asked: list[int | None]) -> None:
    slept: list[float] = []
    answers = iter(asked)

    def action() -> str:
        for wait in answers:
            raise AnswerError(429, {} if wait is None else {"Retry-After": str(wait)})
        return "done"

    clock = iter(lambda: sum(slept), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrying.time, "monotonic", lambda: next(clock))
        try:
            assert retried(action, "it", "host", None, Retries(sleep=slept.append)) == "done"
            assert len(slept) == len(asked)
        except UserError:
            assert len(slept) < len(asked)
    assert len(slept) <= RETRIES.tries - 1
    assert sum(slept) <= RETRIES.seconds


# Fetching ahead


@dataclass(frozen=True)
class Counted(RemoteFile):
    """A file whose fetching is noted, and may fail or last."""

    begun: list[str] = field(compare=False, default_factory=list)
    error: Exception | None = None
    lasting: bool = False

    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        self.begun.append(self.name)
        if self.error:
            raise self.error
        while self.lasting:
            retries.pause(0.01)
        return cache / self.name


def wait_until(true: object) -> None:
    limit = time.monotonic() + 10
    while not true() and time.monotonic() < limit:  # type: ignore[operator]
        time.sleep(0.002)
    assert true()  # type: ignore[operator]


def test_one_file_is_fetched_ahead_and_no_more(tmp_path: Path) -> None:
    begun: list[str] = []
    files = [Counted(f"x://{name}", name, None, "", begun) for name in "abcd"]
    paths = prefetch(files, tmp_path)
    assert begun == []
    assert next(paths) == tmp_path / "a"
    wait_until(lambda: begun == ["a", "b"])
    time.sleep(0.05)
    assert begun == ["a", "b"]
    assert list(paths) == [tmp_path / name for name in "bcd"]
    assert list(prefetch([], tmp_path)) == []


def test_an_error_is_raised_when_its_file_is_due(tmp_path: Path) -> None:
    begun: list[str] = []
    files = [
        Counted("x://a", "a", None, "", begun),
        Counted("x://b", "b", None, "", begun, UserError("gone")),
        Counted("x://c", "c", None, "", begun),
    ]
    paths = prefetch(files, tmp_path)
    assert next(paths) == tmp_path / "a"
    wait_until(lambda: begun == ["a", "b"])
    with pytest.raises(UserError, match="gone"):
        next(paths)
    assert begun == ["a", "b"]


def test_closing_ends_what_is_fetched_ahead(tmp_path: Path) -> None:
    before = threading.active_count()
    paths = prefetch([Counted("x://a", "a", None, ""), Counted("x://b", "b", None, "", lasting=True)], tmp_path)
    next(paths)
    paths.close()
    wait_until(lambda: threading.active_count() <= before)


def test_closing_in_the_middle_of_a_body_keeps_what_was_fetched(server: StandIn, tmp_path: Path) -> None:
    files = address_files(server.file("/a.txt", b"a")) + address_files(server.file("/b.txt", TEXT))
    held = threading.Event()
    server.fail("/b.txt", Failure(cut=3_000_000), Failure(held=held))
    paths = prefetch(files, tmp_path, retries=Retries(sleep=lambda _: None))
    next(paths)
    wait_until(lambda: len(server.bodies("/b.txt")) == 2)
    paths.close()
    held.set()
    wait_until(lambda: not any(thread.name == "fetch b.txt" for thread in threading.enumerate()))
    place = place_of(files[1], tmp_path)
    assert not place.whole.exists()
    assert place.part.stat().st_size > 2_000_000


def test_a_program_ends_at_once_though_a_file_is_being_fetched(server: StandIn, tmp_path: Path) -> None:
    url = server.file("/a.txt", b"a")
    held = threading.Event()
    server.fail("/a.txt", Failure(), Failure(held=held))  # HEAD, then GET
    code = (
        "import sys, time; from pathlib import Path; from gptcli.data.remote import address_files, prefetch\n"
        "from gptcli.data.remote_file import LocalFile\n"
        "files = [LocalFile('a', 'a', 1, '', Path('a')), *address_files(sys.argv[1])]\n"
        "paths = prefetch(files, Path(sys.argv[2])); next(paths); time.sleep(0.1)\n"
    )
    try:
        ended = subprocess.run([sys.executable, "-c", code, url, str(tmp_path)], timeout=25, capture_output=True)
    finally:
        held.set()
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert server.bodies("/a.txt") == [None]


def test_local_files_pass_through(tmp_path: Path) -> None:
    file = LocalFile("a.txt", "a.txt", 1, "", tmp_path / "a.txt")
    assert list(prefetch([file, file], tmp_path)) == [tmp_path / "a.txt"] * 2
