"""What the processes of a run send each other in a step."""

from __future__ import annotations

from gptcli.training.memory import FP32, Shape


def bytes_exchanged(shape: Shape) -> int:
    """Bytes that each process sends in a step, by rings in which each passes on all but its own part (Patarasuk and
    Yuan 2009): gradients once where every process has a copy, there and back; sharded ones are summed one way, and
    weights are gathered for every micro-batch, with "full" twice, for the backward pass too, and gradients summed for
    each."""
    n = shape.processes
    if n == 1:
        return 0
    passed_on = shape.parameters * (n - 1) / n
    if shape.shard == "none":
        return int(2 * passed_on * FP32)
    gathered = shape.accumulation * passed_on * shape.number
    if shape.shard == "optimizer":
        return int(passed_on * FP32 + gathered)
    return int(shape.accumulation * passed_on * FP32 + 2 * gathered)
