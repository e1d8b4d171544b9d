"""What a model format consists of, and what reading any of them shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gptcli.errors import Fault, UserError
from gptcli.model.config import GPTConfig

Told = Mapping[str, Any]  # the content of a config.json


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors lies in a format: the names of its parts there, which stacked in this order along our
    first dimension are it, with their heights; and whether as (in, out) where ours is (out, in)."""

    ours: str
    theirs: tuple[str, ...]
    heights: tuple[int, ...] = ()  # of more than one part
    transposed: bool = False


@dataclass(frozen=True)
class Format:
    """One architecture of Hugging Face's. `lacks` tells what a network would need to be held by it, as options;
    `tensors` all that a network has, the head of a tied one too; `zeros` the shapes of tensors that the format wants
    and our network lacks; `describe` the config.json; `read` the shape that one tells."""

    name: str
    model_type: str
    prefix: str  # of most tensor names, which some files leave out
    lacks: Callable[[GPTConfig], list[str]]
    tensors: Callable[[GPTConfig], Iterator[Stored]]
    zeros: Callable[[GPTConfig], dict[str, tuple[int, ...]]]
    describe: Callable[[GPTConfig], dict[str, Any]]
    read: Callable[[Told], GPTConfig]


def refuse_unless(told: Told, expected: Mapping[str, tuple[object, ...]], file: str) -> None:
    """Raise UserError for every key that does not have one of its `expected` values, the first of which is meant where
    the key is absent or null."""
    faults = [
        Fault(f"{file}: {key} is {told[key]!r}; only {allowed[-1]!r} can be read.")
        for key, allowed in expected.items()
        if told.get(key) is not None and told[key] not in allowed
    ]
    if faults:
        raise UserError(faults=faults)
