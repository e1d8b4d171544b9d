"""From raw text to a GPT that you trained, measured and can use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"
__all__ = ["GPT", "GPTConfig", "Tokenizer", "TrainSettings", "load", "train"]

if TYPE_CHECKING:
    from gptcli.inference.load import load
    from gptcli.model.config import GPTConfig
    from gptcli.model.network import GPT
    from gptcli.settings import TrainSettings
    from gptcli.tokenizer import Tokenizer
    from gptcli.training.run import train

_HOME = {
    "GPT": "gptcli.model.network",
    "GPTConfig": "gptcli.model.config",
    "Tokenizer": "gptcli.tokenizer",
    "TrainSettings": "gptcli.settings",
    "load": "gptcli.inference.load",
    "train": "gptcli.training.run",
}


def __getattr__(name: str) -> Any:
    """The public names are imported when they are used, so that `import gptcli` costs nothing."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gptcli' has no attribute {name!r}")
