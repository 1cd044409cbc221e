"""Batches of windows with cached spectrograms, shared by all features."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from nearfar.frontends.kaldi import FRAME_SAMPLES, LOG_FLOOR, KaldiFbank

SMALLEST_POWER = 1e-20
LOWEST = math.log(LOG_FLOOR)


@lru_cache(maxsize=4)
def _fbank(device: torch.device) -> KaldiFbank:
    return KaldiFbank().to(device)


class WindowBatch:
    """One view of several windows.

    Args:
        waveform: (windows, padded samples) float32 at 16 kHz, zero-padded at the end, or (windows, signals, padded
            samples), of which log-mel spectrograms describe the first.
        samples: (windows,) int64, lengths before padding.
    """

    def __init__(self, waveform: Tensor, samples: Tensor) -> None:
        self.waveform, self.samples = waveform, samples
        self._log_mels: list[Tensor] | None = None
        self._scaled: tuple[list[Tensor], Tensor] | None = None
        self._spectrograms: dict[nn.Module, Tensor] = {}

    def __len__(self) -> int:
        return len(self.waveform)

    def log_mels(self) -> list[Tensor]:
        """The log-mel spectrogram of each window without its padding, (frames, 128) float32, not normalised.

        After :meth:`scaled_log_mels` it is computed from those, and may differ by rounding.
        """
        if self._log_mels is None and self._scaled is not None:
            pairs = zip(*self._scaled, strict=True)
            self._log_mels = [(one + power.log().float()).clamp_min(LOWEST) for one, power in pairs]
        if self._log_mels is None:
            self._log_mels = self._computed(self._first_signal)
        return self._log_mels

    def scaled_log_mels(self) -> tuple[list[Tensor], Tensor]:
        """Log-mel spectrograms of the windows at unit RMS, and their powers.

        Both are those of the sound, without the constant offset that some recorders add.

        Returns:
            (frames, 128) float32 of each window without its padding, and (windows,) float64 variances.
        """
        if self._scaled is None:
            first = self._first_signal
            pairs = zip(first, self.samples.tolist(), strict=True)
            powers = torch.stack([window[:count].double().var(correction=0) for window, count in pairs])
            powers = powers.clamp_min(SMALLEST_POWER)
            self._scaled = self._computed(first * powers.rsqrt().float()[:, None]), powers
        return self._scaled

    @property
    def _first_signal(self) -> Tensor:
        return self.waveform if self.waveform.dim() == 2 else self.waveform[:, 0]

    def _computed(self, waveform: Tensor) -> list[Tensor]:
        fbank = _fbank(waveform.device)
        lengths = self.samples.clamp_min(FRAME_SAMPLES).tolist()
        if len(set(lengths)) == 1:
            return list(fbank.log_mel(waveform[:, : lengths[0]]))
        return [fbank.log_mel(one[None, :length])[0] for one, length in zip(waveform, lengths, strict=True)]

    def spectrogram(self, frontend: nn.Module) -> Tensor:
        """The output of a front end for the padded windows, computed once for each front end."""
        if frontend not in self._spectrograms:
            padded = self.waveform.shape[-1]
            if type(frontend) is KaldiFbank and bool((self.samples == padded).all()):
                spectrogram = frontend.normalised(torch.stack(self.log_mels()), padded)
            else:
                spectrogram = frontend(self.waveform)
            self._spectrograms[frontend] = spectrogram
        return self._spectrograms[frontend]
