"""Start a side: `python -m sides NAME TASK`, from the folder above."""

from __future__ import annotations

import sys
from importlib import import_module

PEERS = (
    "transformers_gpt2",
    "original_gpt",
    "eval_lm_eval",
    "eval_original",
    "gen_transformers",
)  # which run as they are; the others as `gpt train` does


def main() -> None:
    """Import the side and let it run until nobody asks for a step any more."""
    name = sys.argv[1]
    if name not in PEERS:
        from gptcli.distributed.runtime import keep_freed_memory, limit_spinning

        limit_spinning(20_000 if name.startswith("gen_") else 1_000)  # before torch is imported
        keep_freed_memory()
    import_module(f"sides.{name}").main()


if __name__ == "__main__":
    main()
