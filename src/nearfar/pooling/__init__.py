"""Pooling of tokens or frames over time: trained poolings of the head, and poolings without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from nearfar.pooling.attentive import AttentiveStatisticsPooling, attentive_statistics
from nearfar.pooling.statistics import (
    MeanPooling,
    MeanStdPooling,
    RelativeDeviationPooling,
    log_mel_statistics,
    mean_pooling,
    mean_std_pooling,
    relative_deviation_pooling,
)
from nearfar.registry import Entry, Registry
from nearfar.settings import NotNegative, PositiveInt, Settings

__all__ = [
    "POOLINGS", "TRAINED_POOLINGS", "AttentiveStatisticsPooling", "AttentiveStatisticsSettings", "MeanPooling",
    "MeanStdPooling", "Pooling", "RelativeDeviationPooling", "RelativeDeviationSettings", "TrainedPooling",
    "attentive_statistics", "log_mel_statistics", "mean_pooling", "mean_std_pooling",
    "relative_deviation_pooling",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainedPooling(Entry):
    """A pooling with parameters, trained together with the encoder.

    Attributes:
        build: from the width of a token and the settings to a module with an attribute ``out_features`` and
            ``forward(tokens, keep=None)``: tokens (batch, tokens, channels), keep (batch, tokens) bool or None, to
            (batch, out_features) float32.
    """

    build: Callable[[int, Any], nn.Module]


class AttentiveStatisticsSettings(Settings):
    """Settings of attentive statistics pooling."""

    attention_dim: PositiveInt = 128
    """Width of the bottleneck."""
    global_context: bool = False
    """Append mean and deviation of all tokens to the input of the attention."""


TRAINED_POOLINGS: Registry[TrainedPooling] = Registry("trained pooling")
TRAINED_POOLINGS["asp"] = TrainedPooling(
    build=lambda channels, chosen: AttentiveStatisticsPooling(
        channels, chosen.attention_dim, chosen.global_context
    ),
    settings=AttentiveStatisticsSettings,
    description="attentive statistics pooling",
)


@dataclass(frozen=True, kw_only=True)
class Pooling(Entry):
    """A pooling of an encoder's tokens to features.

    Attributes:
        pool: from tokens (..., tokens, dim) and the settings to (..., dim'); None if ``trained`` or for the CLS
            token.
        tokens: the tokens that are pooled.
        within_bands: whether the tokens of each frequency band can be pooled separately.
        trained: whether this is the pooling of the trained head.
    """

    pool: Callable[[Tensor, Any], Tensor] | None = None
    tokens: Literal["patches", "cls"] = "patches"
    within_bands: bool = True
    trained: bool = False


class RelativeDeviationSettings(Settings):
    """Settings of relative deviation pooling."""

    rdp_gamma: NotNegative = 4.0
    """0 is the mean; larger values give more weight to tokens far from the mean."""


POOLINGS: Registry[Pooling] = Registry("pooling")
POOLINGS["mean"] = Pooling(pool=lambda tokens, _: mean_pooling(tokens), description="mean over tokens")
POOLINGS["mean-std"] = Pooling(
    pool=lambda tokens, _: mean_std_pooling(tokens), description="mean and deviation over tokens"
)
POOLINGS["rdp"] = Pooling(
    pool=lambda tokens, chosen: relative_deviation_pooling(tokens, chosen.rdp_gamma),
    settings=RelativeDeviationSettings,
    description="relative deviation pooling of tokens",
)
POOLINGS["cls"] = Pooling(tokens="cls", within_bands=False, description="CLS token")
POOLINGS["asp"] = Pooling(trained=True, within_bands=False, description="attentive statistics pooling")
