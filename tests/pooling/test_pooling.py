"""Attentive statistics pooling against published arrays, a naive loop and its own definition."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nearfar.pooling import (
    POOLINGS,
    TRAINED_POOLINGS,
    AttentiveStatisticsPooling,
    MeanPooling,
    MeanStdPooling,
    RelativeDeviationPooling,
    attentive_statistics,
)
from nearfar.pooling.attentive import VARIANCE_FLOOR


@pytest.fixture
def pooling() -> AttentiveStatisticsPooling:
    torch.manual_seed(0)
    return AttentiveStatisticsPooling(6, attention_dim=4)


def naive(pooling: AttentiveStatisticsPooling, tokens: Tensor) -> Tensor:
    """One clip (tokens, channels), channel by channel and token by token, in float64."""
    first, second = (layer.weight.double() for layer in (pooling.linear1, pooling.linear2))
    first_bias, second_bias = (layer.bias.double() for layer in (pooling.linear1, pooling.linear2))
    means, deviations = [], []
    for channel in range(tokens.shape[1]):
        scores = [
            torch.exp(second[channel] @ torch.tanh(first @ token + first_bias) + second_bias[channel])
            for token in tokens.double()
        ]
        weights = [score / sum(scores) for score in scores]
        values = tokens[:, channel].double()
        mean = sum(weight * value for weight, value in zip(weights, values, strict=True))
        # The other form of the variance, E[h^2] - mu^2.
        square = sum(weight * value**2 for weight, value in zip(weights, values, strict=True))
        means.append(mean)
        deviations.append((square - mean**2).sqrt())
    return torch.stack([*means, *deviations])


@pytest.mark.parametrize(("form", "global_context"), [("plain", False), ("context", True)])
def test_it_equals_the_published_form(golden_arrays: Path, form: str, global_context: bool) -> None:
    arrays = load_file(golden_arrays / "asp_golden.safetensors")
    tokens = arrays["x_BTC"]
    pooling = AttentiveStatisticsPooling(tokens.shape[2], 16, global_context)
    prefix = f"wespeaker_{form}."  # its 1 x 1 convolutions are our linear layers
    pooling.load_state_dict(
        {
            f"{layer}.{kind}": arrays[f"{prefix}{layer}.{kind}"].squeeze(-1)
            for layer in ("linear1", "linear2")
            for kind in ("weight", "bias")
        }
    )
    with torch.no_grad():
        out = pooling(tokens)
    torch.testing.assert_close(out, arrays[f"{prefix}out"], atol=1e-5, rtol=0)
    assert out.shape == (3, pooling.out_features)


@pytest.fixture(params=[False, True], ids=["plain", "context"])
def either(request: pytest.FixtureRequest) -> AttentiveStatisticsPooling:
    torch.manual_seed(0)
    return AttentiveStatisticsPooling(6, 4, request.param)


def test_it_equals_a_naive_loop(pooling: AttentiveStatisticsPooling) -> None:
    tokens = torch.randn(3, 9, 6)
    with torch.no_grad():
        out = pooling(tokens)
        expected = torch.stack([naive(pooling, clip) for clip in tokens])
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=1e-5)
    assert out.shape == (3, 12)


def test_equal_weights_give_the_plain_mean_and_deviation() -> None:
    tokens = torch.randn(2, 50, 3)
    for channels in (1, 3):
        out = attentive_statistics(tokens, torch.full((2, 50, channels), 1 / 50))
        torch.testing.assert_close(out[:, :3], tokens.mean(dim=1))
        torch.testing.assert_close(out[:, 3:], tokens.std(dim=1, correction=0))


def test_the_deviation_is_stable_far_from_zero() -> None:
    tokens = torch.tensor([[[1000.0], [1000.125], [1000.25]]])
    deviation = attentive_statistics(tokens, torch.full((1, 3, 1), 1 / 3))[0, 1]
    assert float(deviation) == pytest.approx(0.10206207, rel=1e-3)  # the form E[h^2] - mu^2 gives 0 in float32


def test_a_mask_is_the_same_as_cutting_the_tokens_off(either: AttentiveStatisticsPooling) -> None:
    tokens = torch.randn(3, 9, 6)
    lengths = [4, 9, 1]
    keep = torch.arange(9) < torch.tensor(lengths)[:, None]
    masked = either(tokens, keep)
    for clip, length, row in zip(tokens, lengths, masked, strict=True):
        torch.testing.assert_close(row, either(clip[None, :length])[0], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(masked[0], either(tokens)[0], atol=1e-2), "without the mask it is another vector"


def test_masked_tokens_neither_count_nor_get_a_gradient(pooling: AttentiveStatisticsPooling) -> None:
    tokens = torch.randn(2, 5, 6)
    keep = torch.tensor([[True, False, True, True, False], [True] * 5])
    other = tokens.clone()
    other[0, [1, 4]] = 1e6
    torch.testing.assert_close(pooling(tokens, keep), pooling(other, keep), atol=0, rtol=0)
    tokens.requires_grad_()
    pooling(tokens, keep).square().sum().backward()
    assert tokens.grad is not None
    assert (tokens.grad[0, [1, 4]] == 0).all()
    assert (tokens.grad[0, [0, 2, 3]] != 0).any(dim=1).all()


def test_the_order_of_the_tokens_does_not_matter_but_that_of_the_channels_does(
    pooling: AttentiveStatisticsPooling,
) -> None:
    tokens = torch.randn(2, 6, 6)  # as many tokens as channels, so that a wrong axis would not fail by shape
    out = pooling(tokens)
    torch.testing.assert_close(pooling(tokens.flip(1)), out, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(pooling(tokens.flip(2)).sort().values, out.sort().values, atol=1e-2)


def test_constant_tokens_have_the_floored_deviation_and_finite_gradients(
    pooling: AttentiveStatisticsPooling,
) -> None:
    tokens = torch.full((2, 7, 6), 0.5, requires_grad=True)
    out = pooling(tokens)
    torch.testing.assert_close(out[:, 6:], torch.full((2, 6), VARIANCE_FLOOR**0.5))
    out.sum().backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in pooling.parameters() if p.grad is not None)


def test_a_single_token_is_its_own_mean(pooling: AttentiveStatisticsPooling) -> None:
    tokens = torch.randn(2, 1, 6)
    torch.testing.assert_close(pooling(tokens)[:, :6], tokens[:, 0])


def test_it_is_float32_inside_autocast(pooling: AttentiveStatisticsPooling) -> None:
    tokens = torch.randn(2, 9, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = pooling(tokens)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, pooling(tokens.float()), atol=0, rtol=0)


@pytest.mark.parametrize(
    "keep",
    [torch.ones(2, 8, dtype=torch.bool), torch.ones(9, dtype=torch.bool), torch.tensor([[True] * 9, [False] * 9])],
    ids=["other length", "one dimension", "a clip without tokens"],
)
def test_a_mask_that_does_not_fit_is_refused(pooling: AttentiveStatisticsPooling, keep: Tensor) -> None:
    with pytest.raises(ValueError, match=r"a mask of \(2, 9\)"):
        pooling(torch.randn(2, 9, 6), keep)


# --- the tables -------------------------------------------------------------------------------------------------


def test_the_table_of_trained_poolings_builds_it_with_its_settings() -> None:
    entry = TRAINED_POOLINGS["asp"]
    built = entry.build(6, entry.settings(attention_dim=5, global_context=True))
    assert isinstance(built, AttentiveStatisticsPooling)
    assert built.linear1.weight.shape == (5, 18)
    assert built.out_features == 12


def relative_deviation_in_a_loop(tokens: Tensor, gamma: float) -> Tensor:
    mean = tokens.mean(dim=0)
    distances = [float((token - mean).norm()) for token in tokens]
    weights = [(1 + distance / max(distances)) ** gamma for distance in distances]
    return sum(weight * token for weight, token in zip(weights, tokens, strict=True)) / sum(weights)


@pytest.mark.parametrize("gamma", [0.0, 2.5])
def test_poolings_without_parameters_pool_each_clip_of_the_table_and_as_modules(gamma: float) -> None:
    tokens = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(4))
    naive = {
        "mean": (lambda clip: clip.mean(dim=0), MeanPooling()),
        "mean-std": (
            lambda clip: torch.cat([clip.mean(dim=0), clip.var(dim=0, correction=0).sqrt()]),
            MeanStdPooling(),
        ),
        "rdp": (lambda clip: relative_deviation_in_a_loop(clip, gamma), RelativeDeviationPooling(gamma)),
    }
    assert {name for name, entry in POOLINGS.items() if entry.pool is not None} == set(naive)
    for name, (function, module) in naive.items():
        entry = POOLINGS[name]
        settings = entry.settings(rdp_gamma=gamma) if name == "rdp" else entry.settings()
        pooled = entry.pool(tokens, settings)
        expected = torch.stack([torch.stack([function(clip) for clip in clips]) for clips in tokens])
        torch.testing.assert_close(pooled, expected)
        torch.testing.assert_close(module(tokens), expected)


def test_relative_deviation_pooling_refuses_a_negative_gamma() -> None:
    with pytest.raises(ValueError, match="gamma of at least 0"):
        RelativeDeviationPooling(-0.1)
