"""Level and log-mel statistics at unit RMS."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from torch import Tensor

from nearfar.features import SOURCES, EncoderParts, WindowBatch
from nearfar.features.scaled import ScaledLogMelSettings
from nearfar.frontends import KaldiFbank
from nearfar.frontends.kaldi import mel_centres_hz

SETTINGS = ScaledLogMelSettings(lags=(1, 4))


def signal(seed: int = 0, samples: int = 16_000) -> Tensor:
    random = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * 700 * np.arange(samples) / 16_000)
    return torch.from_numpy(0.1 * tone + 0.02 * random.standard_normal(samples)).float()


def features(waveform: Tensor, samples: int | None = None, settings: ScaledLogMelSettings = SETTINGS) -> Tensor:
    batch = WindowBatch(waveform[None], torch.tensor([samples or len(waveform)]))
    return SOURCES["scaled-log-mel"].extract(batch, EncoderParts(), [settings])[0][0]


def test_the_level_stands_in_the_first_part_and_the_rest_does_not_depend_on_it() -> None:
    loud = signal()
    found = features(loud)
    assert found.shape == (4, 128)
    assert float(found[0, 0]) == pytest.approx(math.log(float(loud.double().var(correction=0))), abs=1e-5)
    assert not bool(found[0, 1:].any())
    for decibels in (-20.0, -60.0, -100.0):
        quiet = features(loud * 10 ** (decibels / 20))
        torch.testing.assert_close(quiet[1:], found[1:], rtol=0, atol=2e-3)
        assert float(quiet[0, 0] - found[0, 0]) == pytest.approx(decibels * math.log(10) / 10, abs=1e-3)


def test_a_constant_offset_of_the_recorder_changes_nothing() -> None:
    torch.testing.assert_close(features(signal() + 0.3), features(signal()), rtol=0, atol=2e-2)


def test_log_mel_statistics_of_a_quiet_recording_differ_where_these_do_not() -> None:
    """The floor of the front end is the reason for this source."""
    log_mel = SOURCES["log-mel"]

    def plain(waveform: Tensor) -> Tensor:
        batch = WindowBatch(waveform[None], torch.tensor([len(waveform)]))
        return log_mel.extract(batch, EncoderParts(), [log_mel.settings()])[0][0]

    assert float((plain(signal() * 1e-4) - plain(signal())).abs().max()) > 1.0


def test_bins_from_the_highest_frequency_up_are_zero_and_resamplers_alike() -> None:
    found = features(signal())
    assert not bool(found[1:, mel_centres_hz() >= 7200].any())
    kept = (mel_centres_hz() < 7200) & (torch.arange(128) != 3)
    assert bool(found[1, kept].all())
    again = torch.from_numpy(resample_poly(resample_poly(signal().numpy(), 3, 1), 1, 3)).float()
    difference = (features(again) - found).abs()
    assert float(difference.max()) < 0.3
    whole = ScaledLogMelSettings(lags=(1, 4), highest_hz=8000.0)
    assert float((features(again, settings=whole) - features(signal(), settings=whole)).abs().max()) > 0.5


def test_padding_is_not_used() -> None:
    padded = torch.cat([signal(), torch.zeros(8_000)])
    torch.testing.assert_close(features(padded, 16_000), features(signal()), rtol=0, atol=1e-5)


def test_spectrograms_derived_from_scaled_ones_are_those_of_the_front_end() -> None:
    waveforms = torch.stack([signal(1), signal(2) * 1e-4])
    batch = WindowBatch(waveforms, torch.tensor([16_000, 16_000]))
    batch.scaled_log_mels()
    torch.testing.assert_close(torch.stack(batch.log_mels()), KaldiFbank().log_mel(waveforms), rtol=0, atol=2e-3)


def test_silence_has_finite_features() -> None:
    assert bool(torch.isfinite(features(torch.zeros(16_000))).all())
