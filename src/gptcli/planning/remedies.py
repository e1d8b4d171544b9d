"""Which options would make a run fit that does not."""

from __future__ import annotations

from dataclasses import replace

from gptcli.training.memory import Shape, memory_of
from gptcli.training.micro_batch import sizes
from gptcli.training.setup import Setup


def remedies(setup: Setup, room: int, precision: str, device_type: str, processes: int) -> tuple[str, ...]:
    """Options that would each do alone; if none does, those that do together, in the order of what they cost."""

    def fitting(options: dict[str, str]) -> str:
        """These options, with the largest micro-batch up to the present one that then fits; else nothing."""
        changed = replace(setup, settings=setup.settings.model_copy(update=options))
        kept = "fp32" if precision == "fp16" and "shard" in options else precision  # its scaling does not go with it
        for n in (n for n in sizes(setup, processes) if n <= setup.micro_batch):
            if memory_of(Shape.of(changed, n, kept, device_type, processes)).peak <= room:
                words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
                return " ".join([*words, f"--n-batches {n}"] if n < setup.micro_batch else words)
        return ""

    settings = setup.settings
    recompute = {"activation_checkpointing": "block"} if settings.activation_checkpointing == "none" else {}
    shards = [{"shard": mode} for mode in ("optimizer", "full") if processes > 1 and settings.shard != mode]
    single: list[dict[str, str]] = [{}, *([recompute] if recompute else []), *shards]
    together = [{**recompute, **shard} for shard in shards if recompute]
    found = [words for options in (*single, *together) if (words := fitting(options))]
    alone = [words for words in found if words.count("--") == 1]
    return tuple(alone or found[:2])
