"""Where a model comes from, in one line: what `gpt generate` and `gpt eval` say of each that they load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.cli.terminal import printable
from gptcli.model.locate import CHECKPOINTS

if TYPE_CHECKING:
    from gptcli.info import ModelInfo
    from gptcli.tokenizer import Tokenizer
    from gptcli.training.provenance import Provenance

FINGERPRINT, COMMIT = 8, 7  # digits that are shown, of many


def origin_line(folder: Path, tokenizer: Tokenizer | None, name: str | None = None) -> str:
    """The line on the model in `folder`, whose tokenizer is read already; `name` is what the user called it, where that
    is no folder of theirs."""
    from gptcli.info import model_info

    return describe(model_info(folder, tokenizer=tokenizer), name or str(folder))


def describe(info: ModelInfo, name: str) -> str:
    """`name: step 400 of run log, 7.2M parameters, data sotu (3caecfc4), gpt 2.0.0, commit cdf93ac`; of a model that
    gpt did not train family, size and tokenizer. What `name` says is not said again."""
    size = [f"{rounded(info.parameters)} parameters"] if info.parameters else []
    if (origin := info.provenance) is None:
        told = info.tokenizer.name or "of its own" if info.tokenizer else "none"
        parts = [info.family, *size, f"tokenizer {told}"]
    else:
        data, version = origin.data, origin.versions.get("gpt")
        known = f" ({data.fingerprint[:FINGERPRINT]})" if data.fingerprint else ""
        parts = [
            *_step(info, origin),
            *size,
            *([f"data {_last_part(data.folder)}{known}"] if data.folder else []),
            *([f"gpt {version}"] if version else []),
            *([f"commit {origin.git_commit[:COMMIT]}"] if origin.git_commit else []),
        ]
    return printable(f"{name}: {', '.join(parts)}")


def _step(info: ModelInfo, origin: Provenance) -> list[str]:
    """Which checkpoint of which run, unless the model lies there under that name."""
    folder = info.folder.resolve()
    if folder.parent.name == CHECKPOINTS and folder.parent.parent.name == origin.run:
        return []
    step = "" if origin.step is None else f"step {origin.step:,}"
    return [" of ".join(filter(None, (step, origin.run and f"run {origin.run}")))] if step or origin.run else []


def _last_part(folder: str) -> str:
    """A folder's own name, whichever system its path was written on."""
    return folder.replace("\\", "/").rstrip("/").rpartition("/")[2] or folder


def rounded(number: int) -> str:
    """`950`, `7.2M`, `124M`, `1.5B`: parameters as people name them."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.1f}{letter}" if number < 9.95 * size else f"{number / size:.0f}{letter}"
    return str(number)
