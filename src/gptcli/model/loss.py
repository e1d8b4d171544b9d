"""The loss: cross-entropy of the next token, from logits or straight from what the head reads."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # a target that does not count, as torch has it
# The fp32 logits that are held at a time. On 2 cores 512 rows of GPT-2's vocabulary (103 MB) are within 2% of the speed
# of all at once, 256 rows cost 8% and 128 rows 25%.
_CHUNK_BYTES = {"cpu": 128 * 2**20}
_CHUNK_BYTES_ELSEWHERE = 1024 * 2**20  # a device with thousands of units wants more at a time
_ROWS = 256  # chunks are a multiple of so many


class SoftmaxGradient(nn.Module):
    """Cross-entropy of each row and its gradient by the logits. A module, so that it can be compiled as blocks are."""

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """`logits` (N, V), which fp32 ones are computed over, and `targets` (N,), to losses (N,) in fp32 and gradients
        (N, V) in the logits' dtype; both are 0 where the target is ignored."""
        scores = logits.float()
        kept = (targets != IGNORED)[:, None]
        index = targets.clamp(min=0)[:, None]
        of_target = scores.gather(1, index)
        largest, at = scores.max(dim=-1, keepdim=True)
        softmax = torch.softmax(scores, dim=-1, out=scores) if not torch.compiler.is_compiling() else scores.softmax(-1)
        # By the largest probability, which is at least 1/V: that of the target may be too small for fp32.
        logsumexp = largest - softmax.gather(1, at).log()
        losses = torch.where(kept, logsumexp - of_target, 0.0)
        softmax.scatter_add_(1, index, torch.full_like(of_target, -1.0))
        if not torch.compiler.is_compiling() and softmax.device.type == "cpu":
            if not kept.all():
                softmax.masked_fill_(~kept, 0.0)
        else:  # nobody waits for the device to tell
            softmax = softmax.masked_fill_(~kept, 0.0)
        return losses[:, 0], softmax.to(logits.dtype)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softmax_gradient: nn.Module, rows: int | None = None
) -> Tensor:
    """Mean cross-entropy in nats, a scalar in fp32, of `targets` (N,) under the logits `hidden` (N, C) @ `weight`.T
    (V, C), over those that are not ignored. Products are in autocast's dtype where that is on.

    The logits are never held whole: `rows` of them at a time (default: by their size) are made and turned into the
    gradients of `hidden` and `weight`, in the same pass (the idea of Hsu et al. 2024, "Liger Kernel", and of Wijmans et
    al. 2024, "Cut Your Losses"). The gradients wait for the backward pass, which only scales them.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    rows = rows or rows_at_once(weight.shape[0], kind)
    with_gradients = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    arguments = (hidden, weight, targets, softmax_gradient, rows, dtype, with_gradients)
    return cast(Tensor, _LinearCrossEntropy.apply(*arguments))  # type: ignore[no-untyped-call]


def rows_at_once(vocab_size: int, device_type: str) -> int:
    """Tokens whose logits are held at a time."""
    room = _CHUNK_BYTES.get(device_type, _CHUNK_BYTES_ELSEWHERE)
    return max(_ROWS, room // (4 * vocab_size) // _ROWS * _ROWS)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softmax_gradient: nn.Module,
        rows: int,
        dtype: torch.dtype,
        with_gradients: bool,
    ) -> Tensor:
        hidden_grad = torch.empty_like(hidden) if with_gradients else None  # (N, C)
        weight_grad: Tensor | None = None  # (V, C) in fp32
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), weight.to(dtype)
            # One memory for all chunks: freed and asked for anew, it would come to lie beside what is left of it.
            logits = torch.empty(min(rows, len(inputs)), len(matrix), dtype=dtype, device=hidden.device)
            for start in range(0, hidden.shape[0], rows):
                part = inputs[start : start + rows]
                held = logits[: len(part)]
                torch.mm(part, matrix.T, out=held)
                losses, grad = softmax_gradient(held, targets[start : start + rows])
                total += losses.sum()
                if hidden_grad is None:
                    continue
                hidden_grad[start : start + rows] = grad @ matrix
                if weight_grad is None:
                    weight_grad = (grad.T @ part).float()
                elif dtype == torch.float32:
                    weight_grad.addmm_(grad.T, part)
                else:
                    weight_grad += grad.T @ part
                del grad  # or it would lie beside the next logits
        count = (targets != IGNORED).sum()
        if with_gradients:
            # Not saved as tensors to differentiate through: they are the gradients, and are scaled in place.
            ctx.grads, ctx.count, ctx.weight_dtype = (hidden_grad, weight_grad), count, weight.dtype
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / ctx.count
        hidden_grad, weight_grad = ctx.grads
        del ctx.grads  # a second backward pass would find them scaled
        return hidden_grad.mul_(scale), weight_grad.mul_(scale).to(ctx.weight_dtype), None, None, None, None, None
