"""The formats that `gpt export` writes, as data. A new one is a module with a function `write` (a
`gptcli.export.Writer`), and its entry here, from which `--format` takes its choices and its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ExportFormat:
    """`module` is imported when this format is asked for; `told` says what it is, in a few words; `suffix` is that of
    its file, which names the format where no option does. A folder has none."""

    module: str
    told: str
    suffix: str = ""


EXPORT_FORMATS: Mapping[str, ExportFormat] = {
    "gguf": ExportFormat("gptcli.export.gguf", "a file for llama.cpp", ".gguf"),
    "hf": ExportFormat("gptcli.export.huggingface", "a Hugging Face folder without padding in the vocabulary"),
}
