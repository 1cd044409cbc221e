"""Linear layers whose float32 products on a CPU are computed by oneDNN.

``torch.nn.functional.linear`` passes float32 products to MKL, which uses only its AVX2 kernels on processors that
are not Intel's; oneDNN, which torch also contains, uses AVX-512 on all that have it. On an AMD EPYC (Zen 5) that
is twice the rate, forwards and backwards. On other devices and in other number types nothing changes.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

HAS_ONEDNN: bool = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""The operator is the one that torch's own compiler emits; it has no public name, so its presence is checked."""


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product: float32 on a CPU, not traced, compiled or in autocast."""
    return (
        HAS_ONEDNN
        and bool(torch.backends.mkldnn.enabled)
        and torch._C._get_tracing_state() is None
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
    )


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of x (..., in) and weight (out, in), without a gradient."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))


class _Product(torch.autograd.Function):
    """:func:`onednn_product` with its gradient, which is two more such products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, weight.shape[0])
        return (
            onednn_product(gradient, weight.t()) if needs_x else None,
            onednn_product(rows.t(), x.reshape(-1, weight.shape[1]).t()) if needs_weight else None,
            rows.sum(dim=0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, faster on many CPUs; the same parameters, names and (within rounding) results."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features)."""
        if not uses_onednn(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        return cast(Tensor, _Product.apply(x, self.weight, self.bias))  # type: ignore[no-untyped-call]
