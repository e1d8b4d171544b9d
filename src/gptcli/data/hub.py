"""A Hugging Face dataset as documents, streamed through `datasets`: from the Hub, or a folder of this machine."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from gptcli.data.readers import missing_column
from gptcli.errors import UsageError, UserError, nearest

_REACH_SECONDS = 10.0  # the libraries' own retries go on for minutes


def stream_dataset(path: str, name: str | None, split: str, text_column: str) -> Generator[str]:
    """The text of every row of a dataset.

    Raises UsageError for a dataset, configuration, split or column that there is not, and UserError when the Hub can't
    be reached or fails.
    """
    local = Path(path).is_dir()
    if not local:
        _check_reachable(path)
    import datasets

    datasets.disable_progress_bars()  # the terminal is the command line's
    try:
        rows = datasets.load_dataset(path, name=_config(path, name, local), split=split, streaming=True)
    except Exception as error:
        raise _load_error(path, name, split, error) from error
    count = 0
    try:
        for row in rows:
            count += 1
            yield _text(row, text_column, f"{path}, row {count:,}")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"Reading the dataset {path} failed after {count:,} documents: {_brief(error)}.",
            "Start again; or download the dataset's files and give them as arguments.",
        ) from error


def _config(path: str, name: str | None, local: bool) -> str | None:
    """The configuration to ask for. A folder without configurations of its own has one that is called default."""
    if not local or name is None:
        return name
    import datasets

    return name if name in datasets.get_dataset_config_names(path) else None


def _check_reachable(path: str) -> None:
    """Ask the Hub for the dataset, once and not for long."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    files = "Text of your own can be given as arguments: gpt tokenize FILE-OR-FOLDER ..."
    try:
        HfApi().dataset_info(path, timeout=_REACH_SECONDS)
    except GatedRepoError as error:
        raise UserError(f"The dataset {path} is gated.", "Ask for access on its page, then `hf auth login`.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"There is no dataset {path}, neither on the Hugging Face Hub nor as a folder here.", files
        ) from error
    except Exception as error:  # whatever the HTTP library of the day raises
        raise UserError(
            f"The dataset {path} can't be reached ({_brief(error)}). Is this machine offline?", files
        ) from error


def _load_error(path: str, name: str | None, split: str, error: Exception) -> UserError:
    text = str(error)
    if isinstance(error, ValueError) and "BuilderConfig" in text:
        return UsageError(f"The dataset {path} has no configuration '{name}'.", f"Give --remote-name. {_brief(error)}")
    if isinstance(error, ValueError) and "split" in text.lower():
        return UsageError(f"The dataset {path} has no split '{split}'.", f"Give --split. {_brief(error)}")
    return UserError(
        f"The dataset {path} can't be opened: {_brief(error)}.", "Is the machine online, and the name right?"
    )


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise UsageError(faults=[missing_column(where, column, list(row))])
    text = row[column]
    if not isinstance(text, str):
        close = nearest("text", [key for key, value in row.items() if isinstance(value, str)])
        hint = f"Did you mean --text-column {close}?" if close and close != column else "Leave such rows out."
        raise UserError(f"{where}: '{column}' is {'null' if text is None else 'not text'}.", hint)
    return text


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:200]}" if lines else type(error).__name__
