"""Noise-aware layers: the identity at the start, the arithmetic against torch's own modules, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.config import load_recipe
from nearfar.encoders import ENCODERS, encoder_hash
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.encoders.noise_aware import (
    LAYERS_WEIGHTS,
    LayerSizes,
    NoiseAwareEAT,
    NoiseAwareLayer,
    load_noise_aware,
    save_noise_aware,
)
from nearfar.errors import InputError

SMALL = EATConfig(embed_dim=32, depth=3, num_heads=2)


def small_encoder(seed: int | None = None) -> NoiseAwareEAT:
    """The layers of a new encoder have no effect; with a seed all their weights are random."""
    encoder = NoiseAwareEAT(build_encoder(SMALL, seed=1), LayerSizes(heads=4))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in encoder.layers.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return encoder.eval()


@pytest.fixture
def pairs() -> Tensor:
    return torch.randn(2, 2, 48, 128, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_at_the_start_the_tokens_are_those_of_the_encoder_on_near_alone(pairs: Tensor) -> None:
    encoder = small_encoder()
    found, expected = encoder.encode(pairs, [1, 2, 3]), encoder.encoder.encode(pairs[:, :1], [1, 2, 3])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@torch.no_grad()
def test_a_layer_is_what_the_modules_of_torch_compute() -> None:
    dim, heads = 32, 4
    layer = NoiseAwareLayer(dim, LayerSizes(heads=heads)).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    x, far = torch.randn(2, 5, dim), torch.randn(2, 5, dim)
    attention = nn.MultiheadAttention(dim, heads, batch_first=True).eval()
    attention.in_proj_weight.copy_(torch.cat([layer.attn.query.weight, layer.attn.key_value.weight]))
    attention.in_proj_bias.copy_(torch.cat([layer.attn.query.bias, layer.attn.key_value.bias]))
    attention.out_proj.load_state_dict(layer.attn.proj.state_dict())

    def rms_norm(values: Tensor, norm: nn.RMSNorm) -> Tensor:
        return (
            values
            / (values.square().mean(dim=-1, keepdim=True) + torch.finfo(values.dtype).eps).sqrt()
            * norm.weight
        )

    near, other = rms_norm(x, layer.near_norm), rms_norm(far, layer.far_norm)
    middle = x + attention(near, other, other)[0]
    normed, mlp = rms_norm(middle, layer.mlp_norm), layer.mlp
    gate_weight, value_weight = mlp.gate_value.weight.chunk(2)
    gate_bias, value_bias = mlp.gate_value.bias.chunk(2)
    gated = F.silu(F.linear(normed, gate_weight, gate_bias)) * F.linear(normed, value_weight, value_bias)
    expected = middle + F.linear(gated, mlp.proj.weight, mlp.proj.bias)
    torch.testing.assert_close(layer(x, far), expected, rtol=1e-4, atol=1e-5)
    assert mlp.gate_value.out_features == 2 * 3 * dim


@torch.no_grad()
def test_far_passes_the_blocks_of_the_encoder_alone(pairs: Tensor) -> None:
    encoder = small_encoder(seed=5)
    near, far = encoder.encoder.embed(pairs[:, :1]), encoder.encoder.embed(pairs[:, 1:])
    for block, layer in zip(encoder.encoder.blocks, encoder.layers, strict=True):
        far = block(far)
        near = layer(block(near), far)
    (found,) = encoder.encode(pairs)
    torch.testing.assert_close(found.patches, near[:, 1:])
    changed = torch.stack([pairs[:, 0], pairs[:, 1] + 1], dim=1)
    assert float((encoder.encode(changed)[0].patches - found.patches).abs().max()) > 0.01


@torch.no_grad()
def test_masked_padding_does_not_change_the_tokens_of_the_clip(pairs: Tensor) -> None:
    encoder = small_encoder(seed=6)
    padded = F.pad(pairs, (0, 0, 0, 32), value=0.7)
    keep = torch.arange(5 * 8) < 3 * 8
    (found,) = encoder.encode(padded, token_keep=keep.expand(2, -1))
    (expected,) = encoder.encode(pairs)
    torch.testing.assert_close(found.patches[:, : 3 * 8], expected.patches, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 48, 128), (2, 3, 48, 128), (2, 48, 128)])
def test_anything_but_pairs_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected pairs"):
        small_encoder().encode(torch.zeros(shape))


def test_the_heads_divide_the_width() -> None:
    with pytest.raises(InputError, match="5 heads for an encoder of width 32"):
        NoiseAwareEAT(EAT(SMALL), LayerSizes(heads=5))


@torch.no_grad()
def test_files_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    encoder = small_encoder(seed=7)
    save_noise_aware(encoder, tmp_path)
    found = load_noise_aware(str(tmp_path))
    assert encoder_hash(found) == encoder_hash(encoder)
    assert found.config == encoder.config
    assert not found.training
    save_noise_aware(encoder, tmp_path / "compact", compact=True)
    rounded = load_noise_aware(str(tmp_path / "compact"))
    worst = max(
        float((a - b).abs().max()) for a, b in zip(rounded.parameters(), encoder.parameters(), strict=True)
    )
    assert 0 < worst < 1e-3


def test_a_plain_encoder_has_layers_without_effect() -> None:
    encoder = ENCODERS["eat-noise-aware"].load("random:tiny:4", None)
    assert isinstance(encoder, NoiseAwareEAT)
    assert not any(layer.attn.proj.weight.any() or layer.mlp.proj.weight.any() for layer in encoder.layers)


def test_damaged_layers_are_refused_by_name(tmp_path: Path) -> None:
    save_noise_aware(small_encoder(), tmp_path)
    path = tmp_path / LAYERS_WEIGHTS
    tensors, content = load_file(path), path.read_bytes()
    for wrong, message in (
        ({key: tensor for key, tensor in tensors.items() if key != "0.attn.proj.weight"}, "1 tensors missing"),
        ({**tensors, "0.attn.proj.weight": torch.zeros(3, 3)}, "another shape"),
        ({**tensors, "0.attn.proj.weight": tensors["0.attn.proj.weight"] + torch.nan}, "not finite"),
    ):
        save_file(wrong, path)
        with pytest.raises(InputError, match=message) as error:
            load_noise_aware(str(tmp_path))
        assert str(tmp_path) in str(error.value)
    path.write_bytes(content[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load_noise_aware(str(tmp_path))
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_noise_aware(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder.family": "eat-noise-aware"}, "expected pair, as encoder.family = 'eat-noise-aware'"),
        ({"scoring.views": ["pair"]}, "needs views of 1 signal"),
        (
            {"scoring.views": ["pair"], "features.source": "log-mel"},
            "this source of features needs views of 1 signal",
        ),
    ],
)
def test_views_and_encoder_fit_each_other(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("frozen-eat").with_changes(**changes)


def test_trained_views_fit_the_encoder() -> None:
    with pytest.raises(InputError, match=r"training\.views"):
        load_recipe("tiny-noise-aware").with_changes(**{"training.views": ["near", "far"]})
