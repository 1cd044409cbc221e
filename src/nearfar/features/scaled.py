"""Statistics of a log-mel spectrogram of the waveform at unit RMS, with the level beside them.

Kaldi's front end clamps mel energies to float32's epsilon. In quiet recordings this floor changes the spectrum; at
unit RMS it lies about 90 dB below the signal whatever the level was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.explain.dimensions import DECIBELS, Dimensions, Group, Quantity, of_log_mel
from nearfar.features.sources import EncoderParts, Source
from nearfar.features.windows import WindowBatch
from nearfar.frontends.kaldi import HIGH_HZ, LOW_HZ, MEL_BINS, mel_centres_hz
from nearfar.pooling import log_mel_statistics
from nearfar.settings import PositiveFloat, PositiveInt, Settings


class ScaledLogMelSettings(Settings):
    """Level and log-mel statistics of a window: (1 + statistics) parts of 128 mel bins.

    The first part holds the natural logarithm of the window's variance in its first element, and zeros. The
    others are the mean over time, without its mean over bins, and the deviations of differences (``lags``), as
    :func:`nearfar.pooling.log_mel_statistics` computes them at unit RMS.

    Attributes:
        lags: differences over this many frames (10 ms); if empty, the deviation of the values themselves.
        highest_hz: mel bins centred at or above this frequency are zero: near half the sample rate, recorders and
            resampling filters differ.
    """

    lags: tuple[PositiveInt, ...] = ()
    highest_hz: PositiveFloat = 7_200.0


def _scaled_log_mel(
    batch: WindowBatch, parts: EncoderParts, wanted: Sequence[ScaledLogMelSettings]
) -> list[Tensor]:
    log_mels, powers = batch.scaled_log_mels()
    out = []
    for settings in wanted:
        kept = int((mel_centres_hz() < settings.highest_hz).sum())
        rows = []
        for log_mel, level in zip(log_mels, powers.log().float(), strict=True):
            statistics = log_mel_statistics(log_mel[:, :kept].contiguous(), settings.lags, remove_level=True)
            table = log_mel.new_zeros(1 + len(statistics), MEL_BINS)
            table[0, 0] = level
            table[1:, :kept] = statistics
            rows.append(table)
        out.append(torch.stack(rows))
    return out


def _dimensions(settings: ScaledLogMelSettings, shape: tuple[int, int]) -> Dimensions:
    """The level of the whole spectrum, and level and variation of every band relative to it."""
    over = [f"{10 * lag} ms" for lag in settings.lags]
    names = [(f"change over {time}", time) for time in over] or [("variation", "")]
    relative = " relative to the whole spectrum"
    level = Quantity("level" + relative, "quieter" + relative, "louder" + relative, to_db=DECIBELS)
    rest = [Quantity(name, "steadier", "more variable", time, DECIBELS) for name, time in names]
    bands = of_log_mel(1, [level, *rest])
    whole = Group(LOW_HZ, HIGH_HZ, Quantity("level", "quieter", "louder", to_db=DECIBELS))
    index = torch.cat([torch.zeros(1, MEL_BINS, dtype=torch.int64), bands.index.reshape(-1, MEL_BINS) + 1])
    return Dimensions((whole, *bands.groups), index)


SCALED_LOG_MEL = Source(
    description="statistics of the log-mel spectrogram at unit RMS, and the level",
    settings=ScaledLogMelSettings,
    extract=_scaled_log_mel,
    uses_encoder=False,
    aggregation=lambda settings: "mean and deviation over time",
    dimensions=_dimensions,
)
