"""Explanations of sounds with known departures, and regions by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from nearfar.explain.attribution import Cause
from nearfar.explain.explanation import Explanation, explain, region, region_in
from nearfar.explain.localisation import PatchBank, band_edges_hz, fit_patches
from nearfar.frontends.kaldi import KaldiFbank

SECONDS = 2.0
TIME = np.arange(round(SECONDS * 16_000)) / 16_000


def noise(seed: int) -> np.ndarray:
    return 0.02 * np.random.default_rng(seed).standard_normal(len(TIME))


def log_mel(waveform: np.ndarray) -> Tensor:
    return KaldiFbank().log_mel(torch.from_numpy(waveform.astype(np.float32))[None])[0]


@pytest.fixture(scope="module")
def bank() -> PatchBank:
    return fit_patches([log_mel(noise(seed)) for seed in range(12)])


def gated(signal: np.ndarray, begin: float, end: float) -> np.ndarray:
    return signal * ((begin <= TIME) & (end > TIME))


def test_a_tone_is_explained_by_time_band_and_character(bank: PatchBank) -> None:
    found = explain(log_mel(noise(50) + gated(0.1 * np.sin(2 * np.pi * 2200 * TIME), 0.8, 1.6)), bank)
    assert found.notable
    assert found.begin_s == pytest.approx(0.8, abs=0.1)
    assert found.end_s == pytest.approx(1.6, abs=0.1)
    assert (found.low_hz, found.high_hz) == (pytest.approx(1803, abs=1), pytest.approx(2709, abs=1))
    assert found.most_hz == pytest.approx(2200, abs=60)
    assert found.excess_db > 10
    assert found.sentence.startswith("0.8 to 1.6 s, 1.8 to 2.7 kHz: louder")
    assert "more tonal than any of 12 normal recordings" in found.sentence


def test_clicks_are_impulsive(bank: PatchBank) -> None:
    clicks = np.zeros(len(TIME))
    clicks[(16_000 * np.arange(0.52, 1.4, 0.16)).astype(int)] = 1.0
    found = explain(log_mel(noise(51) + clicks), bank)
    assert found.notable
    assert "more impulsive" in found.sentence
    assert 0.3 < found.begin_s < found.end_s < 1.6


def test_a_gap_in_a_band_is_quieter(bank: PatchBank) -> None:
    spectrum = np.fft.rfft(noise(52))
    hz = np.fft.rfftfreq(len(TIME), 1 / 16_000)
    without = np.fft.irfft(np.where((hz > 3000) & (hz < 3900), 0.05 * spectrum, spectrum), len(TIME))
    found = explain(log_mel(without), bank)
    assert found.notable
    assert "throughout, 2.7 to 3.9 kHz: quieter" in found.sentence
    assert found.excess_db < -10


def test_a_normal_clip_does_not_stand_out(bank: PatchBank) -> None:
    quiet = [explain(log_mel(noise(seed)), bank) for seed in range(60, 72)]
    assert sum(found.notable for found in quiet) <= 3
    assert all(found.sentence.startswith("Nothing stands out; ") for found in quiet if not found.notable)


def test_a_louder_clip_is_named_louder_and_has_the_same_map(bank: PatchBank) -> None:
    like = explain(log_mel(noise(70)), bank)
    found = explain(log_mel(10.0 * noise(70)), bank)
    # In the lowest band the quiet clip comes down to the floor of the logarithm.
    np.testing.assert_allclose(found.map[:, 1:], like.map[:, 1:], atol=3e-3)
    np.testing.assert_allclose(found.map[:, 0], like.map[:, 0], atol=5e-2)
    assert "the whole recording is" not in like.sentence
    (decibels,) = re.findall(r"; the whole recording is (\d+) dB louder than any of them\.", found.sentence)
    assert int(decibels) in (19, 20)


def test_the_nearest_clip_is_the_one_with_that_sound() -> None:
    tone = gated(0.1 * np.sin(2 * np.pi * 2200 * TIME), 0.5, 1.0)
    clips = [log_mel(noise(seed) + (tone if seed == 4 else 0)) for seed in range(8)]
    found = explain(log_mel(noise(80) + 1.3 * np.roll(tone, 8_000)), fit_patches(clips))
    assert found.nearest == 4


def test_the_map_has_eats_grid(bank: PatchBank) -> None:
    found = explain(log_mel(noise(53)), bank)
    assert found.map.shape == (12, 8)  # 198 frames
    assert found.map.dtype == np.float32
    assert found.peak == found.map.max()
    assert found.band_edges_hz == tuple(band_edges_hz())
    assert len(found.time_edges_s) == 13
    np.testing.assert_allclose(np.diff(found.time_edges_s), 0.16)
    assert found.time_edges_s[0] == pytest.approx(0.0075)


def test_regions_by_hand() -> None:
    grid = torch.zeros(6, 8)
    grid[2:5, 3] = torch.tensor([1.0, 2.0, 1.1])
    grid[3:5, 4] = 1.5
    grid[3, 2] = 1.9  # one of three columns only
    assert region(grid) == (slice(2, 5), slice(3, 5))
    grid[0, 3] = 1.9  # beyond a gap
    assert region(grid) == (slice(2, 5), slice(3, 5))
    below = torch.full((3, 8), -1.0)
    below[1, 7] = -0.5
    assert region(below) == (slice(1, 2), slice(7, 8))


def test_the_region_in_given_bands_by_hand() -> None:
    grid = torch.zeros(6, 8)
    grid[0, 0] = 9.0  # in no given band
    grid[2:5, 3] = torch.tensor([1.0, 2.0, 1.0])
    grid[2:6, 4] = torch.tensor([1.0, 2.0, 0.0, 2.0])
    # The means of both bands are 0, 0, 1, 2, 0.5 and 1: half of the peak is reached in columns 2 and 3.
    assert region_in(grid, slice(3, 5)) == (slice(2, 4), slice(3, 5))
    assert region_in(torch.full((3, 8), -1.0), slice(1, 2)) == (slice(0, 1), slice(1, 2))


@pytest.mark.parametrize(
    ("anomalous", "opening", "closing"),
    [
        (True, "0.8 to 1.6 s, 290 Hz to 1.1 kHz: 3 dB louder than before", ", 40 % of the score."),
        (
            False,
            "Not anomalous; the largest contribution to the score, 0.8 to 1.6 s, 290 Hz to 1.1 kHz: 3 dB",
            "before.",
        ),
        (
            None,
            "The largest contribution to the score, 0.8 to 1.6 s, 290 Hz to 1.1 kHz: 3 dB louder than before",
            ".",
        ),
    ],
)
def test_a_cause_decides_bands_and_words_and_the_map_the_time(
    bank: PatchBank, anomalous: bool | None, opening: str, closing: str
) -> None:
    low, high = (
        gated(0.05 * np.sin(2 * np.pi * 450 * TIME), 0.8, 1.6),
        gated(np.sin(2 * np.pi * 5000 * TIME), 0, 0.3),
    )
    clip = log_mel(noise(90) + low + 0.2 * high)
    cause = Cause(slice(1, 3), 0.4, "near", "3 dB louder than before")
    found = explain(clip, bank, cause=cause, anomalous=anomalous)
    assert found.sentence.startswith(opening)
    assert found.sentence.endswith(closing)
    assert found.share == 0.4
    assert found.cells[1] == slice(1, 3)
    assert (found.low_hz, found.high_hz) == (band_edges_hz()[1], band_edges_hz()[3])


@pytest.mark.parametrize(
    ("anomalous", "opening"), [(True, "The least usual part"), (False, "Not anomalous; the least")]
)
def test_without_a_cause_the_sentence_agrees_with_the_verdict(
    bank: PatchBank, anomalous: bool, opening: str
) -> None:
    for clip in (noise(91), noise(92) + 0.1 * np.sin(2 * np.pi * 2200 * TIME)):
        found = explain(log_mel(clip), bank, anomalous=anomalous)
        assert found.sentence.startswith(opening)
        assert found.notable is anomalous
        assert "Nothing stands out" not in found.sentence


def test_an_explanation_is_made_of_plain_values(bank: PatchBank) -> None:
    found = explain(log_mel(noise(54)), bank)
    assert isinstance(found, Explanation)
    for name in ("peak", "begin_s", "end_s", "low_hz", "high_hz", "most_hz", "excess_db"):
        assert type(getattr(found, name)) is float
    assert type(found.nearest) is int
    assert type(found.notable) is bool
