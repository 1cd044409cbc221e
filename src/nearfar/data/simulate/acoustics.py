"""How near and far of a machine are related, and its level: ranges that simulated recordings are brought to.

A recording is brought to a coherence of its channels in every band by background noise that is added to both: one
noise where the coherence is too small, two independent ones where it is too large. In each channel the noise has
the spectrum of the channel, so that the mean spectrum hardly changes, and the machine stands out less. Then far is
scaled to a ratio of energies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.data.simulate.signals import SAMPLE_RATE_HZ

BANDS_HZ = ((0.0, 1000.0), (1000.0, 4000.0), (4000.0, 8000.0))
"""The bands of :attr:`Acoustics.coherence`."""
SEGMENT = 1024
"""Samples of a segment of Welch's method, which measures coherence and spectra."""
FRAME = 512
"""Samples of a frame, of which energies are compared."""
_STEPS, _LEAST, _MOST = 20, 1e-5, 1e3
"""Halvings of the interval of the power of the noise relative to the channel, and the interval's ends."""

Range = tuple[float, float]
Pair = NDArray[np.float64]
"""(2, samples) float64: near and far."""


@dataclass(frozen=True, slots=True)
class Acoustics:
    """Ranges over the recordings of a machine, from which values are drawn uniformly.

    Attributes:
        coherence: mean magnitude-squared coherence of near and far in each of :data:`BANDS_HZ`.
        far_to_near: ratio of the energies of far and near, the median over frames.
        level_dbfs: RMS of near in dB of full scale.
    """

    coherence: tuple[Range, Range, Range]
    far_to_near: Range
    level_dbfs: Range


@dataclass(frozen=True, slots=True)
class Relation:
    """What the channels of one recording are brought to; see :class:`Acoustics`."""

    coherence: tuple[float, float, float]
    far_to_near: float


@dataclass(frozen=True, slots=True, eq=False)
class _Spectra:
    """Welch's spectra of near and far, and their cross-spectrum, (bins,) each."""

    near: NDArray[np.float64]
    far: NDArray[np.float64]
    cross: NDArray[np.complex128]

    @classmethod
    def of(cls, pair: Pair) -> _Spectra:
        from scipy.signal import csd, welch

        near, far = welch(pair, SAMPLE_RATE_HZ, nperseg=SEGMENT)[1]
        return cls(near, far, csd(*pair, SAMPLE_RATE_HZ, nperseg=SEGMENT)[1])

    def coherence(self, band: slice, added: _Spectra | None = None, power: float = 0.0) -> float:
        """The mean over a band, also with independent noise of a power added."""
        near, far, cross = self.near[band], self.far[band], self.cross[band]
        if added is not None:
            near, far = near + power * added.near[band], far + power * added.far[band]
            cross = cross + power * added.cross[band]
        return float((np.abs(cross) ** 2 / np.maximum(near * far, 1e-30)).mean())


def measured(pair: Pair) -> Relation:
    """The relation of the channels of a recording, (2, samples) at 16 kHz."""
    spectra = _Spectra.of(pair)
    low, middle, high = (spectra.coherence(_bins(band)) for band in BANDS_HZ)
    return Relation((low, middle, high), _energy_ratio(pair))


def related(pair: Pair, wanted: Relation, rng: np.random.Generator) -> Pair:
    """A recording with background noise, and another level of far, so that its channels are related as wanted.

    Args:
        pair: (2, samples) float64.
        wanted: the coherence of a band, and the ratio of energies.
        rng: of the background.
    """
    spectra, out = _Spectra.of(pair), pair.copy()
    one, two = _background(pair, spectra, rng)
    of_one, of_two = _Spectra.of(one), _Spectra.of(two)
    for band, target in zip(BANDS_HZ, wanted.coherence, strict=True):
        rising = spectra.coherence(_bins(band)) < target
        noise, of_noise = (one, of_one) if rising else (two, of_two)
        low, high = _LEAST, _MOST
        for _ in range(_STEPS):
            power = float(np.sqrt(low * high))
            too_little = (spectra.coherence(_bins(band), of_noise, power) < target) == rising
            low, high = (power, high) if too_little else (low, power)
        out += np.sqrt(low) * _within(noise, *band)
    out[1] *= np.sqrt(wanted.far_to_near / _energy_ratio(out))
    return out


def _bins(band: Range) -> slice:
    first, last = (round(hz * SEGMENT / SAMPLE_RATE_HZ) for hz in band)
    return slice(first, last)


def _energy_ratio(pair: Pair) -> float:
    frames = pair[:, : pair.shape[1] // FRAME * FRAME].reshape(2, -1, FRAME)
    near, far = np.square(frames).mean(axis=2)
    return float(np.median(far / np.maximum(near, 1e-20)))


def _background(pair: Pair, spectra: _Spectra, rng: np.random.Generator) -> tuple[Pair, Pair]:
    """Noise with the spectra of both channels: one noise in both, and an independent one in each."""
    samples = pair.shape[1]
    hz, measured_hz = _hz(samples), np.fft.rfftfreq(SEGMENT, 1 / SAMPLE_RATE_HZ)
    gains = np.sqrt(
        [np.interp(hz, measured_hz, power * SAMPLE_RATE_HZ / 2) for power in (spectra.near, spectra.far)]
    )
    first, second = (np.fft.rfft(rng.standard_normal(samples)) for _ in range(2))
    one, two = (np.fft.irfft(gains * np.stack(noises), samples) for noises in ((first, first), (first, second)))
    return one, two


def _within(noise: Pair, low_hz: float, high_hz: float) -> Pair:
    """The part of a noise in a band."""
    hz = _hz(noise.shape[1])
    out: Pair = np.asarray(np.fft.irfft(np.fft.rfft(noise) * ((hz >= low_hz) & (hz < high_hz)), noise.shape[1]))
    return out


def _hz(samples: int) -> NDArray[np.float64]:
    hz: NDArray[np.float64] = np.asarray(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE_HZ), np.float64)
    return hz
