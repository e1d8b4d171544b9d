"""What a folder is and what its files tell of it: a run, a model, or token shards. Imports no torch.

A new kind of folder is a module with a function like `run_info`, a kind in `places.py`, and its place in `examine`.
"""

from __future__ import annotations

from gptcli.errors import UsageError
from gptcli.info.model import ModelInfo, model_info
from gptcli.info.places import locate
from gptcli.info.run import RunInfo, run_info
from gptcli.info.shards import ShardsInfo, shards_info
from gptcli.model.checksums import is_sealed
from gptcli.model.locate import checkpoints_of

Info = RunInfo | ModelInfo | ShardsInfo


def examine(name: str, *, verify: bool = False) -> Info:
    """Tell of the folder that `name` means. With `verify` checksums are compared too, which reads every byte.

    Raises UsageError for a name that means none and for one that has no checksums to verify by, and UserError for a
    damaged run.json, manifest or shard. Damage to a model is told among the rest.
    """
    folder, kind = locate(name)
    if kind == "run":
        if verify and not any(is_sealed(checkpoint) for checkpoint in checkpoints_of(folder)):
            raise UsageError(f"--verify: no checkpoint of {folder} has checksums.", "Leave it out.")
        return run_info(folder, verify=verify)
    if kind == "shards":
        return shards_info(folder, verify=verify)
    if verify and not is_sealed(folder):
        raise UsageError(f"--verify: {folder} has no checksums.", "Only the checkpoints of a run have them.")
    return model_info(folder, verify=verify)


__all__ = ["Info", "ModelInfo", "RunInfo", "ShardsInfo", "examine", "model_info"]
