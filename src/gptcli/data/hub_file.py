"""Files of the Hugging Face Hub, pinned to a commit and kept in the cache that its other tools use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from gptcli.data.http_file import http_error, open_http
from gptcli.data.remote_file import RemoteFile, host_of, kind_of, kinds_hint
from gptcli.data.retries import RETRIES, AnswerError, Retries, Told, brief, passing, retried, status_of
from gptcli.data.transfer import Place, is_whole, transfer
from gptcli.errors import UsageError, UserError

Result = TypeVar("Result")
REACH_SECONDS = 10.0  # in which a Hub that can't be reached is told
_BATCH = 500  # paths that the Hub is asked about at a time, as its own library does
_WATCHED: ContextVar[bool] = ContextVar("_WATCHED", default=False)


@dataclass(frozen=True)
class HubFile(RemoteFile):
    """A file of a repository at a commit. `version` is its checksum, by which the Hub's cache calls it."""

    repository: str
    repository_type: str
    commit: str
    path: str

    @property
    def place(self) -> str:
        """The address without the commit: another commit may hold the same file."""
        return self.address.replace(f"@{self.commit}", "")

    def fetch(self, cache: Path, told: Told | None = None, retries: Retries = RETRIES) -> Path:
        """The file in the Hub's own cache, whatever `cache` is. Raises as RemoteFile says.

        The Hub's library begins a file anew after an interruption; so its bytes are brought here into the place where
        it looks for them, and the rest is left to it.
        """
        from huggingface_hub import constants, get_token, hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.utils.tqdm import disable_progress_bars

        known: dict[str, Any] = {
            "repo_id": self.repository,
            "repo_type": self.repository_type,
            "revision": self.commit,
            "filename": self.path,
        }
        kept = try_to_load_from_cache(**known)
        if isinstance(kept, str):
            if is_whole(Path(kept), self.size):
                return Path(kept)
            Path(kept).unlink(missing_ok=True)
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{self.address} is not fetched yet, and HF_HUB_OFFLINE is set.", "Unset it.")
        disable_progress_bars()
        url = hf_hub_url(self.repository, self.path, repo_type=self.repository_type, revision=self.commit)
        token = get_token()
        login = {"Authorization": f"Bearer {token}"} if token else {}
        place = self._place()
        try:
            # What is larger than this the Hub gives to its library alone.
            if self.size is None or self.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                transfer(
                    lambda begin: open_http(url, begin, address=self.address, headers=login),
                    place, self.address, host_of(url), self.size, True, told, retries,
                )  # fmt: skip
            path = Path(ask(lambda: hf_hub_download(**known), self.address, told, retries))
        except (OSError, urllib3.exceptions.HTTPError) as error:  # those of requests and the Hub are of the first kind
            if status_of(error) in (401, 403):
                raise gated(self.repository) from error
            raise http_error(self.address, host_of(url), error) from error
        if not is_whole(path, self.size):
            raise UserError(f"{self.address} has not the {self.size:,} bytes that were promised.", "Start again.")
        if not path.is_symlink():  # a system without links: the library has made a copy
            place.whole.unlink(missing_ok=True)
        return path

    def _place(self) -> Place:
        """Where the Hub's cache has it (its guide "Understand caching"): blobs by checksum, with a lock for writers."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = Path(constants.HF_HUB_CACHE)
        folder = repo_folder_name(repo_id=self.repository, repo_type=self.repository_type)
        blobs = cache / folder / "blobs"
        lock = cache / ".locks" / folder / f"{self.version}.lock"
        return Place(blobs / self.version, blobs / f"{self.version}.incomplete", lock)


def ask(action: Callable[[], Result], what: str, told: Told | None = None, retries: Retries = RETRIES) -> Result:
    """What a call of the Hub's library gives; its waits are ours, so that they are told and bounded.

    A connection that fails is not tried again here: the library has done so where it matters.
    """
    from huggingface_hub import constants

    with _waits_are_ours():
        return retried(action, what, host_of(constants.ENDPOINT), told, replace(retries, unanswered=1))


def hub_files(url: str, told: Told | None = None, retries: Retries = RETRIES) -> list[HubFile]:
    """The files behind an hf:// address (one, a glob, a folder), sorted by path, at the commit of this moment.

    Raises UsageError for what isn't there or of no known kind, UserError for what can't be reached or read.
    """
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import GatedRepoError, HfUriError, HFValidationError, RepositoryNotFoundError

    system = HfFileSystem()
    repository, kind, revision, path = _parts(url)
    try:
        info = ask(
            lambda: HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=REACH_SECONDS),
            url,
            told,
            retries,
        )
        root = f"{_prefix(kind)}{info.id}@{info.sha}"
        names = ask(lambda: _matches(system, f"{root}/{path}".rstrip("/")), url, told, retries)
    except UserError:
        raise
    except GatedRepoError as error:
        raise gated(repository) from error
    except (FileNotFoundError, RepositoryNotFoundError, HFValidationError, HfUriError) as error:
        raise UsageError(f"There is nothing at {url}.", "Check it; if it is private, `hf auth login`.") from error
    except Exception as error:  # whatever the HTTP library of the day raises
        raise UserError(f"{url} can't be read: {brief(error)}.", "Is this machine online?") from error
    if not names:
        raise UsageError(f"{url} has no files of a kind that can be read.", kinds_hint())
    paths = [name.removeprefix(f"{root}/") for name in names]
    return pinned(str(info.id), kind, str(info.sha), paths, told, retries)


def pinned(
    repository: str, kind: str, commit: str, paths: list[str], told: Told | None = None, retries: Retries = RETRIES
) -> list[HubFile]:
    """Those files of a repository with their sizes and checksums, in the order given."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    api, found = HfApi(), {}
    for begin in range(0, len(paths), _BATCH):
        batch = paths[begin : begin + _BATCH]

        def listed(batch: list[str] = batch) -> Iterable[object]:
            return api.get_paths_info(repository, batch, repo_type=kind, revision=commit)

        for info in ask(listed, f"{repository} on {host_of(constants.ENDPOINT)}", told, retries):
            if isinstance(info, RepoFile):
                found[info.path] = info
    files = []
    for path in paths:
        address = f"hf://{_prefix(kind)}{repository}@{commit}/{path}"
        if path not in found:
            raise UsageError(f"There is no file {address}.", "Check the address.")
        info = found[path]
        version = info.lfs.sha256 if info.lfs else info.blob_id
        files.append(HubFile(address, path.rsplit("/", 1)[-1], info.size, version, repository, kind, commit, path))
    return files


def gated(repository: str) -> UserError:
    """The error of a repository that is not for everyone."""
    return UserError(
        f"{repository} is gated or private.", "Ask for access on its page on the Hub, then `hf auth login`."
    )


def _prefix(kind: str) -> str:
    return "" if kind == "model" else f"{kind}s/"


def _parts(url: str) -> tuple[str, str, str | None, str]:
    """Repository, its type, revision and path of an hf:// address."""
    parts = re.fullmatch(
        r"hf://(?:(model|dataset|space)s/)?((?!(?:model|dataset|space)s/)[^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?",
        url,
    )
    if not parts:
        raise UsageError(f"{url} is no address of the Hub.", "It is hf://datasets/NAME/REPOSITORY/PATH.")
    return parts[2], parts[1] or "model", parts[3], (parts[4] or "").strip("/")


def _matches(system: Any, path: str) -> list[str]:
    """The files that a path means, by their names there."""
    if re.search(r"[*?\[]", path):
        names = [name for name, info in system.glob(path, detail=True).items() if info["type"] == "file"]
    elif system.info(path)["type"] == "file":
        if not kind_of(path):
            raise UsageError(f"hf://{path} is of no kind that can be read.", kinds_hint())
        return [path]
    else:
        names = system.find(path)
    begin = len(re.split(r"[*?\[]", path)[0].rsplit("/", 1)[0]) if re.search(r"[*?\[]", path) else len(path)
    visible = [name for name in names if not re.search(r"(^|/)\.", name[begin:])]
    return sorted((name for name in visible if kind_of(name)), key=lambda name: name.split("/"))


@contextmanager
def _waits_are_ours() -> Iterator[None]:
    """Answers that ask to wait end the library's call; by itself it would wait without bound and say nothing."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    if _stop_at_waits not in hooks["response"]:
        get_session().event_hooks = {**hooks, "response": [*hooks["response"], _stop_at_waits]}
    token = _WATCHED.set(True)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def _stop_at_waits(response: Any) -> None:
    """Raises AnswerError in our calls; other users of the session are left alone."""
    if _WATCHED.get():
        error = AnswerError(response.status_code, response.headers)
        if passing(error) is not None:
            raise error
