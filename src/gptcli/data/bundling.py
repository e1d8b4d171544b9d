"""Slices in bundles: small files are worked on together, so that a hundred thousand of them are no problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gptcli.data import slices
from gptcli.data.formats import slices_of
from gptcli.data.slices import Bundle, Cursor, Reading, Slice

_BUNDLED_SLICES = 1000


@dataclass(frozen=True)
class Placed:
    """A slice and its place; `name` is what messages call its file, `small` that it is the whole of a small one."""

    slice: Slice
    name: str
    reading: Reading
    at: Cursor
    small: bool


def placed(path: Path, name: str, reading: Reading, number: int, cache: Path) -> Iterator[Placed]:
    """The slices of file `number`. What has to be unpacked lies in `cache` meanwhile."""
    found = slices_of(path, reading, cache)
    each, later = next(found), next(found, None)
    alone = later is None
    at = 0
    while True:
        yield Placed(each, name, reading, Cursor(number, at), alone and each.bytes < slices.SLICE_BYTES)
        if later is None:
            return
        each, later = later, next(found, None)
        at += 1


def bundled(found: Iterable[Placed]) -> Iterator[Bundle]:
    """The slices in bundles. Where one begins, those that follow are the same whatever came before."""
    held: list[Placed] = []
    size = 0
    for each in found:
        if held and not (
            each.small
            and held[0].small
            and each.reading == held[0].reading
            and len(held) < _BUNDLED_SLICES
            and size + each.slice.bytes <= slices.SLICE_BYTES
        ):
            yield _bundle(held)
            held, size = [], 0
        held.append(each)
        size += each.slice.bytes
    if held:
        yield _bundle(held)


def _bundle(held: list[Placed]) -> Bundle:
    return Bundle(tuple(each.slice for each in held), tuple(each.name for each in held), held[0].reading, held[0].at)
