"""A Hugging Face dataset as files: from the Hub, or a folder of this machine in the same layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gptcli.data.hub_file import REACH_SECONDS, ask, gated, pinned
from gptcli.data.remote import address_files, is_address
from gptcli.data.remote_file import LocalFile, RemoteFile, kind_of, kinds_hint
from gptcli.data.retries import RETRIES, Retries, Told, brief
from gptcli.errors import UsageError, UserError, nearest

_FILES_HINT = "Text of your own can be given as arguments: gpt tokenize FILE-OR-FOLDER ..."
_PINNED = re.compile(r"hf://datasets/([^/@]+/[^/@]+)@([0-9a-f]{40})/(.+)")


def dataset_files(
    path: str, name: str | None, split: str, told: Told | None = None, retries: Retries = RETRIES
) -> list[RemoteFile]:
    """The files of one split of a dataset in the order in which `datasets` reads them, at the commit of this moment.

    path: a dataset of the Hub, or a local folder. name: its configuration, None for the default one. Raises UsageError
    for a dataset, configuration or split that there is not, and for files of no known kind; UserError where the Hub
    can't be reached or refuses.
    """
    local = Path(path).is_dir()
    repository, commit = (path, None) if local else _commit(path, told, retries)
    builder = _builder(path, repository, name, commit, told, retries)
    splits = {str(key): [str(file) for file in files] for key, files in (builder.config.data_files or {}).items()}
    if split not in splits:
        raise _missing("split", path, split, list(splits), "--split")
    unknown = [file for file in splits[split] if not kind_of(file)]
    if unknown:
        raise UsageError(f"{unknown[0]}, a file of {path}, is of no kind that can be read.", kinds_hint())
    return _remote(splits[split], told, retries)


def _remote(files: list[str], told: Told | None, retries: Retries) -> list[RemoteFile]:
    """The files by their addresses, in their order; those of one commit are asked for together."""
    parts = {file: _PINNED.fullmatch(file) for file in files}
    groups: dict[tuple[str, str], list[str]] = {}
    for part in parts.values():
        if part:
            groups.setdefault((part[1], part[2]), []).append(part[3])
    found: dict[str, RemoteFile] = {}
    for (repository, commit), paths in groups.items():
        found |= {file.address: file for file in pinned(repository, "dataset", commit, paths, told, retries)}
    return [found[file] if file in found else _single(file, told, retries) for file in files]


def _single(file: str, told: Told | None, retries: Retries) -> RemoteFile:
    """A file of a local folder, or one that a dataset names by an address of its own."""
    if is_address(file):
        return address_files(file, told, retries)[0]
    path = Path(file)
    state = path.stat()
    return LocalFile(file, path.name, state.st_size, str(state.st_mtime_ns), path)


def _commit(path: str, told: Told | None, retries: Retries) -> tuple[str, str]:
    """The dataset's full name and its present commit: the Hub is asked once, and not for long."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    def asked() -> Any:
        return HfApi().dataset_info(path, timeout=REACH_SECONDS)

    try:
        info = ask(asked, f"The dataset {path}", told, retries)
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"The dataset {path} can't be reached: HF_HUB_OFFLINE is set.", f"Unset it. {_FILES_HINT}"
        ) from error
    except GatedRepoError as error:
        raise gated(path) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"There is no dataset {path}, neither on the Hugging Face Hub nor as a folder here.",
            f"If it is private, `hf auth login`. {_FILES_HINT}",
        ) from error
    except UserError as error:
        raise UserError(error.faults[0].message, f"Is this machine online? {_FILES_HINT}") from error
    except Exception as error:  # whatever the HTTP library of the day raises
        raise UserError(f"The dataset {path} can't be reached ({brief(error)}).", _FILES_HINT) from error
    return str(info.id), str(info.sha)


def _builder(
    path: str, repository: str, name: str | None, commit: str | None, told: Told | None, retries: Retries
) -> Any:
    """The dataset as `datasets` sees it, its configuration resolved to files."""
    import datasets
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()  # the terminal is the command line's
    disable_progress_bars()
    config = _config(repository, name, commit is None)
    try:
        return ask(
            lambda: datasets.load_dataset_builder(repository, name=config, revision=commit),
            f"The dataset {path}", told, retries,
        )  # fmt: skip
    except UserError:
        raise
    except Exception as error:
        raise _builder_error(path, name, error) from error


def _builder_error(path: str, name: str | None, error: Exception) -> UserError:
    text = str(error)
    configurations = re.findall(r"'([^']*)'", text.partition("vailable")[2].partition("]")[0])
    if isinstance(error, ValueError) and "BuilderConfig" in text and name is not None:
        return _missing("configuration", path, name, configurations, "--remote-name")
    if isinstance(error, ValueError) and "Config name is missing" in text:
        return UsageError(
            f"The dataset {path} has several configurations.", f"Give --remote-name: {', '.join(configurations)}."
        )
    if type(error).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError"):
        return UsageError(f"The dataset {path} has no files of a kind that can be read.", kinds_hint())
    if "scripts are no longer supported" in text:
        return UsageError(f"The dataset {path} is a program, which is not run.", "Use one that consists of files.")
    return UserError(f"The dataset {path} can't be opened: {_brief(error)}.", _FILES_HINT)


def _missing(what: str, path: str, given: str, there: list[str], option: str) -> UsageError:
    close = nearest(given, there)
    meant = f"Did you mean {close}? " if close else ""
    listed = ", ".join(there[:20]) + (" …" if len(there) > 20 else "")
    return UsageError(f"The dataset {path} has no {what} '{given}'.", f"{meant}Give {option}; there are: {listed}.")


def _config(path: str, name: str | None, local: bool) -> str | None:
    """The configuration to ask for. A folder without configurations of its own has one that is called default."""
    if not local or name is None:
        return name
    import datasets

    return name if name in datasets.get_dataset_config_names(path) else None


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:200]}" if lines else type(error).__name__
