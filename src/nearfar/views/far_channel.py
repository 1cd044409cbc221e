"""The views of nearfar: both channels, cancellation of far in near, and the difference of their features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from nearfar.cancellation import Cancellation, cancel
from nearfar.data.clips import CHANNELS, Channel
from nearfar.errors import InputError
from nearfar.settings import NotNegative, Settings
from nearfar.views.base import View, Waveform

NEAR = View(description="near", channels=("near",), waveform=lambda recorded, _, __: recorded["near"])
FAR = View(description="far", channels=("far",), waveform=lambda recorded, _, __: recorded["far"])


def _cancelled(recorded: Mapping[Channel, Waveform], settings: Cancellation, sample_rate_hz: int) -> Waveform:
    return cancel(recorded["near"], recorded["far"], settings, sample_rate_hz=sample_rate_hz)


def require_two_signals(recorded: Mapping[Channel, Waveform], settings: Settings, recording: str) -> None:
    """Raise an InputError if both channels have the same signal: cancellation would return silence."""
    if np.array_equal(recorded["near"], recorded["far"]):
        raise InputError(
            recording,
            found="the same signal in the near and the far channel",
            expected="recordings of two microphones, of which one is cancelled in the other",
            remedy="Check how it was recorded, or use a recipe that scores near only, such as frozen-near",
        )


CANCELLED = View(
    description="near without what far predicts of it",
    settings=Cancellation,
    table="cancellation",
    channels=CHANNELS,
    waveform=_cancelled,
    check=require_two_signals,
)


class Residual(Settings):
    """``residual_alpha``: the features of the view ``residual`` are those of near - alpha far."""

    residual_alpha: NotNegative = 0.5


def _residual(features: Mapping[str, Tensor], settings: Residual) -> Tensor:
    return features["near"] - settings.residual_alpha * features["far"]


RESIDUAL = View(
    description="near features less {residual_alpha:g} of far features",
    settings=Residual,
    views=("near", "far"),
    combine=_residual,
)
