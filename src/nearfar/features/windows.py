"""Batches of windows with cached spectrograms, shared by all features."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from nearfar.frontends.kaldi import FRAME_SAMPLES, KaldiFbank


@lru_cache(maxsize=4)
def _fbank(device: torch.device) -> KaldiFbank:
    return KaldiFbank().to(device)


class WindowBatch:
    """One view of several windows.

    Args:
        waveform: (windows, padded samples) float32 at 16 kHz, zero-padded at the end.
        samples: (windows,) int64, lengths before padding.
    """

    def __init__(self, waveform: Tensor, samples: Tensor) -> None:
        self.waveform, self.samples = waveform, samples
        self._log_mels: list[Tensor] | None = None
        self._spectrograms: dict[nn.Module, Tensor] = {}

    def __len__(self) -> int:
        return len(self.waveform)

    def log_mels(self) -> list[Tensor]:
        """The log-mel spectrogram of each window without its padding, (frames, 128) float32, not normalised."""
        if self._log_mels is None:
            fbank = _fbank(self.waveform.device)
            lengths = self.samples.clamp_min(FRAME_SAMPLES).tolist()
            if len(set(lengths)) == 1:
                self._log_mels = list(fbank.log_mel(self.waveform[:, : lengths[0]]))
            else:
                pairs = zip(self.waveform, lengths, strict=True)
                self._log_mels = [fbank.log_mel(window[None, :length])[0] for window, length in pairs]
        return self._log_mels

    def spectrogram(self, frontend: nn.Module) -> Tensor:
        """The output of a front end for the padded windows, computed once for each front end."""
        if frontend not in self._spectrograms:
            padded = self.waveform.shape[1]
            if isinstance(frontend, KaldiFbank) and bool((self.samples == padded).all()):
                spectrogram = frontend.normalised(torch.stack(self.log_mels()), padded)
            else:
                spectrogram = frontend(self.waveform)
            self._spectrograms[frontend] = spectrogram
        return self._spectrograms[frontend]
