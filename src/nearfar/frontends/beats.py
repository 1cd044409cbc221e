"""The front end of BEATs: Kaldi log-mel filter banks with the Povey window, of samples of 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.frontends.base import Frontend
from nearfar.frontends.kaldi import FRAME_SAMPLES, PATCH_FRAMES, KaldiFbank, frame_count

FULL_SCALE = 2.0**15
POVEY = 0.85
"""Kaldi's Povey window is the Hann window to this power."""
MEAN, STD = 15.41663, 6.55582
"""Of the spectrograms that BEATs was trained on."""


class BEATsFbank(Frontend):
    """Equal to ``torchaudio.compliance.kaldi.fbank(waveform * 2 ** 15, num_mel_bins=128)``, then normalised.

    Args:
        mean, std: the output is ``(log_mel - mean) / (2 * std)``.

    Frames beyond the last whole patch are left out, as the published code ignores them; a clip of less than a
    patch is padded.
    """

    def __init__(self, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.mean, self.std, self.fbank = mean, std, KaldiFbank(mean, std)
        window = torch.hann_window(FRAME_SAMPLES, periodic=False, dtype=torch.float64) ** POVEY
        self.fbank.window.copy_(window)

    def frame_count(self, samples: int) -> int:
        """Number of frames in whole patches."""
        return frame_count(samples) // PATCH_FRAMES * PATCH_FRAMES

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) float32 in [-1, 1] at 16 kHz to (batch, 1, frames, 128), whole patches."""
        with torch.autocast(waveform.device.type, enabled=False):
            log_mel = self.fbank.log_mel(FULL_SCALE * waveform.float())
        frames = log_mel.shape[1]
        if frames < PATCH_FRAMES:
            log_mel = torch.nn.functional.pad(log_mel, (0, 0, 0, PATCH_FRAMES - frames))
        else:
            log_mel = log_mel[:, : frames // PATCH_FRAMES * PATCH_FRAMES]
        return ((log_mel - self.mean) / (2.0 * self.std)).unsqueeze(1)
