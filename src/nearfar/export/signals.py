"""Views and log-mel spectrograms as modules that can be exported: of several windows of one length at once.

To export another view, add a line to :data:`EXPORTED_VIEWS`; to export another front end, to
:data:`EXPORTED_FRONTENDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.cancellation import EPSILON, Cancellation, hann
from nearfar.errors import InputError
from nearfar.export.fourier import RealDFT
from nearfar.frontends import Frontend, KaldiFbank, dasheng
from nearfar.frontends.base import EachSignal
from nearfar.frontends.beats import FULL_SCALE, POVEY, BEATsFbank
from nearfar.frontends.dasheng import DashengLogMel
from nearfar.frontends.kaldi import (
    FFT_SAMPLES,
    FRAME_SAMPLES,
    FRAME_SHIFT,
    LOG_FLOOR,
    PATCH_FRAMES,
    PREEMPHASIS,
    frame_count,
    mel_bank,
)

ViewOf = Callable[[Mapping[str, Tensor]], Tensor]
"""From recorded channels, each (windows, samples), to (windows, samples) or (windows, signals, samples)."""


def cannot(what: str, reason: str) -> InputError:
    """The error about something that has no counterpart in ONNX."""
    return InputError(
        what, found=reason, expected="what can be exported", remedy="Choose another recipe; see docs/export.md"
    )


# --- views -------------------------------------------------------------------------------------------------------


class Cancelled(nn.Module):
    """:func:`nearfar.cancellation.cancel` of windows, for one factor per frequency and window."""

    weight: Tensor

    def __init__(self, settings: Cancellation) -> None:
        super().__init__()
        smooth = settings.smooth_frames is not None or settings.smooth_bins > 0
        if settings.taps > 1 or smooth or settings.delay_search_ms > 0:
            raise cannot("cancellation", "taps, smoothing or a delay search")
        self.window, self.hop, self.limit = settings.window_samples, settings.hop_samples, settings.gain_limit
        if self.window % 2:
            raise cannot("cancellation.window_samples", f"{self.window}, an odd number")
        self.dft = RealDFT(self.window)
        self.register_buffer("weight", torch.from_numpy(hann(self.window)).clone())

    def forward(self, channels: Mapping[str, Tensor]) -> Tensor:
        near, far = channels["near"], channels["far"]
        one, other = self._spectra(near), self._spectra(far)  # (windows, frames, bins, 2)
        real = (one * other).sum(dim=(1, 3))
        imaginary = (one[..., 1] * other[..., 0] - one[..., 0] * other[..., 1]).sum(dim=1)
        peak = torch.maximum(near.abs().amax(dim=1), far.abs().amax(dim=1))[:, None]
        power = other.square().sum(dim=(1, 3)) + (EPSILON * peak.square()).clamp_min(1.1754944e-38)
        real, imaginary = real / power, imaginary / power
        if self.limit is not None:
            size = (real.square() + imaginary.square()).sqrt()
            factor = (self.limit / size.clamp_min(EPSILON)).clamp_max(1.0).square()
            real, imaginary = real * factor, imaginary * factor
        real, imaginary = real[:, None], imaginary[:, None]
        predicted = torch.stack(
            [
                real * other[..., 0] - imaginary * other[..., 1],
                real * other[..., 1] + imaginary * other[..., 0],
            ],
            dim=-1,
        )
        cancelled: Tensor = near - self._signal(predicted, near.shape[1])
        return cancelled

    def _spectra(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[1]
        count = 1 + (samples + self.hop - 1) // self.hop
        end = (count - 1) * self.hop + self.window - self.window // 2 - samples
        pieces = F.pad(waveform, (self.window // 2, end)).reshape(waveform.shape[0], -1, self.hop)
        number = self.window // self.hop
        frames = torch.cat([pieces[:, first : first + count] for first in range(number)], dim=2)
        spectra = self.dft((frames * self.weight).flatten(0, 1))
        by_window: Tensor = spectra.reshape(waveform.shape[0], -1, self.window // 2 + 1, 2)
        return by_window

    def _signal(self, spectra: Tensor, samples: Any) -> Tensor:
        frames = self.dft.inverse(spectra.flatten(0, 1)).reshape(spectra.shape[0], -1, self.window) * self.weight
        total = self._overlapped(frames) / self._overlapped(
            torch.ones_like(frames) * self.weight.square()
        ).clamp_min(1e-6)
        signal: Tensor = total.flatten(1)[:, self.window // 2 :][:, :samples]
        return signal

    def _overlapped(self, frames: Tensor) -> Tensor:
        number = self.window // self.hop
        return torch.stack(
            [
                F.pad(frames[:, :, i * self.hop : (i + 1) * self.hop], (0, 0, i, number - 1 - i))
                for i in range(number)
            ]
        ).sum(dim=0)


EXPORTED_VIEWS: dict[str, Callable[[Any], ViewOf]] = {
    "near": lambda settings: lambda channels: channels["near"],
    "far": lambda settings: lambda channels: channels["far"],
    "cancelled": Cancelled,
    "pair": lambda settings: lambda channels: torch.stack([channels["near"], channels["far"]], dim=1),
}


# --- spectrograms ------------------------------------------------------------------------------------------------


class LogMel(nn.Module):
    """:meth:`KaldiFbank.log_mel`: (windows, samples) to (windows, frames, 128), natural logarithm.

    Mean, pre-emphasis, window and Fourier transform of a frame are linear, so that they are one convolution.

    Args:
        exponent: of the Hann window; 0.85 gives the Povey window.
    """

    kernel: Tensor
    mel: Tensor

    def __init__(self, exponent: float = 1.0) -> None:
        super().__init__()
        frame = torch.eye(FRAME_SAMPLES, dtype=torch.float64)
        frame = frame - frame.mean(dim=1, keepdim=True)
        emphasised = frame[:, 1:] - PREEMPHASIS * frame[:, :-1]
        window = torch.hann_window(FRAME_SAMPLES, periodic=False, dtype=torch.float64)[1:] ** exponent
        padded = F.pad(emphasised * window, (1, FFT_SAMPLES - FRAME_SAMPLES))
        spectrum = torch.fft.rfft(padded)[:, : FFT_SAMPLES // 2]
        kernel = torch.cat([spectrum.real, spectrum.imag], dim=1).T
        self.register_buffer("kernel", kernel.float().unsqueeze(1).contiguous())
        self.register_buffer("mel", mel_bank().T.contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        centred = waveform - waveform.mean(dim=1, keepdim=True)
        parts = F.conv1d(centred.unsqueeze(1), self.kernel, stride=FRAME_SHIFT).square()
        power = parts[:, : FFT_SAMPLES // 2] + parts[:, FFT_SAMPLES // 2 :]
        return (power.transpose(1, 2) @ self.mel).clamp_min(LOG_FLOOR).log()


class KaldiSpectrogram(nn.Module):
    """:class:`KaldiFbank`: (windows, samples) to (windows, 1, frames, 128), whole patches.

    Args:
        frontend: whose mean and deviation apply.
        padded_samples: windows are zero-padded to this length.
        own_length: whether columns of patches that hold only padding are left out.
    """

    def __init__(self, frontend: KaldiFbank, padded_samples: int, own_length: bool) -> None:
        super().__init__()
        self.log_mel, self.mean, self.std = LogMel(), frontend.mean, frontend.std
        self.padded_samples, self.own_length = padded_samples, own_length
        self.missing = -frame_count(padded_samples) % PATCH_FRAMES

    def forward(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[1]
        log_mel = self.log_mel(F.pad(waveform, (0, self.padded_samples - samples)))
        spectrogram = (F.pad(log_mel, (0, 0, 0, self.missing)) - self.mean) / (2.0 * self.std)
        if self.own_length:
            columns = ((samples - FRAME_SAMPLES) // FRAME_SHIFT + PATCH_FRAMES) // PATCH_FRAMES
            spectrogram = spectrogram[:, : columns * PATCH_FRAMES]
        return spectrogram.unsqueeze(1)


class BEATsSpectrogram(nn.Module):
    """:class:`BEATsFbank`: (windows, samples) to (windows, 1, frames, 128), without frames behind whole patches.

    Args: as those of :class:`KaldiSpectrogram`.
    """

    def __init__(self, frontend: BEATsFbank, padded_samples: int, own_length: bool) -> None:
        super().__init__()
        self.log_mel, self.mean, self.std = LogMel(POVEY), frontend.mean, frontend.std
        self.padded_samples, self.own_length = padded_samples, own_length
        self.frames = frontend.frame_count(padded_samples)
        if self.frames < PATCH_FRAMES:
            raise cannot("audio.clip_seconds", "windows of less than a patch of BEATs")

    def forward(self, waveform: Tensor) -> Tensor:
        samples = waveform.shape[1]
        log_mel = self.log_mel(FULL_SCALE * F.pad(waveform, (0, self.padded_samples - samples)))
        spectrogram = (log_mel[:, : self.frames] - self.mean) / (2.0 * self.std)
        if self.own_length:
            end = ((samples - FRAME_SAMPLES) // FRAME_SHIFT + 1) // PATCH_FRAMES * PATCH_FRAMES
            # The first column stays, however short the window is.
            spectrogram = torch.cat([spectrogram[:, :PATCH_FRAMES], spectrogram[:, PATCH_FRAMES:end]], dim=1)
        alone: Tensor = spectrogram.unsqueeze(1)
        return alone


class DashengSpectrogram(nn.Module):
    """:class:`DashengLogMel`: (windows, samples) to (windows, 1, frames, 64), without frames behind whole patches.

    Args: as those of :class:`KaldiSpectrogram`.
    """

    kernel: Tensor
    mel: Tensor

    def __init__(self, frontend: DashengLogMel, padded_samples: int, own_length: bool) -> None:
        super().__init__()
        self.mean, self.std = frontend.mean, frontend.std
        self.padded_samples, self.own_length = max(padded_samples, dasheng.SHORTEST), own_length
        self.frames = frontend.frame_count(padded_samples)
        window = torch.hann_window(dasheng.FFT_SAMPLES, dtype=torch.float64)
        spectrum = torch.fft.rfft(torch.diag(window))
        kernel = torch.cat([spectrum.real, spectrum.imag], dim=1).T
        self.register_buffer("kernel", kernel.float().unsqueeze(1).contiguous())
        self.register_buffer("mel", frontend.mel.clone())

    def forward(self, waveform: Tensor) -> Tensor:
        samples, half = waveform.shape[1], dasheng.FFT_SAMPLES // 2
        whole = F.pad(waveform, (0, self.padded_samples - samples)).unsqueeze(1)
        mirrored = F.pad(whole, (half, half), mode="reflect")
        parts = F.conv1d(mirrored, self.kernel, stride=dasheng.HOP_SAMPLES)[:, :, : self.frames].square()
        power = parts[:, : half + 1] + parts[:, half + 1 :]
        log_mel = (power.transpose(1, 2) @ self.mel).clamp_min(dasheng.POWER_FLOOR).log() * (10.0 / math.log(10.0))
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - dasheng.DYNAMIC_RANGE_DB
        spectrogram: Tensor = (torch.maximum(log_mel, floor) - self.mean) / (2.0 * self.std)
        if self.own_length:
            patch = dasheng.PATCH_FRAMES
            end = (1 + samples // dasheng.HOP_SAMPLES) // patch * patch
            # The first column stays, however short the window is.
            spectrogram = torch.cat([spectrogram[:, :patch], spectrogram[:, patch:end]], dim=1)
        return spectrogram.unsqueeze(1)


class EachSpectrogram(nn.Module):
    """:class:`EachSignal`: (windows, signals, samples) to (windows, signals, frames, 128)."""

    def __init__(self, frontend: EachSignal, padded_samples: int, own_length: bool) -> None:
        super().__init__()
        self.inner = exported_frontend(frontend.frontend, padded_samples, own_length)

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.cat([self.inner(waveform[:, signal]) for signal in range(2)], dim=1)


EXPORTED_FRONTENDS: dict[type[Frontend], Callable[[Any, int, bool], nn.Module]] = {
    KaldiFbank: KaldiSpectrogram,
    BEATsFbank: BEATsSpectrogram,
    DashengLogMel: DashengSpectrogram,
    EachSignal: EachSpectrogram,
}


def exported_frontend(frontend: Frontend, padded_samples: int, own_length: bool) -> nn.Module:
    """The module of a front end; arguments as those of :class:`KaldiSpectrogram`.

    Raises:
        InputError: if it has none.
    """
    if type(frontend) not in EXPORTED_FRONTENDS:
        raise cannot("front end", type(frontend).__name__)
    return EXPORTED_FRONTENDS[type(frontend)](frontend, padded_samples, own_length)
