"""Linear layers in 8-bit integers: weights by output channel, inputs by token, sums in 32-bit integers.

Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022, section 2.1
(vector-wise quantisation), without its separate treatment of outlier dimensions.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

HIGHEST = 127
"""Weights and inputs are rounded to -127 ... 127 times a scale of their own."""

_OFFSET = 128
"""Added to rounded inputs, as oneDNN's fastest products take one operand without a sign."""

HAS_INTEGER_PRODUCTS: bool = (
    torch._C._has_mkldnn
    and hasattr(torch.ops.onednn, "qlinear_pointwise")
    and bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
)
"""Whether integer products are faster here: on x86 processors with VNNI. Others may also clip the sums."""

Module = TypeVar("Module", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer whose weights, and at run time inputs, are rounded to 8 bits; for inference only.

    On processors without fast integer products and on other devices, the same rounded values are multiplied in
    float32: the results are the same within rounding of the sums, but not faster.

    Args:
        linear: the layer to round; its weights are copied, its bias is kept.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / HIGHEST
        self.register_buffer("scale", scale)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self._packed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) float. Returns (..., out_features) float32."""
        rows = x.reshape(-1, self.in_features).float()
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / HIGHEST
        if HAS_INTEGER_PRODUCTS and x.device.type == "cpu":
            sums = self._integer_sums(rows, scale)
        else:
            sums = (rounded(rows, scale).float() - _OFFSET) @ self.weight.float().T * self.scale
        out = sums.mul_(scale) if self.bias is None else sums.mul_(scale).add_(self.bias)
        return out.reshape(*x.shape[:-1], self.out_features)

    def _integer_sums(self, rows: Tensor, scale: Tensor) -> Tensor:
        """(rows, out_features) float32: products of rounded inputs and weights, times the weights' scales."""
        if self._packed is None:
            packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
            self._packed = packed, torch.zeros(self.out_features, dtype=torch.int64)
        packed, zeros = self._packed
        inputs = rounded(rows, scale), 1.0, _OFFSET
        after: Any = None, 1.0, 0, torch.float32, "none", (), "none"  # no bias, plain sums, nothing after them
        sums = torch.ops.onednn.qlinear_pointwise(*inputs, packed, self.scale, zeros, *after)
        return cast(Tensor, sums)


def rounded(rows: Tensor, scale: Tensor) -> Tensor:
    """``rows / scale`` rounded to whole numbers, plus 128, (rows, features) uint8; halves are rounded up."""
    return (rows / scale).add_(_OFFSET + 0.5).to(torch.uint8)  # the conversion drops the fraction


def quantised(network: Module) -> Module:
    """A copy of a network with an :class:`Int8Linear` in place of every linear layer."""
    return cast(Module, _replaced(deepcopy(network)))


def _replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Linear):
        return Int8Linear(module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child))
    return module
