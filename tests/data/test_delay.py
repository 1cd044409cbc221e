"""Correlations against a direct sum, and on signals with given delay, echoes and clocks."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.data.delay import Delays, beyond, correlate, drift, far_leads, lag_s, prominence

RATE = 16_000


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def correlated(near: np.ndarray, far: np.ndarray, rate_hz: int = RATE) -> Delays:
    delays = correlate(near, far, rate_hz)
    assert delays is not None
    return delays


def test_a_segment_is_the_inverse_transform_of_the_phases() -> None:
    """By a slow discrete Fourier transform, written out."""
    near, far = noise(4_000), noise(4_000, 1)
    delays = correlated(near, far, rate_hz=8_000)  # segments of 2,000 every 1,000
    assert delays.values.shape == (3, 2_001)
    assert delays.hop_s == 0.125
    size, length = 2_000, 4_096
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    a, b = (np.fft.fft(np.pad(x[1_000:3_000] * window, (0, length - size))) for x in (near, far))
    hz = np.abs(np.fft.fftfreq(length, 1 / 8_000))
    phases = np.where(hz >= 150, np.exp(1j * (np.angle(b) - np.angle(a))), 0)  # no bin is above 7 kHz
    for lag in (-1_000, -3, 0, 17, 1_000):
        value = (phases * np.exp(2j * np.pi * np.arange(length) * lag / length)).sum().real / length
        # The bin at half the sample rate is real in one transform and its own mirror in the other.
        assert delays.values[1, 1_000 + lag] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("lag", [-300, -1, 0, 5, 2_000])
def test_a_delay_is_found_to_the_sample(lag: int) -> None:
    sound = noise(40_000)
    near, far = sound[4_000:36_000], 0.3 * np.roll(sound, lag)[4_000:36_000] + 0.1 * noise(32_000, 1)
    assert lag_s(correlated(near, far).whole, RATE) == lag / RATE


def test_unrelated_channels_have_no_prominent_peak() -> None:
    assert prominence(correlated(noise(64_000), noise(64_000, 1)).whole) < 6
    assert prominence(correlated(noise(64_000), noise(64_000)).whole) > 50


def test_beyond_compares_the_peaks_on_both_sides_of_the_limit() -> None:
    correlation = np.zeros(2_001)
    correlation[1_000 + 400], correlation[1_000 - 500] = 2.0, 3.0
    assert beyond(correlation, 0.03, RATE) == 1.5  # 480 samples
    assert beyond(correlation, 0.02, RATE) == 3.0 / 1e-12
    assert beyond(correlation, 1.0, RATE) == 0.0


def test_the_lead_by_hand() -> None:
    correlation = np.zeros(2_001)
    correlation[1_000 - 40], correlation[1_000 - 60], correlation[1_000 + 20] = 5.0, 2.0, 1.0
    leads, drier = far_leads(correlation, RATE)
    assert leads == pytest.approx(29.0)
    assert drier == pytest.approx(4.0)
    correlation[1_000 + 2] = 9.0  # within 0.3 ms of no delay, and now the peak
    assert far_leads(correlation, RATE) == (pytest.approx(29.0), pytest.approx(29.0))


@pytest.mark.parametrize("ppm", [-120.0, 0.0, 60.0, 250.0])
def test_a_drift_is_found(ppm: float) -> None:
    clips = []
    for seed in range(3):
        sound, time = noise(66_000, seed), np.arange(64_000)
        far = np.interp(time * (1 - 1e-6 * ppm) + 100 * seed, np.arange(66_000), sound).astype(np.float32)
        clips.append(correlated(sound[:64_000], far))
    found, gain = drift(clips)
    assert found == pytest.approx(ppm, abs=11)
    assert gain == 1.0 if ppm == 0 else gain > 1.3


def test_a_clip_shorter_than_two_segments_of_a_tenth_second_is_left_out() -> None:
    assert correlate(noise(3_000), noise(3_000), RATE) is None
    assert correlate(noise(3_300), noise(3_300), RATE) is not None
