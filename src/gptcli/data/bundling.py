"""Slices in bundles: small files are worked on together, so that a hundred thousand of them are no problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gptcli.data import slices
from gptcli.data.formats import slices_of
from gptcli.data.slices import Bundle, Cursor, Reading, Slice, Texts
from gptcli.errors import UserError

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
    with _called(path, name):
        each, later = next(found), next(found, None)
    alone = later is None
    at = 0
    while True:
        yield Placed(each, name, reading, Cursor(number, at), alone and each.bytes < slices.SLICE_BYTES)
        if later is None:
            return
        with _called(path, name):
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


def read_texts(bundle: Bundle) -> list[Texts]:
    """The texts of each slice. Raises UserError where one can't be read at all, with its file called by its name."""
    texts = []
    for each, name in zip(bundle.slices, bundle.names, strict=True):
        with _called(each.path, name):
            texts.append(each.part.read(bundle.reading))
    return texts


@contextmanager
def _called(path: Path, name: str) -> Iterator[None]:
    """What is said of `path`, which may lie in a cache, is said of `name`."""
    try:
        yield
    except UserError as error:
        faults = [replace(fault, message=fault.message.replace(str(path), name)) for fault in error.faults]
        raise type(error)(faults=faults) from error


def _bundle(held: list[Placed]) -> Bundle:
    return Bundle(tuple(each.slice for each in held), tuple(each.name for each in held), held[0].reading, held[0].at)
