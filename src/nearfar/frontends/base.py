"""Base class of the front ends of encoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Frontend(nn.Module):
    """Base of the front ends of encoders: waveforms to normalised spectrograms."""

    def frame_count(self, samples: int) -> int:
        """Number of spectrogram frames that fit whole into a clip of ``samples`` at 16 kHz."""
        raise NotImplementedError

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, samples) float32 at 16 kHz to (batch, 1, frames, mel bins) float32, padded to whole patches."""
        raise NotImplementedError


class EachSignal(Frontend):
    """A front end for several signals at once: (batch, signals, samples) to (batch, signals, frames, mel bins).

    Args:
        frontend: applied to each signal alone.
    """

    def __init__(self, frontend: Frontend) -> None:
        super().__init__()
        self.frontend = frontend

    def frame_count(self, samples: int) -> int:
        """As :meth:`Frontend.frame_count`."""
        return self.frontend.frame_count(samples)

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class; raises a ValueError if the waveform has no axis of signals."""
        if waveform.dim() != 3:
            raise ValueError(f"expected waveforms of (batch, signals, samples), got {tuple(waveform.shape)}")
        spectrograms: Tensor = self.frontend(waveform.flatten(0, 1))
        return spectrograms.view(*waveform.shape[:2], *spectrograms.shape[2:])


def triangles(edges: Tensor, bins: Tensor) -> Tensor:
    """Overlapping triangular filters of unit height, (filters, bins), from (filters + 2,) edges and centres."""
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0.0)
