"""What a run will be, before it is: size, length, arithmetic, memory, communication and time. The model itself is never
built; where the time on this machine is told, one of its blocks is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from gptcli.distributed import machine_memory
from gptcli.distributed.runtime import Ranks, detect, resolve_device
from gptcli.errors import UsageError
from gptcli.model.arithmetic import flops_per_token
from gptcli.model.size import parameters_by_part
from gptcli.planning.duration import by_data_sheet, by_probe
from gptcli.planning.exchange import bytes_exchanged
from gptcli.planning.remedies import remedies
from gptcli.planning.wording import facts_of
from gptcli.settings import TrainSettings
from gptcli.training import hardware, micro_batch, numerics
from gptcli.training.hardware import Accelerator
from gptcli.training.memory import Memory, Shape, memory_of
from gptcli.training.setup import Setup, prepare


@dataclass(frozen=True)
class Plan:
    """A run in numbers: memory in bytes for each of `processes`, of which `usable_memory_bytes` are there; times in
    seconds. `remedies` are options that would make it fit where it does not."""

    parameters: int
    parameters_by_part: Mapping[str, int]
    device: str
    processes: int
    precision: str
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    logit_bytes: int
    buffer_bytes: int
    snapshot_bytes: int
    peak_memory_bytes: int
    usable_memory_bytes: int
    fits: bool
    remedies: tuple[str, ...]
    steps: int
    warmup_iters: int
    tokens: int
    tokens_per_step: int
    tokens_per_micro_batch: int
    n_batches: int
    accumulation: int
    epochs: float
    flops_per_token: int
    flops: int
    communication_bytes_per_step: int
    seconds_per_step: float | None
    seconds: float | None
    tokens_per_second: float | None
    facts: Mapping[str, str]

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {name: value for name, value in asdict(replace(self, facts={})).items() if name != "facts"}


@dataclass(frozen=True)
class Target:
    """What a run is planned for: `processes` devices of a `kind`, each with `room` bytes to plan with. `gpu` is the
    data sheet of a named one, `device` the present one."""

    name: str
    kind: str
    processes: int
    room: int
    precision: str
    gpu: Accelerator | None = None
    device: torch.device | None = None


def plan(settings: TrainSettings) -> Plan:
    """The plan of a call of `gpt train`. Raises what the call itself would raise for its settings."""
    if settings.fit_time:
        raise UsageError(
            "--dry-run can't tell how many steps --fit-time will give: that is measured when the run begins.",
            "Plan with --max-iters.",
        )
    setup, target = _named(settings) if settings.on else _present(settings)
    if not setup.micro_batch:
        n = micro_batch.largest(setup, target.room, target.precision, target.kind, target.processes)
        setup = replace(setup, micro_batch=n)
    shape = Shape.of(setup, setup.micro_batch, target.precision, target.kind, target.processes)
    memory = memory_of(shape)
    fits = memory.peak <= target.room
    found = () if fits else remedies(setup, target.room, target.precision, target.kind, target.processes)
    numbers = _numbers(setup, target, shape, memory, found)
    return replace(numbers, facts=facts_of(numbers, setup, target.gpu is not None))


def _numbers(setup: Setup, target: Target, shape: Shape, memory: Memory, found: tuple[str, ...]) -> Plan:
    config = setup.config
    per_token = flops_per_token(config, shape.parameters, setup.length)
    exchanged = bytes_exchanged(shape)
    if target.gpu:
        flops = per_token * setup.tokens_per_step / target.processes
        of_step = by_data_sheet(target.gpu, flops, exchanged, shape, setup.settings.torch_matmul_precision)
    elif target.device and memory.peak <= target.room:
        of_step = by_probe(setup, target.device, target.processes, target.precision)
    else:
        of_step = None
    return Plan(
        parameters=shape.parameters,
        parameters_by_part=dict(parameters_by_part(config)),
        device=target.name,
        processes=target.processes,
        precision=target.precision,
        weight_bytes=memory.weights,
        gradient_bytes=memory.gradients,
        optimizer_bytes=memory.optimizer,
        activation_bytes=memory.activations,
        logit_bytes=memory.head,
        buffer_bytes=memory.buffers,
        snapshot_bytes=memory.snapshot,
        peak_memory_bytes=memory.peak,
        usable_memory_bytes=target.room,
        fits=memory.peak <= target.room,
        remedies=found,
        steps=setup.steps,
        warmup_iters=setup.warmup,
        tokens=setup.steps * setup.tokens_per_step,
        tokens_per_step=setup.tokens_per_step,
        tokens_per_micro_batch=shape.tokens,
        n_batches=setup.micro_batch,
        accumulation=shape.accumulation,
        epochs=setup.steps * setup.windows_per_step / setup.train_windows,
        flops_per_token=per_token,
        flops=per_token * setup.steps * setup.tokens_per_step,
        communication_bytes_per_step=exchanged,
        seconds_per_step=of_step,
        seconds=None if of_step is None else of_step * setup.steps,
        tokens_per_second=None if of_step is None else setup.tokens_per_step / of_step,
        facts={},
    )


def _present(settings: TrainSettings) -> tuple[Setup, Target]:
    """The set-up for this machine."""
    ranks = detect()
    if not ranks.launched:
        ranks = Ranks(world_size=settings.gpus * settings.nodes, local_world_size=settings.gpus)
    setup, device = prepare(settings, ranks), resolve_device(settings.device)
    precision: str = settings.precision
    if precision == "auto":
        precision = _shardable(
            numerics.precision_of(device, setup.config.emb_dim, partial(numerics.fastest_matmul, device)), settings
        )
    sharing = 1 if device.type == "cuda" else ranks.local_world_size
    room = micro_batch.usable(machine_memory.free_memory(device), device.type, sharing)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this machine's {device.type}"
    return setup, Target(name, device.type, ranks.world_size, room, precision, device=device)


def _named(settings: TrainSettings) -> tuple[Setup, Target]:
    """The set-up for the GPUs that --on names; without a number there it is that of --gpus."""
    assert settings.on is not None
    number, name, gpu = hardware.named(settings.on)
    number = number or settings.gpus * settings.nodes
    here = settings.model_copy(update={"device": "cpu", "gpus": 1, "nodes": 1})  # which has not to have them
    setup = prepare(here, Ranks(world_size=number))
    precision: str = settings.precision
    if precision == "auto":
        precision = _shardable(next(p for p in ("bf16", "fp16", "fp32") if p in gpu.peaks), settings)
    if precision not in gpu.peaks:
        raise UsageError(f"--precision {precision}: the {name} has no such products.", "Leave --precision at auto.")
    return setup, Target(name, "cuda", number, micro_batch.usable(gpu.memory, "cuda", 1), precision, gpu=gpu)


def _shardable(precision: str, settings: TrainSettings) -> str:
    """What a run takes where it would take `precision`, were it not sharded."""
    return "fp32" if precision == "fp16" and settings.shard != "none" else precision
