"""Sources as a manifest records them: long lists of files told in short."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

_NAMED = 20  # files of a source that a checkpoint names one by one


def condensed(listed: Sequence[JsonValue]) -> dict[str, JsonValue]:
    """Many files as one: how many, and a checksum over what is known of them but their paths."""
    digest = hashlib.sha256()
    for entry in listed:
        assert isinstance(entry, dict)
        facts = {key: value for key, value in entry.items() if key != "path" or "version" in entry}
        digest.update(json.dumps(facts, sort_keys=True).encode() + b"\n")
    return {"count": len(listed), "sha256": digest.hexdigest()}


def shortened(source: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """A source as a checkpoint carries it: of many files their number, checksum and bytes, and the folder that all of
    them are under."""
    files = source.get("files")
    if not isinstance(files, list) or len(files) <= _NAMED or not all(isinstance(file, dict) for file in files):
        return dict(source)
    entries = [file for file in files if isinstance(file, dict)]
    paths = [str(file.get("path", "")) for file in entries]
    sizes = [size for file in entries if isinstance(size := file.get("bytes"), int)]
    told: dict[str, JsonValue] = {"under": _shared_folder(paths), "bytes": sum(sizes)}
    return {**source, "files": {**condensed(files), **told}}


def _shared_folder(paths: Sequence[str]) -> str:
    """The folder that all paths are under, empty where there is none."""
    try:
        return posixpath.commonpath([posixpath.dirname(path) for path in paths])
    except ValueError:  # some are absolute and some are not
        return ""
