"""What `auto` means for a model's weights: the fastest of fp32, bf16 and int8 that costs next to no loss.

It is decided by measuring, once for each model and device, and remembered in the user's cache; a model for which
nothing has been decided is held in fp32.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from gptcli.data.durable import temporary_name, write_json
from gptcli.distributed.runtime import cache_dir
from gptcli.inference.engine import Engine
from gptcli.inference.held_weights import hold_weights, quantize_model, read_quantized, write_quantized
from gptcli.inference.kernel_choice import hardware
from gptcli.inference.requests import Request
from gptcli.model.huggingface import read_model, read_shape
from gptcli.model.network import GPT

CANDIDATES = ("fp32", "bf16", "int8")
LARGEST_LOSS = 1.005  # times the loss in fp32
_FILES_KEPT = 4  # int8 copies of models in the cache, those used last
_BLOCKS, _BLOCK = 64, 4096  # of each file of weights, for its fingerprint
_NEW_TOKENS, _TURNS = 24, 3  # of a measurement of speed


@dataclass(frozen=True)
class Decision:
    """The weights that were chosen, and why: the loss in nats per token and the tokens a second of each candidate."""

    weights: str
    loss: Mapping[str, float]
    tokens_per_second: Mapping[str, float]


def pick(loss: Mapping[str, float], tokens_per_second: Mapping[str, float]) -> str:
    """The fastest whose loss is at most 0.5% above that of fp32."""
    near = [name for name in loss if loss[name] <= LARGEST_LOSS * loss["fp32"] or name == "fp32"]
    return max(near, key=tokens_per_second.__getitem__)


def decode_speeds(models: Mapping[str, GPT]) -> dict[str, float]:
    """Tokens a second of one text after its first token, the median of some turns."""
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(_TURNS + 1):
        for name, model in models.items():
            on_cuda = model.device.type == "cuda"
            engine = Engine(
                model, vocab_size=model.config.vocab_size, rows=1, longest=2 * _NEW_TOKENS, fixed_shapes=on_cuda
            )
            engine.add([0] * min(8, model.config.context_length), Request(_NEW_TOKENS, seed=0))
            engine.step()
            began = time.perf_counter()
            while engine.busy:
                engine.step()
            if turn:  # the first warms up
                speeds[name].append((_NEW_TOKENS - 1) / (time.perf_counter() - began))
    return {name: statistics.median(of_name) for name, of_name in speeds.items()}


def decide(folder: Path, device: torch.device, loss_of: Callable[[GPT, str], float]) -> Decision:
    """Measure the model in `folder` in each way, remember the choice and return it. `loss_of` tells the loss of a model
    that is held as the name says. Raises UserError where the model can't be read."""
    models = {}
    loss = {}
    for name in CANDIDATES:
        models[name] = read_model(folder).to(device)
        hold_weights(models[name], name)
        loss[name] = loss_of(models[name], name)
    speeds = decode_speeds(models)
    decision = Decision(pick(loss, speeds), loss, speeds)
    with contextlib.suppress(OSError):  # a home that can't be written to: decided for this once
        remember(folder, device, decision)
    return decision


def decided(folder: Path, device: torch.device) -> Decision | None:
    """What was decided for the model in `folder` on `device`; None where nothing was."""
    try:
        told = json.loads(_decision_file(folder, device).read_text(encoding="utf-8"))
        decision = Decision(told["weights"], told["loss"], told["tokens_per_second"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return decision if decision.weights in CANDIDATES else None


def read_held(folder: Path, weights: str, device: torch.device) -> tuple[GPT, str]:
    """The network in `folder` on `device`, its weights held as `weights` says, and what that is where it is "auto".
    Raises UserError where it can't be read."""
    if weights == "auto":
        decision = decided(folder, device)
        weights = decision.weights if decision else "fp32"
        if weights == "int8" and (model := _read_copy(folder)):
            hold_weights(model.to(device), weights)
            return model, weights
    model = read_model(folder).to(device)  # first: each device has ways of its own
    hold_weights(model, weights)
    return model, weights


def _read_copy(folder: Path) -> GPT | None:
    """The model from its int8 copy in the cache, which is smaller to read and rounded already."""
    file = _copy_file(folder)
    try:
        model = read_quantized(read_shape(folder), file)
        file.touch()
    except (OSError, KeyError, SafetensorError):
        return None
    return model


def remember(folder: Path, device: torch.device, decision: Decision) -> None:
    """Let `auto` be what `decision` says for the model in `folder` on `device`. Raises OSError."""
    _home().mkdir(parents=True, exist_ok=True)
    write_json(_decision_file(folder, device), asdict(decision))
    if decision.weights != "int8":
        return
    model = read_model(folder)
    quantize_model(model)
    file = _copy_file(folder)
    partial = temporary_name(file)
    try:
        write_quantized(model, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    copies = sorted(_home().glob("*.int8.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in copies[_FILES_KEPT:]:
        old.unlink(missing_ok=True)


def _home() -> Path:
    return cache_dir() / "weights"


def _decision_file(folder: Path, device: torch.device) -> Path:
    place = hashlib.sha256(hardware(device).encode()).hexdigest()[:12]
    return _home() / f"{_fingerprint(folder)}.{place}.json"


def _copy_file(folder: Path) -> Path:
    return _home() / f"{_fingerprint(folder)}.int8.safetensors"


def _fingerprint(folder: Path) -> str:
    """Of a model's weights, by the time and some blocks of their files: to read all of them would take longer than to
    load them."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} {path.stat().st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            for i in range(_BLOCKS):
                file.seek(max(0, size - _BLOCK) * i // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:32]
