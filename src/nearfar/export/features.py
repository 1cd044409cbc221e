"""Sources of features as modules that can be exported: (windows, samples) to (windows, parts, dim) float32.

To export another source, add a line to :data:`EXPORTED_SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.encoders import Tokens
from nearfar.export.signals import LogMel, cannot, exported_frontend
from nearfar.features.sources import BANDS, pooled_tokens
from nearfar.features.windows import SMALLEST_POWER
from nearfar.frontends.kaldi import MEL_BINS, mel_centres_hz
from nearfar.pipeline.extractor import Extractor


def log_mel_statistics(log_mel: Tensor, lags: tuple[int, ...], *, remove_level: bool) -> Tensor:
    """:func:`nearfar.pooling.log_mel_statistics` of several windows.

    (windows, frames, bins) to (windows, statistics, bins).
    """
    mean = log_mel.mean(dim=1)
    first = mean
    if remove_level:
        varies = ((log_mel.amax(dim=1) - log_mel.amin(dim=1)) > 0).to(mean.dtype)
        level = (mean * varies).sum(dim=1, keepdim=True) / varies.sum(dim=1, keepdim=True).clamp_min(1.0)
        first = (mean - level) * varies
    rows = [first, *(_deviation(log_mel[:, lag:] - log_mel[:, :-lag]) for lag in lags)]
    if not lags:
        rows.append(_deviation(log_mel - log_mel[:, :1]))
    return torch.stack(rows, dim=1)


def _deviation(rows: Tensor) -> Tensor:
    return (rows - rows.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


class LogMelFeatures(nn.Module):
    """The source ``log-mel``."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.log_mel, self.settings = LogMel(), extractor.settings

    def forward(self, waveform: Tensor) -> Tensor:
        settings = self.settings
        statistics = log_mel_statistics(self.log_mel(waveform), settings.lags, remove_level=settings.remove_level)
        bands = BANDS if settings.keep_bands else 1
        rows = statistics.shape[1]
        return statistics.reshape(-1, rows, bands, MEL_BINS // bands).transpose(1, 2).flatten(2)


class ScaledLogMelFeatures(nn.Module):
    """The source ``scaled-log-mel``."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.log_mel, self.settings = LogMel(), extractor.settings
        self.kept = int((mel_centres_hz() < self.settings.highest_hz).sum())

    def forward(self, waveform: Tensor) -> Tensor:
        samples = waveform.double()
        power = (samples - samples.mean(dim=1, keepdim=True)).square().mean(dim=1).clamp_min(SMALLEST_POWER)
        log_mel = self.log_mel(waveform * power.rsqrt().float()[:, None])[:, :, : self.kept]
        statistics = log_mel_statistics(log_mel, self.settings.lags, remove_level=True)
        whole = torch.nn.functional.pad(statistics, (0, MEL_BINS - self.kept))
        level = torch.nn.functional.pad(power.log().float()[:, None, None], (0, MEL_BINS - 1))
        return torch.cat([level, whole], dim=1)


class TokenFeatures(nn.Module):
    """The source ``tokens``."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        parts, self.settings = extractor.parts, extractor.settings
        assert parts.encoder is not None
        assert parts.frontend is not None
        self.encoder = parts.encoder
        self.frontend = exported_frontend(parts.frontend, extractor.padded_samples, parts.mask_padding)
        self.trained = parts.head.pooling if self.settings.entry("pooling").trained else None

    def forward(self, waveform: Tensor) -> Tensor:
        layers = self.settings.layers or (self.encoder.depth,)
        distinct = sorted(set(layers))
        found = dict(zip(distinct, self.encoder.encode(self.frontend(waveform), distinct), strict=True))
        chosen: list[Tokens] = [found[layer] for layer in layers]
        if self.trained is not None:
            pooled: Tensor = self.trained(chosen[-1].patches, None)
            return pooled.unsqueeze(1)
        return pooled_tokens(chosen, None, self.encoder.bands, self.settings)


class EmbeddingFeatures(nn.Module):
    """The source ``embedding``: the trained head."""

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        head = extractor.parts.head
        self.encoder, self.pooling, self.projection = head.encoder, head.pooling, head.projection
        own_length = extractor.parts.mask_padding
        self.frontend = exported_frontend(head.frontend, extractor.padded_samples, own_length)

    def forward(self, waveform: Tensor) -> Tensor:
        (last,) = self.encoder.encode(self.frontend(waveform))
        embedding: Tensor = self.projection(self.pooling(last.patches, None))
        return embedding.unsqueeze(1)


EXPORTED_SOURCES: dict[str, Callable[[Extractor], nn.Module]] = {
    "log-mel": LogMelFeatures,
    "scaled-log-mel": ScaledLogMelFeatures,
    "tokens": TokenFeatures,
    "embedding": EmbeddingFeatures,
}


def exported_source(extractor: Extractor) -> nn.Module:
    """The module of an extractor's source of features.

    Raises:
        InputError: if it has none, or the recipe has speed-ups.
    """
    recipe: Any = extractor.recipe
    if recipe.inference.speedups:
        raise cannot("inference.speedups", ", ".join(recipe.inference.speedups))
    name = recipe.features.source
    if name not in EXPORTED_SOURCES:
        raise cannot("features.source", f"{name!r}")
    return EXPORTED_SOURCES[name](extractor).eval()
