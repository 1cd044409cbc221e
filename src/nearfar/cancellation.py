"""Cancellation of the far channel in the near one: near minus what far linearly predicts of it.

``W1`` of public systems for DCASE 2026 Task 2 is a complex least-squares prediction per frequency over a whole
clip: with the spectra C of near and F of far,

    H(f) = sum_t C(f, t) conj(F(f, t)) / (sum_t |F(f, t)|^2 + 1e-12),        Y = C - H F.

It assumes that the far channel holds no sound of the machine. Where it does, the prediction removes the machine as
well. Two changes help, measured in docs/results: a window longer than the room's reverberation, without which one
factor per frequency cannot describe the path from far to near; and a limit on the gain |H|. A source of noise is
nearer to the far microphone, or not much farther away, so that |H| is about 1 or less; the machine is much nearer
to the near one, so that a prediction of the machine has a large |H|. Where |H| exceeds the limit L, it becomes H
(L / |H|)^2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import fft

from nearfar.settings import NotNegative, PositiveFloat, PositiveInt, Settings, refusal

__all__ = ["Cancellation", "best_delay", "cancel"]

EPSILON = 1e-12
LOADING = 1e-3
"""Added to the energy of each tap, as a fraction of the taps' mean: overlapping frames are nearly dependent."""

Spectrum = NDArray[np.complex64]
Waveform = NDArray[np.float32]


class Cancellation(Settings):
    """How far is cancelled in near; the defaults are W1 of public systems.

    Attributes:
        window_samples, hop_samples: of the short-time Fourier transform; the window is a multiple of the hop, at
            least twice it.
        smooth_frames: H is estimated over this many frames to either side; None is one H for the whole clip.
        smooth_bins: and over this many neighbouring frequencies to either side.
        taps: frames of far that predict a frame of near; more than one exclude smoothing and the gain limit.
        gain_limit: where |H| exceeds it, less is cancelled; None is no limit.
        delay_search_ms: far is first delayed by up to this much, to either side, for the largest correlation.
    """

    window_samples: Annotated[int, Field(ge=16)] = 1024
    hop_samples: PositiveInt = 512
    smooth_frames: Annotated[int, Field(ge=0)] | None = None
    smooth_bins: Annotated[int, Field(ge=0)] = 0
    taps: PositiveInt = 1
    gain_limit: PositiveFloat | None = None
    delay_search_ms: NotNegative = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Cancellation:
        if self.window_samples % self.hop_samples or self.window_samples < 2 * self.hop_samples:
            raise refusal(
                "window_samples",
                self.window_samples,
                f"a multiple of hop_samples ({self.hop_samples}), at least twice it",
            )
        if self.taps > 1 and (self.smooth_frames is not None or self.smooth_bins or self.gain_limit is not None):
            raise refusal("taps", self.taps, "1, as smooth_frames, smooth_bins or gain_limit is set")
        return self


def cancel(
    near: Waveform,
    far: Waveform,
    settings: Cancellation | None = None,
    *,
    sample_rate_hz: int = 16_000,
    **changes: Any,
) -> Waveform:
    """Subtract from the near channel what the far channel linearly predicts of it.

    ``cancel(near, far, window_samples=8192, hop_samples=2048, gain_limit=1.0)`` is what the recipe nearfar-best
    does.

    Args:
        near, far: (samples,) float32 of one recording.
        settings: see :class:`Cancellation`; by default W1.
        sample_rate_hz: used by the delay search, whose range is in milliseconds.
        changes: fields of :class:`Cancellation` that differ from ``settings``.

    Returns:
        (samples,) float32 on the scale of ``near``.

    Raises:
        ValueError: if the channels differ in length, or a setting does not fit.
    """
    if near.shape != far.shape or near.ndim != 1:
        raise ValueError(f"expected two channels of (samples,), got {near.shape} and {far.shape}")
    given = (settings or Cancellation()).model_dump()
    settings = Cancellation.model_validate(given | changes) if changes or settings is None else settings
    peak = max(_peak(near), _peak(far))
    if peak == 0.0:
        return near.copy()
    if settings.delay_search_ms:
        most = round(settings.delay_search_ms * sample_rate_hz / 1000)
        far = delayed(far, best_delay(near, far, most))
    window, hop = settings.window_samples, settings.hop_samples
    near_spectra, far_spectra = (stft(channel, window, hop) for channel in (near, far))
    # The definition divides both channels by their common peak, which is the same as a larger epsilon.
    epsilon = max(EPSILON * peak**2, float(np.finfo(np.float32).tiny))
    predicted = predict(near_spectra, far_spectra, settings, epsilon)
    return near - istft(predicted, len(near), window, hop)


def _peak(waveform: Waveform) -> float:
    return max(float(waveform.max(initial=0.0)), -float(waveform.min(initial=0.0)))


def predict(near: Spectrum, far: Spectrum, settings: Cancellation, epsilon: float = EPSILON) -> Spectrum:
    """The prediction of near by far, H F: (frames, bins) complex64, like both arguments."""
    if settings.taps > 1:
        return multi_tap(near, far, settings.taps)
    return transfer(near, far, settings, epsilon) * far


def transfer(near: Spectrum, far: Spectrum, settings: Cancellation, epsilon: float = EPSILON) -> Spectrum:
    """H by least squares, smoothed and limited as the settings say; (1 or frames, bins) complex64."""
    cross: NDArray[Any] = near * far.conj()
    power: NDArray[Any]
    if settings.smooth_frames is None:
        parts = far.view(np.float32)  # real and imaginary parts side by side
        power = np.einsum("tf,tf->f", parts, parts).reshape(1, -1, 2).sum(axis=2)
        cross = cross.sum(axis=0, keepdims=True)
    else:
        power = far.real**2 + far.imag**2
        cross, power = (_moving_sum(values, settings.smooth_frames, axis=0) for values in (cross, power))
    if settings.smooth_bins:
        cross, power = (_moving_sum(values, settings.smooth_bins, axis=1) for values in (cross, power))
    gain: Spectrum = (cross / (power + np.float32(epsilon))).astype(np.complex64)
    if settings.gain_limit is not None:
        gain = limited(gain, settings.gain_limit)
    return gain


def limited(gain: Spectrum, limit: float) -> Spectrum:
    """H where |H| <= limit and else H (limit / |H|)^2, so that |H| falls again as limit^2 / |H| beyond it."""
    size = np.abs(gain)
    factor = np.minimum(1.0, limit / np.maximum(size, EPSILON)) ** 2
    out: Spectrum = (gain * factor).astype(np.complex64)
    return out


def multi_tap(near: Spectrum, far: Spectrum, taps: int) -> Spectrum:
    """Least squares over several frames of far: sum_k H_k(f) F(f, t - k), k = -1 ... taps - 2.

    One frame of lead allows for paths that reach the near microphone first. The normal equations of every
    frequency are loaded by 1e-3 of their mean diagonal.

    Args:
        near, far: (frames, bins) complex64.
        taps: how many frames of far are used.

    Returns:
        (frames, bins) complex64.
    """
    shifted = np.stack([_shifted(far, k) for k in range(-1, taps - 1)], axis=-1).transpose(1, 0, 2)
    gram = shifted.conj().transpose(0, 2, 1) @ shifted
    right = shifted.conj().transpose(0, 2, 1) @ near.T[..., None]
    loading = LOADING * np.trace(gram, axis1=1, axis2=2).real / taps + EPSILON
    weights = np.linalg.solve(gram + loading[:, None, None] * np.eye(taps, dtype=np.float32), right)
    predicted: Spectrum = (shifted @ weights)[..., 0].T.astype(np.complex64)
    return predicted


def best_delay(near: Waveform, far: Waveform, most: int) -> int:
    """The delay of far in samples, at most ``most`` either way, that gives the largest correlation with near.

    The lag of the largest absolute cross-correlation; 0 for silence.
    """
    size = fft.next_fast_len(2 * len(near), real=True)
    cross = fft.irfft(fft.rfft(near, size) * fft.rfft(far, size).conj(), size)
    most = min(most, len(near) - 1)
    lags = np.concatenate([cross[-most:], cross[: most + 1]]) if most else cross[:1]
    return int(np.abs(lags).argmax()) - most if np.abs(lags).max() > 0 else 0


def delayed(waveform: Waveform, samples: int) -> Waveform:
    """The waveform later by ``samples`` (earlier where negative), padded with zeros."""
    out = np.zeros_like(waveform)
    if samples >= 0:
        out[samples:] = waveform[: len(waveform) - samples]
    else:
        out[:samples] = waveform[-samples:]
    return out


def stft(waveform: Waveform, window: int, hop: int) -> Spectrum:
    """Hann-windowed spectra of (..., samples) float32, centred and zero-padded: (..., frames, bins) complex64."""
    *others, samples = waveform.shape
    pieces, count = window // hop, 1 + -(-samples // hop)
    shape = hann(window)
    blocks = np.zeros((*others, (count + pieces - 1) * hop), np.float32)
    blocks[..., window // 2 : window // 2 + samples] = waveform
    blocks = blocks.reshape(*others, count + pieces - 1, hop)
    frames = np.empty((*others, count, window), np.float32)
    for piece in range(pieces):  # a frame is as many neighbouring blocks as hops make a window
        part = slice(piece * hop, (piece + 1) * hop)
        np.multiply(blocks[..., piece : piece + count, :], shape[part], out=frames[..., part])
    spectra: Spectrum = fft.rfft(frames, axis=-1, overwrite_x=True)
    return spectra


def istft(spectra: Spectrum, samples: int, window: int, hop: int) -> Waveform:
    """The waveform whose :func:`stft` is nearest to (frames, bins) spectra: (samples,) float32."""
    frames: Waveform = fft.irfft(spectra, window, axis=-1)
    frames *= hann(window)
    total = _overlapped(frames, hop).ravel()[window // 2 : window // 2 + samples]
    total *= _inverse_weight(len(frames), window, hop).ravel()[window // 2 : window // 2 + samples]
    return total


def _overlapped(frames: Waveform, hop: int) -> Waveform:
    """Frames a hop apart added up: (frames, window) to (frames + window / hop - 1, hop)."""
    count, pieces = len(frames), frames.shape[1] // hop
    total = np.zeros((count + pieces - 1, hop), np.float32)
    for piece in range(pieces):
        total[piece : piece + count] += frames[:, piece * hop : (piece + 1) * hop]
    return total


@lru_cache(maxsize=8)
def _inverse_weight(frames: int, window: int, hop: int) -> Waveform:
    """Inverse of the summed squares of overlapping windows; the same for all clips of a length."""
    squares = np.broadcast_to(hann(window) ** 2, (frames, window))
    out: Waveform = (1.0 / np.maximum(_overlapped(squares, hop), 1e-6)).astype(np.float32)
    return out


@lru_cache(maxsize=8)
def hann(window: int) -> Waveform:
    """The periodic Hann window, (window,) float32."""
    shape: Waveform = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    return shape


def _moving_sum(values: NDArray[Any], reach: int, axis: int) -> NDArray[Any]:
    """Sums over every index and ``reach`` neighbours to either side; fewer at the ends."""
    reach = min(reach, values.shape[axis] - 1)
    sums = np.cumsum(values, axis=axis, dtype=np.complex128 if np.iscomplexobj(values) else np.float64)
    padded = np.insert(sums, 0, 0, axis=axis)
    size = values.shape[axis]
    last = np.minimum(np.arange(size) + reach + 1, size)
    first = np.maximum(np.arange(size) - reach, 0)
    return (padded.take(last, axis) - padded.take(first, axis)).astype(values.dtype)


def _shifted(values: Spectrum, frames: int) -> Spectrum:
    out = np.zeros_like(values)
    if frames >= 0:  # of a clip with fewer frames than taps nothing is left
        out[frames:] = values[: max(len(values) - frames, 0)]
    else:
        out[:frames] = values[-frames:]
    return out
