"""Cancellation against loops, and what it does to a leak and to a machine."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from nearfar.cancellation import (
    Cancellation,
    best_delay,
    cancel,
    delayed,
    istft,
    limited,
    multi_tap,
    stft,
    transfer,
)

RATE = 16_000


def noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32) * np.float32(0.1)


def leak(far: np.ndarray, seed: int = 9) -> np.ndarray:
    """Far through a short filter: 32 decaying taps."""
    taps = np.random.default_rng(seed).standard_normal(32) * np.exp(-np.arange(32) / 8.0)
    return (0.5 * scipy.signal.lfilter(taps / np.linalg.norm(taps), [1.0], far)).astype(np.float32)


def decibels(after: np.ndarray, before: np.ndarray) -> float:
    return 10 * np.log10(float(np.mean(after**2)) / float(np.mean(before**2)))


def test_w1_is_the_formula_in_a_loop():
    near, far = noise(0.3, 0), noise(0.3, 1)
    peak = max(np.abs(near).max(), np.abs(far).max())
    window = scipy.signal.get_window("hann", 1024)
    total, weight = np.zeros(len(near) + 3072), np.zeros(len(near) + 3072)
    padded = [np.pad(x / peak, (512, 2560)).astype(np.float64) for x in (near, far)]
    starts = range(0, len(near) + 1024, 512)
    c, f = ([np.fft.rfft(window * x[s : s + 1024]) for s in starts] for x in padded)
    h = np.zeros(513, complex)
    for k in range(513):
        above = sum(c[t][k] * np.conj(f[t][k]) for t in range(len(c)))
        h[k] = above / (sum(abs(f[t][k]) ** 2 for t in range(len(c))) + 1e-12)
    for t, s in enumerate(starts):
        total[s : s + 1024] += window * np.fft.irfft(c[t] - h * f[t], 1024)
        weight[s : s + 1024] += window**2
    expected = peak * (total / np.maximum(weight, 1e-9))[512 : 512 + len(near)]
    np.testing.assert_allclose(cancel(near, far, Cancellation()), expected, atol=2e-6)


@pytest.mark.parametrize(("window", "hop"), [(1024, 512), (1024, 256), (512, 128)])
def test_the_inverse_transform_undoes_the_transform(window, hop):
    waveform = noise(0.25, 3)
    np.testing.assert_allclose(istft(stft(waveform, window, hop), len(waveform), window, hop), waveform, atol=1e-6)


def test_a_leak_is_taken_out_and_the_machine_is_kept():
    far, machine = noise(6.0, 0), noise(6.0, 1)
    leaked = leak(far)
    assert decibels(cancel(leaked, far, Cancellation()), leaked) < -20
    mixed = cancel(leaked + machine, far, Cancellation())
    remaining = mixed - machine
    assert decibels(remaining, leaked) < -14  # what is left of the leak, and what chance correlation took out
    assert abs(decibels(mixed, machine)) < 0.2


@pytest.mark.parametrize(
    "settings",
    [
        Cancellation(window_samples=8192, hop_samples=2048),
        Cancellation(window_samples=512, hop_samples=128, taps=6),
        Cancellation(smooth_bins=2),
        Cancellation(smooth_frames=20),
        Cancellation(gain_limit=1.0),
    ],
    ids=lambda s: str(s.model_dump(exclude_defaults=True)),
)
def test_every_variant_takes_a_leak_out(settings):
    far = noise(6.0, 0)
    leaked = leak(far)
    assert decibels(cancel(leaked, far, settings), leaked) < -10


def test_a_long_window_cancels_what_a_short_one_cannot():
    far = noise(8.0, 0)
    echo = np.convolve(far, np.random.default_rng(2).standard_normal(3000) * np.exp(-np.arange(3000) / 900))
    echo = (0.02 * echo[: len(far)]).astype(np.float32)
    short = decibels(cancel(echo, far, Cancellation()), echo)
    long = decibels(cancel(echo, far, Cancellation(window_samples=8192, hop_samples=2048)), echo)
    assert long < short - 3


def test_the_limit_spares_a_machine_that_the_far_channel_holds_too():
    machine, room = noise(6.0, 4), 0.02 * noise(6.0, 5)
    near, far = machine, 0.2 * machine + room  # |H| is 5 where the machine is louder
    limit = Cancellation(gain_limit=1.0)
    assert decibels(cancel(near, far, Cancellation()), machine) < -10
    assert abs(decibels(cancel(near, far, limit), machine)) < 0.5


def test_the_limit_by_hand():
    gain = np.array([[0.5 + 0j, 2j, -4.0, 0.0]], np.complex64)
    np.testing.assert_allclose(limited(gain, 1.0), [[0.5, 0.5j, -0.25, 0.0]], atol=1e-7)


def test_smoothing_is_a_sum_over_neighbours():
    near, far = stft(noise(0.4, 0), 256, 128), stft(noise(0.4, 1), 256, 128)
    h = transfer(near, far, Cancellation(window_samples=256, hop_samples=128, smooth_frames=3, smooth_bins=1))
    t, f = 5, 1
    some = (slice(t - 3, t + 4), slice(f - 1, f + 2))
    expected = (near[some] * far[some].conj()).sum() / ((abs(far[some]) ** 2).sum() + 1e-12)
    np.testing.assert_allclose(h[t, f], expected, rtol=1e-4)
    edge = (near[:4, :2] * far[:4, :2].conj()).sum() / ((abs(far[:4, :2]) ** 2).sum() + 1e-12)
    np.testing.assert_allclose(h[0, 0], edge, rtol=1e-4)


def test_several_taps_are_least_squares_over_frames():
    near, far = stft(noise(0.6, 0), 256, 128), stft(noise(0.6, 1), 256, 128)
    predicted = multi_tap(near, far, 3)
    for k in (3, 77):
        columns = [np.roll(far[:, k], shift) for shift in (-1, 0, 1)]
        columns[0][-1], columns[2][0] = 0, 0
        a = np.stack(columns, axis=1).astype(complex)
        gram = a.conj().T @ a
        gram += 1e-3 * np.trace(gram).real / 3 * np.eye(3)
        np.testing.assert_allclose(predicted[:, k], a @ np.linalg.solve(gram, a.conj().T @ near[:, k]), atol=1e-3)


@pytest.mark.parametrize("samples", [400, 1_600])
@pytest.mark.parametrize(
    "settings",
    [
        Cancellation(),
        Cancellation(window_samples=8192, hop_samples=2048, gain_limit=1.0),
        Cancellation(taps=8),
        Cancellation(smooth_frames=20, smooth_bins=3),
        Cancellation(delay_search_ms=200.0),
    ],
    ids=lambda s: str(s.model_dump(exclude_defaults=True)),
)
def test_clips_shorter_than_a_window_or_than_the_taps_are_cancelled_too(settings, samples):
    far = noise(1.0, 0)[:samples]
    cancelled = cancel(0.5 * far, far, settings)
    assert cancelled.shape == far.shape
    assert cancelled.dtype == np.float32
    assert decibels(cancelled, far) < -20


@pytest.mark.parametrize("lag", [-37, 0, 5, 160])
def test_the_delay_is_found(lag):
    far = noise(1.0, 6)
    near = delayed(far, lag) + 0.3 * noise(1.0, 7)
    assert best_delay(near, far, 200) == lag
    settings = Cancellation(window_samples=256, hop_samples=128, delay_search_ms=12.5)
    assert decibels(cancel(delayed(far, lag), far, settings), far) < -15


def test_a_far_channel_that_is_silent_changes_nothing():
    near = noise(0.5, 0)
    np.testing.assert_allclose(cancel(near, np.zeros_like(near), Cancellation()), near, atol=1e-7)
    assert not cancel(np.zeros_like(near), np.zeros_like(near), Cancellation()).any()


def test_changes_are_settings_that_differ_from_those_given():
    near, far = noise(0.5, 0), noise(0.5, 1)
    expected = cancel(near, far, Cancellation(window_samples=2048, hop_samples=256, gain_limit=1.0))
    base = Cancellation(window_samples=2048)
    np.testing.assert_array_equal(cancel(near, far, base, hop_samples=256, gain_limit=1.0), expected)
    assert not np.array_equal(cancel(near, far, base), expected)
    np.testing.assert_array_equal(cancel(near, far), cancel(near, far, Cancellation()))


def test_channels_of_other_lengths_or_axes_are_refused():
    with pytest.raises(ValueError, match=r"expected two channels of \(samples,\)"):
        cancel(noise(0.5, 0), noise(0.4, 0))
    with pytest.raises(ValueError, match=r"expected two channels of \(samples,\)"):
        cancel(noise(0.5, 0)[None], noise(0.5, 0)[None])


@pytest.mark.parametrize(
    "keys",
    [{"window_samples": 1000}, {"window_samples": 512}, {"taps": 2, "gain_limit": 1.0}],
    ids=lambda keys: "-".join(keys),
)
def test_settings_that_do_not_go_together_are_refused(keys):
    with pytest.raises(
        ValueError, match=r"a multiple of hop_samples|1, as smooth_frames, smooth_bins or gain_limit is set"
    ):
        Cancellation(**keys)
