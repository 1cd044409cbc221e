"""The front end of Dasheng: mel spectrograms in decibels, with 64 filters."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.frontends.base import Frontend, triangles

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES, HOP_SAMPLES, MEL_BINS = 512, 160, 64
PATCH_FRAMES = 4
POWER_FLOOR = 1e-10
DYNAMIC_RANGE_DB = 120.0
"""Cells further below the loudest one of the clip are raised to it."""

SHORTEST = (PATCH_FRAMES - 1) * HOP_SAMPLES
"""Samples of a clip that gives one patch."""

MEAN, STD = 0.0, 0.5
"""They leave decibels as they are: Dasheng's own normalisation of each mel bin is part of its weights."""


def mel_bank() -> Tensor:
    """Triangles over hertz, equally spaced on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz: (64, 257)."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + SAMPLE_RATE_HZ / 2 / 700.0, dtype=torch.float64))
    mel = top / (MEL_BINS + 1) * torch.arange(MEL_BINS + 2, dtype=torch.float64)
    edges_hz = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    bins_hz = SAMPLE_RATE_HZ / FFT_SAMPLES * torch.arange(FFT_SAMPLES // 2 + 1, dtype=torch.float64)
    return triangles(edges_hz, bins_hz)


class DashengLogMel(Frontend):
    """Mel powers in decibels, normalised.

    Equal to ``torchaudio.transforms.MelSpectrogram(n_fft=512, hop_length=160, n_mels=64)`` and then
    ``AmplitudeToDB(top_db=120)`` at 16 kHz, of one clip.

    Args:
        mean, std: the output is ``(log_mel - mean) / (2 * std)``.

    Frames are centred, with the clip mirrored at its ends; a clip shorter than a patch is first padded with zeros.
    The limit of 120 dB is that of each clip; in the published code it is that of the whole batch. Frames beyond
    the last whole patch of 4 are left out.
    """

    window: Tensor
    mel: Tensor

    def __init__(self, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.register_buffer("window", torch.hann_window(FFT_SAMPLES), persistent=False)
        self.register_buffer("mel", mel_bank().T.float().contiguous(), persistent=False)

    def frame_count(self, samples: int) -> int:
        """Number of frames in whole patches."""
        return (1 + max(samples, SHORTEST) // HOP_SAMPLES) // PATCH_FRAMES * PATCH_FRAMES

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) float32 in [-1, 1] at 16 kHz to (batch, 1, frames, 64) float32, whole patches.

        Raises:
            ValueError: if the waveform is not two-dimensional.
        """
        if waveform.dim() != 2:
            raise ValueError(f"expected (batch, samples), got {tuple(waveform.shape)}")
        with torch.autocast(waveform.device.type, enabled=False):
            half = FFT_SAMPLES // 2
            waveform = F.pad(waveform, (0, max(SHORTEST - waveform.shape[1], 0)))
            padded = F.pad(waveform.float().unsqueeze(1), (half, half), mode="reflect")[:, 0]
            frames = padded.unfold(1, FFT_SAMPLES, HOP_SAMPLES)[:, : self.frame_count(waveform.shape[1])]
            spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window)).square().sum(dim=-1)
            log_mel = 10.0 * (spectrum @ self.mel).clamp_min(POWER_FLOOR).log10()
            floor = log_mel.amax(dim=(1, 2), keepdim=True) - DYNAMIC_RANGE_DB
            return ((torch.maximum(log_mel, floor) - self.mean) / (2.0 * self.std)).unsqueeze(1)
