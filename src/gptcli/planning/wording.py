"""A plan in words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from gptcli.distributed.machine_memory import GIB
from gptcli.planning.duration import UTILISATION
from gptcli.training.setup import Setup, describe

if TYPE_CHECKING:
    from gptcli.planning.planner import Plan


def facts_of(plan: Plan, setup: Setup, named: bool) -> dict[str, str]:
    """What to show of it, in this order; `named` says that it is for a device that is not here."""
    parts = ", ".join(f"{part} {count:,}" for part, count in plan.parameters_by_part.items())
    return {
        **describe(setup, plan.parameters, plan.processes),
        "Parameters": parts,
        "Device": f"{plan.processes} × {plan.device}, {plan.precision}",
        "Memory": _memory(plan),
        **({} if plan.fits else {"Fits": _remedies(plan)}),
        "Arithmetic": f"{plan.flops:.3g} FLOPs, {plan.flops_per_token:.3g} for each token",
        **({"Exchange": _exchange(plan)} if plan.processes > 1 else {}),
        "Time": _time(plan, named),
        **({"Note": "; ".join(setup.notes)} if setup.notes else {}),
    }


def _memory(plan: Plan) -> str:
    kinds = {
        "weights": plan.weight_bytes,
        "gradients": plan.gradient_bytes,
        "optimiser": plan.optimizer_bytes,
        "activations": plan.activation_bytes,
        "logits and the head's gradient": plan.logit_bytes,
        "buffers": plan.buffer_bytes,
    }
    told = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in kinds.items())
    peak, usable = plan.peak_memory_bytes / GIB, plan.usable_memory_bytes / GIB
    return f"{peak:.2f} of {usable:.2f} GiB at most for each process: {told}"


def _remedies(plan: Plan) -> str:
    if not plan.remedies:
        return "no, and no option would make it; take a smaller model or more GPUs"
    return f"no; it would with {', or with '.join(plan.remedies)}"


def _exchange(plan: Plan) -> str:
    return f"{plan.communication_bytes_per_step / GIB:.3g} GiB sent by each process in a step"


def _time(plan: Plan, named: bool) -> str:
    if plan.seconds is None or plan.seconds_per_step is None or plan.tokens_per_second is None:
        return "not told, since it does not fit"
    source = (
        f"if it reaches {UTILISATION:.0%} of the peak that its data sheet tells"
        if named
        else "by a short probe, uncompiled"
    )
    return (
        f"{timedelta(seconds=max(1, round(plan.seconds)))} for all steps, {plan.seconds_per_step:.3g} s each, "
        f"{plan.tokens_per_second:,.0f} tokens/s, {source}"
    )
