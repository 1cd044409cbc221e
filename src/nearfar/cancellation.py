"""Cancellation of the far channel in the near one: near minus its linear prediction from far.

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
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from nearfar.settings import NotNegative, PositiveFloat, PositiveInt, Settings, refusal
from nearfar.threads import one_thread

__all__ = ["Cancellation", "best_delay", "cancel"]

EPSILON = 1e-12
LOADING = 1e-3
"""Added to the energy of each tap, as a fraction of the taps' mean: overlapping frames are nearly dependent."""

Spectrum = NDArray[np.complex64]
Waveform = NDArray[np.float32]


class Cancellation(Settings):
    """Settings of the cancellation; the defaults are W1 of public systems.

    Attributes:
        window_samples, hop_samples: of the short-time Fourier transform; the window is a multiple of the hop, at
            least twice it.
        smooth_frames: H is estimated over this many frames to either side; None is one H for the whole clip.
        smooth_bins: H is also estimated over this many neighbouring frequencies to either side.
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
                {
                    "hop_samples": (
                        self.hop_samples,
                        f"a divisor of window_samples ({self.window_samples}), at most half",
                    )
                },
            )
        if self.taps > 1 and (self.smooth_frames is not None or self.smooth_bins or self.gain_limit is not None):
            none = f"none, as taps is {self.taps}"
            others = ("smooth_frames", "smooth_bins", "gain_limit")
            related = {name: (getattr(self, name), none) for name in others if getattr(self, name)}
            raise refusal("taps", self.taps, "1, as smooth_frames, smooth_bins or gain_limit is set", related)
        return self


def cancel(
    near: Waveform,
    far: Waveform,
    settings: Cancellation | None = None,
    *,
    sample_rate_hz: int = 16_000,
    **changes: Any,
) -> Waveform:
    """Subtract from the near channel its linear prediction from the far channel.

    The recipe nearfar-best uses ``cancel(near, far, window_samples=8192, hop_samples=2048, gain_limit=1.0)``.

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
    settings = Cancellation.model_validate((settings or Cancellation()).model_dump() | changes)
    peak = float(max(max(channel.max(initial=0.0), -channel.min(initial=0.0)) for channel in (near, far)))
    if peak == 0.0:
        return near.copy()
    if settings.delay_search_ms:
        far = delayed(far, best_delay(near, far, round(settings.delay_search_ms * sample_rate_hz / 1000)))
    with one_thread():
        return near - _predicted(near, far, settings, peak)


def _predicted(near: Waveform, far: Waveform, settings: Cancellation, peak: float) -> Waveform:
    window, hop = settings.window_samples, settings.hop_samples
    near_spectra, far_spectra = (stft(channel, window, hop) for channel in (near, far))
    # The definition divides both channels by their common peak, which is the same as a larger epsilon.
    epsilon = max(EPSILON * peak**2, float(np.finfo(np.float32).tiny))
    if settings.taps > 1:
        predicted = multi_tap(near_spectra, far_spectra, settings.taps)
    else:
        predicted = transfer(near_spectra, far_spectra, settings, epsilon) * far_spectra
    return istft(predicted, len(near), window, hop)


def transfer(near: Spectrum, far: Spectrum, settings: Cancellation, epsilon: float = EPSILON) -> Spectrum:
    """H by least squares, smoothed and limited according to the settings; (1 or frames, bins) complex64."""
    cross: NDArray[Any]
    power: NDArray[Any]
    if settings.smooth_frames is None:
        cross = torch.linalg.vecdot(torch.from_numpy(far), torch.from_numpy(near), dim=0).numpy()[None]
        parts = far.view(np.float32)  # real and imaginary parts side by side
        power = np.einsum("tf,tf->f", parts, parts).reshape(1, -1, 2).sum(axis=2)
    else:
        cross, power = near * far.conj(), far.real**2 + far.imag**2
        cross, power = (_moving_sum(values, settings.smooth_frames, axis=0) for values in (cross, power))
    if settings.smooth_bins:
        cross, power = (_moving_sum(values, settings.smooth_bins, axis=1) for values in (cross, power))
    gain: Spectrum = (cross / (power + np.float32(epsilon))).astype(np.complex64)
    return gain if settings.gain_limit is None else limited(gain, settings.gain_limit)


def limited(gain: Spectrum, limit: float) -> Spectrum:
    """H where |H| <= limit and else H (limit / |H|)^2, so that |H| falls again as limit^2 / |H| beyond it."""
    size = np.abs(gain)
    factor = np.minimum(1.0, limit / np.maximum(size, EPSILON)) ** 2
    return np.asarray(gain * factor, np.complex64)


def multi_tap(near: Spectrum, far: Spectrum, taps: int) -> Spectrum:
    """Least squares over several frames of far: sum_k H_k(f) F(f, t - k), k = -1 ... taps - 2.

    One frame of lead allows for paths that reach the near microphone first. The normal equations of every
    frequency are loaded by 1e-3 of their mean diagonal. Arguments and result are (frames, bins) complex64.
    """
    shifted = np.stack([delayed(far, k) for k in range(-1, taps - 1)], axis=-1).transpose(1, 0, 2)
    gram = shifted.conj().transpose(0, 2, 1) @ shifted
    right = shifted.conj().transpose(0, 2, 1) @ near.T[..., None]
    loading = LOADING * np.trace(gram, axis1=1, axis2=2).real / taps + EPSILON
    weights = np.linalg.solve(gram + loading[:, None, None] * np.eye(taps, dtype=np.float32), right)
    return np.asarray((shifted @ weights)[..., 0].T, np.complex64)


def best_delay(near: Waveform, far: Waveform, most: int) -> int:
    """The delay of far in samples, up to ``most`` either way, of its largest absolute correlation with near.

    0 for silence.
    """
    from scipy import fft

    size = fft.next_fast_len(2 * len(near), real=True)
    cross = fft.irfft(fft.rfft(near, size) * fft.rfft(far, size).conj(), size)
    most = min(most, len(near) - 1)
    lags = np.concatenate([cross[-most:], cross[: most + 1]]) if most else cross[:1]
    return int(np.abs(lags).argmax()) - most if np.abs(lags).max() > 0 else 0


def delayed(values: NDArray[Any], shift: int) -> NDArray[Any]:
    """Shift an array along its first axis to later indices (earlier ones if negative), padded with zeros."""
    out = np.zeros_like(values)
    if shift >= 0:
        out[shift:] = values[: max(len(values) - shift, 0)]
    else:
        out[:shift] = values[-shift:]
    return out


def stft(waveform: Waveform, window: int, hop: int) -> Spectrum:
    """Hann-windowed spectra of (..., samples) float32, centred and zero-padded: (..., frames, bins) complex64."""
    *others, samples = waveform.shape
    count = 1 + -(-samples // hop)
    padded = np.zeros((*others, (count - 1) * hop + window), np.float32)
    padded[..., window // 2 : window // 2 + samples] = waveform
    frames = torch.from_numpy(padded).unfold(-1, window, hop) * torch.from_numpy(hann(window))
    return np.asarray(torch.fft.rfft(frames).numpy())


def istft(spectra: Spectrum, samples: int, window: int, hop: int) -> Waveform:
    """The waveform whose :func:`stft` is nearest to (frames, bins) spectra: (samples,) float32."""
    frames: Waveform = torch.fft.irfft(torch.from_numpy(spectra), window).numpy()
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
    return np.asarray(1.0 / np.maximum(_overlapped(squares, hop), 1e-6), np.float32)


@lru_cache(maxsize=8)
def hann(window: int) -> Waveform:
    """The periodic Hann window, (window,) float32."""
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window), np.float32)


def _moving_sum(values: NDArray[Any], reach: int, axis: int) -> NDArray[Any]:
    """Sums over every index and ``reach`` neighbours to either side; fewer at the ends."""
    from scipy.ndimage import uniform_filter1d

    size = 2 * min(reach, values.shape[axis] - 1) + 1
    return np.asarray(uniform_filter1d(values, size, axis, mode="constant") * np.float32(size))
