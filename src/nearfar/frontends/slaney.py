"""Slaney log-mel spectrograms as the challenge's autoencoder baselines use them, in torch.

Equal to ``10 log10(max(mel, eps))`` of ``librosa.feature.melspectrogram(sr=16000, n_fft=1024, hop_length=512,
n_mels=128, power=2.0)``: librosa's defaults are frames centred on multiples of the hop, zeros beyond both ends of
the clip (``pad_mode="constant"``, since librosa 0.10), a periodic Hann window and Slaney's filters of unit area.
"""

from __future__ import annotations

import math
import sys
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.frontends.base import triangles

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 1024
HOP_SAMPLES = 512
MEL_BINS = 128
POWER_FLOOR = sys.float_info.epsilon
"""Mel powers are clamped to double precision's epsilon, so the lowest value is -156.5 dB."""

_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_STARTS_AT_HZ = 1_000.0
_LOG_STARTS_AT_MEL = _LOG_STARTS_AT_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0


def hz_to_mel(hz: float) -> float:
    """Slaney's mel scale: linear, 66.7 Hz per mel, up to 1 kHz; logarithmic, 27 mel per factor 6.4, above."""
    if hz < _LOG_STARTS_AT_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return _LOG_STARTS_AT_MEL + math.log(hz / _LOG_STARTS_AT_HZ) / _LOG_STEP


def mel_to_hz(mel: Tensor) -> Tensor:
    """The inverse of :func:`hz_to_mel`, elementwise."""
    logarithmic = _LOG_STARTS_AT_HZ * torch.exp(_LOG_STEP * (mel - _LOG_STARTS_AT_MEL))
    return torch.where(mel < _LOG_STARTS_AT_MEL, _LINEAR_HZ_PER_MEL * mel, logarithmic)


def mel_bank() -> Tensor:
    """Slaney's filters, (128, 513) float64: triangles over hertz between 0 and 8 kHz, each of unit area."""
    points = torch.linspace(0.0, hz_to_mel(SAMPLE_RATE_HZ / 2), MEL_BINS + 2, dtype=torch.float64)
    edges_hz = mel_to_hz(points)
    bins_hz = SAMPLE_RATE_HZ / FFT_SAMPLES * torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64)
    return triangles(edges_hz, bins_hz) * 2.0 / (edges_hz[2:] - edges_hz[:-2])[:, None]


@cache
def _window_and_filters() -> tuple[Tensor, Tensor]:
    return torch.hann_window(FFT_SAMPLES, periodic=True, dtype=torch.float64), mel_bank().T.contiguous()


def slaney_log_mel(waveform: Tensor) -> Tensor:
    """Log-mel power in decibels, not normalised.

    Computed in double precision, as in librosa: in single precision the quiet bins of loud frames would differ.

    Args:
        waveform: (..., samples) float32 in [-1, 1] at 16 kHz.

    Returns:
        (..., 1 + samples // 512, 128) float32, in dB, not below -156.5: 160,000 samples (10 s) give 313 frames.

    Raises:
        ValueError: if the waveform is empty.
    """
    if waveform.shape[-1] == 0:
        raise ValueError(f"expected (..., samples >= 1), got {tuple(waveform.shape)}")
    window, filters = _window_and_filters()
    padded = F.pad(waveform.double(), (FFT_SAMPLES // 2, FFT_SAMPLES // 2))
    spectrum = torch.fft.rfft(padded.unfold(-1, FFT_SAMPLES, HOP_SAMPLES) * window)
    power = spectrum.real.square() + spectrum.imag.square()
    mel: Tensor = power @ filters
    return (10.0 * mel.clamp_min(POWER_FLOOR).log10()).float()


class SlaneyLogMel(nn.Module):
    """:func:`slaney_log_mel` as a module."""

    def forward(self, waveform: Tensor) -> Tensor:
        """(..., samples) float32 at 16 kHz to (..., 1 + samples // 512, 128) float32 in dB."""
        return slaney_log_mel(waveform)
