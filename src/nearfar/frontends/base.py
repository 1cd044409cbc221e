"""What every front end of an encoder offers."""

from __future__ import annotations

from torch import Tensor, nn


class Frontend(nn.Module):
    """Base of the front ends of encoders: waveforms to normalised spectrograms."""

    def frame_count(self, samples: int) -> int:
        """Number of spectrogram frames that lie whole within a clip of ``samples`` at 16 kHz."""
        raise NotImplementedError

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) float32 at 16 kHz to (batch, 1, frames, mel bins) float32, padded to whole patches."""
        raise NotImplementedError
