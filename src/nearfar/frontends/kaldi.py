"""Kaldi log-mel filter banks as EAT uses them, batched, in torch, on any device.

Equal to ``torchaudio.compliance.kaldi.fbank(htk_compat=True, use_energy=False, window_type="hanning",
num_mel_bins=128, dither=0.0, frame_shift=10)`` at 16 kHz after subtraction of the clip mean, which is EAT's front
end (Chen et al., "EAT: Self-Supervised Pre-Training with Efficient Audio Transformer", IJCAI 2024).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.frontends.base import Frontend, triangles

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 400
FRAME_SHIFT = 160
FFT_SAMPLES = 512
MEL_BINS = 128
LOW_HZ, HIGH_HZ = 20.0, 8_000.0
PREEMPHASIS = 0.97
LOG_FLOOR = 1.1920928955078125e-07
"""Mel energies are clamped to float32's epsilon, so the lowest log-mel value is -15.942385."""

PATCH_FRAMES = 16
"""Frames of one of EAT's patches; spectrograms are padded to a multiple of it."""


def frame_count(samples: int) -> int:
    """Number of 25 ms frames every 10 ms that fit whole into ``samples`` (Kaldi's ``snip_edges``)."""
    return 0 if samples < FRAME_SAMPLES else 1 + (samples - FRAME_SAMPLES) // FRAME_SHIFT


def padded_frame_count(samples: int) -> int:
    """Number of frames, rounded up to whole patches: 256,000 samples (16 s) give 1598, padded to 1600."""
    return -(-frame_count(samples) // PATCH_FRAMES) * PATCH_FRAMES


def mel_bank() -> Tensor:
    """Kaldi's triangular mel filters, (128, 256) float32 of unit height over the FFT bins below Nyquist.

    Triangles are linear on the scale 1127 ln(1 + f / 700) between 20 Hz and 8 kHz. Filter 3 (62.96 to 93.01 Hz)
    contains no FFT bin at 31.25 Hz spacing and is empty; its channel is constant.
    """
    bins_hz = SAMPLE_RATE_HZ / FFT_SAMPLES * torch.arange(FFT_SAMPLES // 2, dtype=torch.float64)
    return triangles(_mel_edges(), 1127.0 * torch.log1p(bins_hz / 700.0)).float()


@cache
def mel_centres_hz() -> Tensor:
    """Centre frequency of each of the 128 filters in hertz, (128,) float64."""
    return 700.0 * torch.expm1(_mel_edges()[1:-1] / 1127.0)


def _mel_edges() -> Tensor:
    """Lower edge of the first filter, all centres, and upper edge of the last, in mel: (130,) float64."""
    low, high = 1127.0 * torch.log1p(torch.tensor([LOW_HZ, HIGH_HZ], dtype=torch.float64) / 700.0)
    edges: Tensor = low + (high - low) / (MEL_BINS + 1) * torch.arange(MEL_BINS + 2, dtype=torch.float64)
    return edges


def _blocks(filters: int) -> list[tuple[slice, slice]]:
    """Blocks of ``filters`` neighbouring filters, and the FFT bins that any of them covers, a few of all."""
    bank, blocks = mel_bank(), []
    for first in range(0, MEL_BINS, filters):
        covered = torch.nonzero(bank[first : first + filters].sum(dim=0))[:, 0]
        blocks.append((slice(first, first + filters), slice(int(covered[0]), int(covered[-1]) + 1)))
    return blocks


_BLOCKS = _blocks(32)
"""Products of these blocks take a quarter of the multiplications of one product with all filters."""


class KaldiFbank(Frontend):
    """Kaldi log-mel filter banks of 16 kHz waveforms, normalised for EAT.

    Args:
        mean, std: the output is ``(log_mel - mean) / (2 * std)``. EAT's AudioSet values are -4.268 and 4.569.

    A padded frame is a zero *before* normalisation, hence ``-mean / (2 * std)`` = +0.467 after it, as in EAT's
    pre-training; it is not silence, which is -1.278.
    """

    window: Tensor
    mel: Tensor

    def __init__(self, mean: float = -4.268, std: float = 4.569) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        window = torch.hann_window(FRAME_SAMPLES, periodic=False, dtype=torch.float64).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("mel", mel_bank().T.contiguous(), persistent=False)

    def frame_count(self, samples: int) -> int:
        """Number of frames that fit whole into a clip of ``samples``; see :func:`frame_count`."""
        return frame_count(samples)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Raw log-mel energies.

        Args:
            waveform: (batch, samples) float32 in [-1, 1] at 16 kHz, at least 400 samples.

        Returns:
            (batch, frames, 128) float32, natural logarithm, not below -15.942385.

        Raises:
            ValueError: if the waveform is not two-dimensional or shorter than one frame.
        """
        if waveform.dim() != 2 or waveform.shape[1] < FRAME_SAMPLES:
            raise ValueError(f"expected (batch, samples >= {FRAME_SAMPLES}), got {tuple(waveform.shape)}")
        # On a CPU, the frames of one clip fit the cache, those of a batch do not.
        together = 1 if waveform.device.type == "cpu" else max(1, len(waveform))
        parts = [self._log_mel(clips) for clips in torch.split(waveform, together)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        waveform = waveform - waveform.mean(dim=1, keepdim=True)
        means = waveform.unfold(1, FRAME_SAMPLES, FRAME_SHIFT).mean(dim=2, keepdim=True)
        # x_t - 0.97 x_(t-1), of the whole clip at once. The window is zero at both ends of a frame, so that the
        # first sample, which has no predecessor within the frame, is left out.
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        window = self.window[1:]
        frames = emphasised.unfold(1, FRAME_SAMPLES - 1, FRAME_SHIFT) * window
        # The mean of a frame, which all of its samples lose before, becomes 0.03 of it.
        frames = torch.addcmul(frames, means, window, value=PREEMPHASIS - 1.0)
        spectrum = torch.fft.rfft(F.pad(frames, (1, FFT_SAMPLES - FRAME_SAMPLES)))
        squares = torch.view_as_real(spectrum).square()
        power = squares[..., 0] + squares[..., 1]
        mel = torch.cat([power[..., bins] @ self.mel[bins, filters] for filters, bins in _BLOCKS], dim=-1)
        log_mel: Tensor = mel.clamp_min(LOG_FLOOR).log()
        return log_mel

    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel, padded with zero frames to whole patches of 16 frames.

        Args:
            waveform: (batch, samples) float32 at 16 kHz.

        Returns:
            (batch, 1, frames, 128) float32 with ``frames = padded_frame_count(samples)``.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            return self.normalised(self.log_mel(waveform.float()), waveform.shape[1])

    def normalised(self, log_mel: Tensor, samples: int) -> Tensor:
        """The output of :meth:`forward` from that of :meth:`log_mel`, for waveforms of ``samples``."""
        missing = padded_frame_count(samples) - log_mel.shape[1]
        return ((F.pad(log_mel, (0, 0, 0, missing)) - self.mean) / (2.0 * self.std)).unsqueeze(1)
