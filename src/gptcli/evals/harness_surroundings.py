"""What lm-evaluation-harness finds around it while a task is loaded and run: seeds, a network or none, no output."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED, _SEED_OF_RANDOM = 1234, 0  # the harness's own: with others the few-shot examples would be others too
_LIBRARIES = ("datasets", "evaluate", "filelock", "fsspec", "httpx", "huggingface_hub", "transformers", "urllib3")


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Some tasks draw from the global generators: those start as the harness's command line starts them, and come back
    as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(_SEED_OF_RANDOM)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def offline(is_offline: bool) -> Iterator[None]:
    """The Hugging Face libraries fetch nothing. They read the environment once, when they are imported."""
    import datasets.config
    import huggingface_hub.constants

    with contextlib.ExitStack() as stack:
        if is_offline:
            stack.enter_context(_changed(datasets.config, HF_HUB_OFFLINE=True, HF_DATASETS_OFFLINE=True))
            stack.enter_context(_changed(huggingface_hub.constants, HF_HUB_OFFLINE=True))
        yield


@contextlib.contextmanager
def _changed(owner: object, **values: object) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


class _Notes(logging.Handler):
    """Keeps warnings as text."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        self.notes.append(f"lm-evaluation-harness: {text if len(text) <= 300 else text[:300] + '…'}")


@contextlib.contextmanager
def quiet(notes: list[str]) -> Iterator[None]:
    """The harness and the libraries beneath it print, draw bars and log, on standard output too, where results go. Only
    the harness's warnings are kept, in `notes`."""
    import tqdm

    draw = tqdm.tqdm.__init__

    def draw_nothing(bar: Any, *args: Any, **kwargs: Any) -> None:
        draw(bar, *args, **{**kwargs, "disable": True})

    harness, handler = logging.getLogger("lm_eval"), _Notes(notes)
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_changed(tqdm.tqdm, __init__=draw_nothing))
        stack.enter_context(_changed(harness, propagate=False, handlers=[*harness.handlers, handler]))
        for name in _LIBRARIES:
            library = logging.getLogger(name)
            stack.callback(library.setLevel, library.level)
            library.setLevel(logging.ERROR)
        yield
