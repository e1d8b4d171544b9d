"""Trying again: when a failure passes by itself, how long to wait for it, and when to give up."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from gptcli.errors import UserError

Told = Callable[[str], None]
Result = TypeVar("Result")

_FIRST_WAIT = 2.0  # seconds; doubled from try to try
_LONGEST_WAIT = 60.0
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
# Of libraries that may not be installed, or whose modules change their names from release to release.
_UNANSWERED = {"ConnectionError", "ConnectTimeout", "Timeout", "TransportError", "ClientConnectionError",
               "HTTPClientError", "ServiceRequestError", "ServiceResponseError", "FSTimeoutError"}  # fmt: skip
_BROKEN = {"ProtocolError", "ChunkedEncodingError", "ClientPayloadError", "RemoteProtocolError", "IncompleteRead",
           "ReadError", "ConnectionResetError", "BrokenPipeError", "CutShortError"}  # fmt: skip
_LASTING = {"CancelledError", "OfflineModeIsEnabled", "SSLError", "SSLCertVerificationError", "UserError"}


class CancelledError(Exception):
    """Nobody waits for the result any more."""


class CutShortError(ConnectionError):
    """A body ended before its promised length."""


class AnswerError(Exception):
    """A server's answer other than a success, with what its headers say."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = dict(headers)


@dataclass(frozen=True)
class Retries:
    """How often and how long a thing is tried: `tries` times without progress, `seconds` in all.

    unanswered: tries where nothing answers, `tries` if None. sleep: how to wait. cancelled: ends all waiting.
    """

    tries: int = 5
    seconds: float = 300.0
    unanswered: int | None = None
    sleep: Callable[[float], object] = time.sleep
    cancelled: threading.Event | None = None

    def check(self) -> None:
        """Raises CancelledError once it has been cancelled."""
        if self.cancelled is not None and self.cancelled.is_set():
            raise CancelledError

    def pause(self, seconds: float) -> None:
        """Wait, no longer than until it is cancelled."""
        if self.cancelled is not None and self.sleep is time.sleep:
            self.cancelled.wait(seconds)
        else:
            self.sleep(seconds)
        self.check()


RETRIES = Retries()


@dataclass(frozen=True)
class Trouble:
    """A failure that may pass. reason: what the server did; wait: the seconds that it asks to wait, if it does."""

    reason: str
    wait: float | None = None
    answered: bool = True


def retried(
    action: Callable[[], Result],
    what: str,
    host: str,
    told: Told | None,
    retries: Retries = RETRIES,
    progress: Callable[[], int] = lambda: 0,
) -> Result:
    """The result of `action`, tried again while its failures are such as pass, with exponential back-off and jitter.

    progress: a number that grows as the thing gets on; when it has grown, tries and seconds count from the beginning.
    Raises UserError that names `what` when the tries are used up or the server asks for a longer wait than is left;
    other failures as they come.
    """
    began, tries, reached = time.monotonic(), 0, progress()
    while True:
        retries.check()
        try:
            return action()
        except Exception as error:
            trouble = passing(error)
            if trouble is None:
                raise
            if progress() > reached:
                began, tries, reached = time.monotonic(), 0, progress()
            tries += 1
            wait = _back_off(tries) if trouble.wait is None else trouble.wait + random.uniform(0, 1)
            allowed = retries.unanswered if retries.unanswered is not None and not trouble.answered else retries.tries
            if tries >= allowed or time.monotonic() - began + wait > retries.seconds:
                raise _gave_up(what, host, trouble, tries, tries >= allowed, error) from error
        if told is not None and trouble.wait is not None:
            told(f"{host} asks to wait {duration(trouble.wait)}")
        elif told is not None:
            told(f"{host} {trouble.reason}; going on in {duration(wait)}")
        retries.pause(wait)


def passing(error: BaseException) -> Trouble | None:
    """What may pass about a failure; None for one that trying again won't mend."""
    for cause in _causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & _LASTING:
            return None
        status, headers = _answer(cause)
        if status is not None:
            return Trouble(f"answers {status}", retry_after(headers)) if status in _PASSING_STATUS else None
        if names & _BROKEN:
            return Trouble("broke the connection")
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) or names & _UNANSWERED:
            return Trouble("does not answer", answered=False)
    return None


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind a failure, if there is one."""
    return next((status for status, _ in map(_answer, _causes(error)) if status is not None), None)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that an answer asks to wait, by Retry-After (RFC 9110, 10.2.3: seconds or a date), or by RateLimit
    (IETF draft ratelimit-headers; the Hugging Face Hub sends it) where nothing remains."""
    given = {key.lower(): value.strip() for key, value in headers.items()}
    asked = given.get("retry-after", "")
    if re.fullmatch(r"\d+(\.\d+)?", asked):
        return float(asked)
    if asked:
        try:
            date = parsedate_to_datetime(asked)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", given.get("ratelimit", ""))
    return float(limit[1]) if limit else None


def brief(error: BaseException) -> str:
    """A failure in a few words that hold no address: those of HTTP libraries carry signatures and tokens."""
    status = status_of(error)
    if status is not None:
        return f"status {status}"
    words = [cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror]
    return str(words[-1]) if words else type(error).__name__


def duration(seconds: float) -> str:
    """A wait for people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _back_off(tries: int) -> float:
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (tries - 1)) * random.uniform(0.75, 1.25)


def _gave_up(what: str, host: str, trouble: Trouble, tries: int, tried: bool, error: BaseException) -> UserError:
    kept = "Start again later: what was fetched is kept."
    if trouble.wait is not None and not tried:
        return UserError(f"{what}: {host} asks to wait {duration(trouble.wait)}.", kept)
    if not trouble.answered:
        return UserError(
            f"{what} can't be reached: {host} does not answer ({brief(error)}).",
            f"Is this machine online, and the name right? {kept}",
        )
    return UserError(f"{what} can't be had: {host} {trouble.reason}, {tries} times in a row.", kept)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The failure and what led to it, libraries' wrappers seen through."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            # urllib3 and requests hand their causes on as arguments and as `reason`
            pending += [cause.__cause__, getattr(cause, "reason", None), *cause.args]
            pending += [] if cause.__suppress_context__ else [cause.__context__]


def _answer(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    """Status and headers of the answer that an exception carries in requests, httpx, aiohttp, botocore and gcsfs."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        told = response.get("ResponseMetadata", {})
        return told.get("HTTPStatusCode"), told.get("HTTPHeaders", {})
    candidates = (getattr(response, "status_code", None), getattr(error, "status", None), getattr(error, "code", None))
    status = next((number for number in candidates if isinstance(number, int) and 100 <= number < 600), None)
    headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    return status, headers if isinstance(headers, Mapping) else {}
