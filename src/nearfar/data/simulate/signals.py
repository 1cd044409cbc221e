"""Building blocks of machine sounds: rotating shafts, harmonics, shaped noise, impacts with resonances.

Signals are ``(samples,) float64`` at 16 kHz without absolute level; angles are in revolutions and increase.
Every random number comes from a generator of :func:`stream`, so that a clip depends only on its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

SAMPLE_RATE_HZ = 16_000

Signal = NDArray[np.float64]
Modes = Sequence[tuple[float, float, float]]
"""Resonances of a structure, each as (frequency in Hz, decay time constant in s, strength)."""
Band = tuple[float, float, float, float]
"""A noise band: (low edge in Hz, high edge in Hz, slope outside in units of 6 dB an octave, level)."""


def stream(*key: int | str) -> np.random.Generator:
    """A random generator seeded by a key."""
    digest = hashlib.sha256("\x1f".join(repr(part) for part in key).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(list(np.frombuffer(digest, dtype="<u4"))))


def rms(signal: Signal) -> float:
    """Root mean square, at least 1e-12, so that it can be a divisor."""
    return max(float(np.sqrt(np.mean(np.square(signal)))), 1e-12)


def unit_rms(signal: Signal) -> Signal:
    """The signal scaled to a root mean square of one."""
    return signal / rms(signal)


def seconds(samples: int) -> Signal:
    """Times of the samples in seconds."""
    return np.arange(samples) / SAMPLE_RATE_HZ


def decibels(value_db: float) -> float:
    """The amplitude factor of a level difference in decibels."""
    return float(10.0 ** (value_db / 20.0))


def spread_db(rng: np.random.Generator, deviation_db: float) -> float:
    """A random amplitude factor, normally distributed in decibels."""
    return decibels(deviation_db * float(rng.standard_normal()))


def wander(rng: np.random.Generator, samples: int, rate_hz: float) -> Signal:
    """A slow random signal of mean 0 and deviation 1, changing about ``rate_hz`` times a second."""
    knots = int(np.ceil(samples / SAMPLE_RATE_HZ * rate_hz)) + 2
    values = rng.standard_normal(knots + 1)
    return np.asarray(np.interp(seconds(samples) * rate_hz + rng.random(), np.arange(knots + 1), values))


def shaft_angle(rng: np.random.Generator, samples: int, rev_per_s: float, unsteadiness: float = 0.004) -> Signal:
    """Angle in revolutions of a shaft; its speed varies between clips and drifts within one."""
    speed = rev_per_s * (1 + unsteadiness * (rng.standard_normal() + 0.5 * wander(rng, samples, 2.0)))
    return rng.random() + np.cumsum(np.maximum(speed, 0.05 * rev_per_s)) / SAMPLE_RATE_HZ


def harmonics(angle: Signal, amplitudes: Sequence[float] | Signal, rng: np.random.Generator) -> Signal:
    """Sum of tones at 1, 2, 3... times the rate of ``angle``, with random phases.

    ``angle * teeth`` gives a gear mesh, ``angle * blades`` a blade-pass tone. Orders above the Nyquist frequency
    are left out.
    """
    nyquist_order = 0.95 * SAMPLE_RATE_HZ / 2 / max(float(np.max(np.diff(angle))) * SAMPLE_RATE_HZ, 1e-9)
    turn = np.exp(2j * np.pi * angle)
    power = np.ones_like(turn)
    total = np.zeros(len(angle))
    phases = np.exp(2j * np.pi * rng.random(len(amplitudes)))
    for order, amplitude in enumerate(amplitudes, start=1):
        if order > nyquist_order:
            break
        power = power * turn
        total += amplitude * (power * phases[order - 1]).real
    return total


def noise(rng: np.random.Generator, samples: int, *bands: Band) -> Signal:
    """Gaussian noise of unit RMS with a spectrum of bands: turbulence, friction, rolling."""
    length = next_fast_len(samples, real=True)
    frequency = np.maximum(rfftfreq(length, 1 / SAMPLE_RATE_HZ), 1.0)
    gain = np.zeros_like(frequency)
    for low, high, slope, level in bands:
        outside = np.maximum(np.maximum(low / frequency, frequency / high), 1.0)
        gain += level / np.sqrt(high - low) * outside ** (-slope)
    spectrum = rng.standard_normal(len(gain)) + 1j * rng.standard_normal(len(gain))
    return unit_rms(np.asarray(irfft(gain * spectrum, length)[:samples]))


def once_a_turn(angle: Signal, width: float) -> Signal:
    """A smooth pulse of height one at each turn of ``angle``, ``width`` turns wide (standard deviation)."""
    return np.asarray(np.exp(-0.5 * ((angle % 1.0 - 0.5) / width) ** 2))


def passing_times(angle: Signal, per_revolution: float, rng: np.random.Generator, slip: float = 0.0) -> Signal:
    """Times in seconds of events that occur ``per_revolution`` times a turn.

    Args:
        slip: deviation of the spacing as a fraction of it. Deviations accumulate, as those of sliding balls in a
            rolling bearing, so that the events are not strictly periodic.
    """
    cycles = angle * per_revolution
    count = int(1.2 * (cycles[-1] - cycles[0])) + 10  # enough for short spacings too
    spacings = np.maximum(1 + slip * rng.standard_normal(count), 0.2)
    moments = cycles[0] + rng.random() + np.cumsum(spacings) - 1
    return np.asarray(np.interp(moments, cycles, seconds(len(angle)), left=-1, right=-1))


def impacts(times_s: Signal, strengths: Signal, modes: Modes, samples: int) -> Signal:
    """Impacts at given times, each exciting the resonances of the structure.

    An impact between two samples is split over them; times outside the clip are left out.
    """
    inside = (times_s >= 0) & (times_s * SAMPLE_RATE_HZ < samples - 1)
    position = times_s[inside] * SAMPLE_RATE_HZ
    first = position.astype(np.int64)
    blow = np.zeros(samples)
    np.add.at(blow, first, strengths[inside] * (1 - (position - first)))
    np.add.at(blow, first + 1, strengths[inside] * (position - first))
    return ring(blow, modes)


def ring(force: Signal, modes: Modes) -> Signal:
    """The response of resonances to a force: convolution with a sum of decaying sines."""
    length = min(len(force), int(7 * max(decay for _, decay, _ in modes) * SAMPLE_RATE_HZ) + 1)
    time = seconds(length)
    response = np.zeros(length)
    for frequency_hz, decay_s, strength in modes:
        if frequency_hz < 0.95 * SAMPLE_RATE_HZ / 2:
            response += strength * np.exp(-time / decay_s) * np.sin(2 * np.pi * frequency_hz * time)
    return convolve(force, response)


def convolve(signal: Signal, responses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Causal convolution with one or more responses (..., taps), cut to the length of ``signal``."""
    length = next_fast_len(len(signal) + responses.shape[-1] - 1, real=True)
    return np.asarray(irfft(rfft(signal, length) * rfft(responses, length), length)[..., : len(signal)])


def stretched(modes: Modes, factor: float) -> Modes:
    """The same resonances with every frequency times ``factor``, for a stiffer or lighter structure."""
    return tuple((frequency_hz * factor, decay_s, strength) for frequency_hz, decay_s, strength in modes)
