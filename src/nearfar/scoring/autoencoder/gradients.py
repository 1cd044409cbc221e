"""The loss of a batch and its gradients, without autograd: its bookkeeping takes as long as these small products.

The operations and their order are those of autograd, so the results are the same to the last bit; on a GPU, and
wherever else oneDNN does not compute the products, autograd is used.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.encoders.linear import onednn_product, uses_onednn
from nearfar.scoring.autoencoder.network import Autoencoder


class _Layer(NamedTuple):
    """A linear layer with its batch norm; the ReLU follows."""

    linear: nn.Linear
    norm: nn.BatchNorm1d


class _Pass(NamedTuple):
    """What gradients of a layer need: input, linear output, its mean and inverse deviation, and the output."""

    inputs: Tensor
    linear: Tensor
    mean: Tensor
    inverse_deviation: Tensor
    outputs: Tensor


class LossGradients:
    """Computes the mean squared error of a batch and adds nothing to gradients: it replaces them.

    Args:
        network: in training mode; its running means and variances are updated, as in a forward pass.
    """

    def __init__(self, network: Autoencoder) -> None:
        self._network = network
        modules = [*network.encoder, *network.decoder]
        linear = [module for module in modules if isinstance(module, nn.Linear)]
        norms = [module for module in modules if isinstance(module, nn.BatchNorm1d)]
        *hidden, self._last = linear
        self._layers = [_Layer(*pair) for pair in zip(hidden, norms, strict=True)]

    def __call__(self, batch: Tensor) -> Tensor:
        """The loss of (vectors, 640) float32, a scalar; the gradients are in the parameters' ``grad``."""
        if not uses_onednn(batch, self._last.weight):
            loss = F.mse_loss(self._network(batch), batch)
            self._network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        with torch.no_grad():
            return self._without_autograd(batch)

    def _without_autograd(self, batch: Tensor) -> Tensor:
        passes, x = [], batch
        for layer in self._layers:
            passes.append(_forward(layer, x))
            x = passes[-1].outputs
        reconstruction = onednn_product(x, self._last.weight, self._last.bias)
        loss = F.mse_loss(reconstruction, batch)
        gradient = torch.ops.aten.mse_loss_backward(loss.new_ones(()), reconstruction, batch, 1)  # 1: of the mean
        gradient = _through_linear(self._last, x, gradient)
        for layer, passed in zip(reversed(self._layers), reversed(passes), strict=True):
            gradient = _backward(layer, passed, gradient, is_first=layer is self._layers[0])
        return loss


def _forward(layer: _Layer, x: Tensor) -> _Pass:
    norm = layer.norm
    linear = onednn_product(x, layer.linear.weight, layer.linear.bias)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    out, mean, inverse = torch.native_batch_norm(
        linear, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, norm.momentum or 0.0, norm.eps
    )
    return _Pass(x, linear, mean, inverse, out.relu_())


def _backward(layer: _Layer, passed: _Pass, gradient: Tensor, *, is_first: bool) -> Tensor:
    """The gradient of a layer's input from that of its output; empty for the first layer."""
    norm = layer.norm
    gradient = torch.ops.aten.threshold_backward(gradient, passed.outputs, 0)
    gradient, norm.weight.grad, norm.bias.grad = torch.ops.aten.native_batch_norm_backward(
        gradient,
        passed.linear,
        norm.weight,
        norm.running_mean,
        norm.running_var,
        passed.mean,
        passed.inverse_deviation,
        True,
        norm.eps,
        [True, True, True],
    )
    return _through_linear(layer.linear, passed.inputs, gradient, is_first=is_first)


def _through_linear(linear: nn.Linear, x: Tensor, gradient: Tensor, *, is_first: bool = False) -> Tensor:
    """The gradient of a linear layer's input; those of its parameters are set."""
    linear.weight.grad = onednn_product(gradient.t(), x.t())
    linear.bias.grad = gradient.sum(dim=0)
    return gradient[:0] if is_first else onednn_product(gradient, linear.weight.t())
