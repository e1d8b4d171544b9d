"""Checksums of a checkpoint's files: written last, read before anybody relies on what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

TRAINING = "training"  # the subfolder of what only a resume needs
CHECKSUMS = f"{TRAINING}/checksums.json"


def seal(folder: Path) -> None:
    """Note the size and sha256 of every file in `folder`. Raises OSError."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / CHECKSUMS).write_text(json.dumps({"format": 1, "files": files}, indent=1) + "\n", encoding="utf-8")


def is_sealed(folder: Path) -> bool:
    """Whether `folder` has checksums: a model from elsewhere has none."""
    return (folder / CHECKSUMS).is_file()


def damage(folder: Path, contents: bool) -> str:
    """What is wrong with the first file that is not as it was sealed, in words that go on from the folder's name; empty
    for a sound folder. Sizes are compared, and with `contents` every byte."""
    try:
        files = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
        for name, noted in files.items():
            path = folder / name
            if not path.is_file():
                return f"lacks {name}"
            if (size := path.stat().st_size) != noted["bytes"]:
                return f"is damaged: {name} has {size:,} bytes in place of {noted['bytes']:,}"
            if contents and _sha256(path) != noted["sha256"]:
                return f"is damaged: the content of {name} has changed"
    except FileNotFoundError:
        return f"lacks {CHECKSUMS}"
    except OSError as error:
        return f"can't be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"is damaged: {CHECKSUMS} can't be read"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
