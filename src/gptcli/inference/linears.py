"""Ways to multiply by a matrix that is held in 32, 16 or 8 bits. What goes in and comes out is fp32.

Generation reads every weight for every token, so it is the memory that sets its pace: fewer bytes are fewer
milliseconds, and of two kernels the one that reads faster wins. Which that is depends on the processor;
`kernel_choice.py` measures it.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptcli.model.network import Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

_FEW_ROWS = 4  # up to so many rows torch's int8 kernel for the CPU is the fastest way (measured: 1 to 64 rows, AVX-512)
_ONEDNN_ROWS = 64  # up to so many rows memory sets the pace
_PART = 8192  # rows of a matrix packed by itself: FBGEMM packs larger ones several times slower


Way = type[nn.Module]  # a layer that holds a matrix in some way, made from the linear layer that it replaces


class PlainLinear(Linear):
    """The layer as the network has it: fp32, by the BLAS library that torch was built with."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias


class OneDnnLinear(PlainLinear):
    """fp32 by oneDNN where no gradients are asked for: on AMD's processors it reads half as fast again."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not x.numel():
            return super().forward(x)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out


class FewRowsOneDnnLinear(OneDnnLinear):
    """The same where there are few rows, with many by the BLAS library."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > _ONEDNN_ROWS * self.in_features:
            return PlainLinear.forward(self, x)
        return super().forward(x)


class Bf16Linear(nn.Module):
    """bf16 weights and activations, multiplied by whatever torch has for the device."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", linear.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias", _bias(linear))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(torch.bfloat16), self.weight).float()
        return y if self.bias is None else y + self.bias


class HalfLinear(nn.Module):
    """Weights rounded to bf16 and packed as fp16 by FBGEMM, which multiplies them by fp32 activations in fp32.

    fp16 holds every bf16 number from 6e-5 to 65,504 exactly and smaller ones to 3e-8.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().to(torch.bfloat16).float()
        bias = _bias(linear)
        self.parts = [
            torch.ops.quantized.linear_prepack_fp16(part, None if bias is None else bias[at : at + _PART])
            for part, at in zip(torch.split(weight, _PART), range(0, len(weight), _PART), strict=True)
        ]

    def forward(self, x: Tensor) -> Tensor:
        outs = [torch.ops.quantized.linear_dynamic_fp16(x, part) for part in self.parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` (out, in) as int8 and a scale (out, 1) in fp32, symmetric about zero: weight ≈ int8 · scale."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight.float() / scale).round_().clamp_(-127, 127).to(torch.int8), scale


class Quantized(nn.Linear):
    """A linear layer that is still to be held in int8, whose rounding is known already: `weight` is int8 (out, in),
    `scale` (out, 1)."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, linear: nn.Linear) -> Quantized:
        """The same layer, rounded."""
        if isinstance(linear, Quantized):
            return linear
        return cls(*quantize(linear.weight.detach()), _bias(linear))


def _quantized(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    rounded = Quantized.of(linear)
    return rounded.weight, rounded.get_buffer("scale")


class Int8Linear(nn.Module):
    """int8 weights, multiplied as they are by activations in `compute`; the rows' scales come after."""

    bits = 8
    compute = torch.bfloat16

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        weight, scale = _quantized(linear)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", _bias(linear))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self.compute)  # (N, in)
        if rows.device.type != "cpu":
            product = rows @ self.weight.to(self.compute).T
        elif len(rows) <= _FEW_ROWS:
            # The kernel wants scales in the activations' dtype; in bf16 they would lose what int8 has kept.
            ones = torch.ones(len(self.weight), dtype=self.compute)
            product = torch._weight_int8pack_mm(rows, self.weight, ones)
        else:  # the same arithmetic: int8 is exact in fp32, and the result is rounded as the kernel does
            product = (rows.float() @ self.weight.float().T).to(self.compute)
        y = product.float() * self.scale[:, 0]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


class Int8Head(Int8Linear):
    """The same with fp32 activations: logits lie between -30 and -100, where bf16 has steps of 1/8 to 1/2."""

    compute = torch.float32


class PackedInt8Linear(Int8Linear):
    """The same by torch's int8 kernel for any number of rows, where the device has one."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self.compute)  # (N, in)
        ones = torch.ones(len(self.weight), dtype=self.compute, device=rows.device)
        y = torch._weight_int8pack_mm(rows, self.weight, ones).float() * self.scale[:, 0]
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)


class SplitInt8Linear(nn.Module):
    """int8 weights packed by FBGEMM, whose kernels multiply them by activations of 7 bits at the memory's full speed.

    7 bits would be too few, so a row of activations goes in twice: rounded, and what rounding has left over, 126 times
    as large. Together that is 13 bits of each row's own largest number, and the second row costs nothing while memory
    sets the pace.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantized(linear)
        with packing():
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            packable = torch._make_per_channel_quantized_tensor(weight, scale[:, 0].double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(packable, None)
        self.bias: Tensor | None
        self.register_buffer("bias", _bias(linear))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        step = rows.abs().amax(dim=-1, keepdim=True).mul_(1 / 63).clamp_min_(1e-30)  # (N, 1)
        both = rows.new_empty(2, *rows.shape)
        scaled = torch.div(rows, step, out=both[0])
        torch.sub(scaled, scaled.round(), out=both[1]).mul_(126)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(both, 1.0, 64, self.packed)
        y = torch.add(y[0], y[1], alpha=1 / 126).mul_(step)
        y = y if self.bias is None else y.add_(self.bias)
        return y.view(*x.shape[:-1], -1)


@contextmanager
def packing() -> Iterator[None]:
    """Pack by FBGEMM, and be quiet about the tensor type that it is given the weights in being on its way out of torch:
    a torch without it has other ways. Both are settings of the whole process, so that whoever packs in several threads
    enters this around them; within it, it does nothing."""
    engine = torch.backends.quantized.engine
    if engine == "fbgemm" or "fbgemm" not in torch.backends.quantized.supported_engines:
        yield
        return
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.quantized.engine = engine


def _bias(linear: nn.Linear) -> Tensor | None:
    return None if linear.bias is None else linear.bias.detach().float()
