"""oneDNN's products against float64 ones, and everything they must leave to torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nearfar.encoders import linear
from nearfar.encoders.linear import Linear, uses_onednn


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer() -> Linear:
    layer = Linear(48, 36)
    with torch.no_grad():
        layer.weight.copy_(random(36, 48, seed=1))
        layer.bias.copy_(random(36, seed=2))
    return layer


needs_onednn = pytest.mark.skipif(not linear.HAS_ONEDNN, reason="this torch comes without oneDNN")


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (2, 9, 48), (2, 1, 3, 48)])
def test_values_and_gradients_equal_a_float64_product(layer, shape):
    x = random(*shape, seed=3).requires_grad_()
    toward = random(*shape[:-1], 36, seed=4)
    out = layer(x)
    (out * toward).sum().backward()
    weight, rows, given = (
        layer.weight.double(),
        x.detach().double().reshape(-1, 48),
        toward.double().reshape(-1, 36),
    )
    assert out.shape == (*shape[:-1], 36)
    close = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(out.double().reshape(-1, 36), rows @ weight.T + layer.bias.double(), **close)
    torch.testing.assert_close(x.grad.double().reshape(-1, 48), given @ weight, **close)
    torch.testing.assert_close(layer.weight.grad.double(), given.T @ rows, **close)
    torch.testing.assert_close(layer.bias.grad.double(), given.sum(0), **close)


@needs_onednn
def test_onednn_makes_the_product_in_training_and_inference(layer, monkeypatch):
    calls = []
    product = linear.onednn_product
    monkeypatch.setattr(linear, "onednn_product", lambda *a: calls.append(len(a)) or product(*a))
    x = random(5, 48).requires_grad_()
    layer(x).sum().backward()
    assert len(calls) == 3
    with torch.inference_mode():
        layer(x)
    assert len(calls) == 4
    layer.requires_grad_(False)  # as under LoRA: only the gradient of the input is made
    layer(x).sum().backward()
    assert len(calls) == 6


def test_transposed_and_strided_inputs_give_the_same(layer):
    wide = random(6, 5, 96, seed=5)
    for x in (wide[..., ::2], wide[..., :48], wide[:, :, :48].transpose(0, 1)):
        torch.testing.assert_close(layer(x), nn.functional.linear(x.contiguous(), layer.weight, layer.bias))


def test_no_bias():
    layer = Linear(8, 4, bias=False)
    x = random(3, 8).requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(layer(x), x @ layer.weight.T)
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))


def test_everything_else_is_left_to_torch(layer, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("oneDNN was called")

    monkeypatch.setattr(linear, "onednn_product", refuse)
    x = random(2, 48)
    assert layer(x[:0]).shape == (0, 36)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch._C._set_mkldnn_enabled(False)
    try:
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert torch.jit.trace(layer, x, check_trace=False)(x).shape == (2, 36)
    exported = torch.export.export(layer, (x,))
    assert "mkldnn" not in str(exported.graph)
    for dtype in (torch.float64, torch.bfloat16):
        assert layer.to(dtype)(x.to(dtype)).dtype == dtype
    with torch.device("meta"):
        assert Linear(48, 36)(torch.empty(2, 48)).shape == (2, 36)


def test_a_wrong_width_is_an_error(layer):
    with pytest.raises(RuntimeError):
        layer(random(2, 47))


def test_a_linear_layer_is_still_torchs():
    layer, plain = Linear(3, 2), nn.Linear(3, 2)
    assert isinstance(layer, nn.Linear)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert uses_onednn(random(1, 3), layer.weight) == linear.HAS_ONEDNN
