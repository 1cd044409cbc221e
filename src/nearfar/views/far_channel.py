"""The views of nearfar: both channels, cancellation of far in near, and the difference of their features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nearfar.cancellation import Cancellation, cancel
from nearfar.data.clips import CHANNELS, Channel
from nearfar.errors import InputError
from nearfar.settings import NotNegative, Settings
from nearfar.views.base import View, Waveform

NEAR = View(description="near", channels=("near",), waveform=lambda recorded, _, __: recorded["near"])
FAR = View(description="far", channels=("far",), waveform=lambda recorded, _, __: recorded["far"])

PAIR = View(
    description="near and far as one input",
    channels=CHANNELS,
    waveform=lambda recorded, _, __: np.stack([recorded["near"], recorded["far"]]),
    signals=2,
)
"""(2, samples): near and far, for encoders that read both, such as ``eat-noise-aware``."""


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
    waveform=lambda recorded, settings, rate_hz: cancel(
        recorded["near"], recorded["far"], settings, sample_rate_hz=rate_hz
    ),
    check=require_two_signals,
)


class Residual(Settings):
    """``residual_alpha``: the features of the view ``residual`` are those of near - alpha far."""

    residual_alpha: NotNegative = 0.5


RESIDUAL = View(
    description="near features less {residual_alpha:g} of far features",
    settings=Residual,
    views=("near", "far"),
    combine=lambda features, settings: features["near"] - settings.residual_alpha * features["far"],
)
