"""From waveforms to the features that clips are compared by, (batch, parts, dim).

Three sources: the embedding of a trained head, pooled tokens of an encoder, and statistics of the log-mel
spectrogram. Token ``t * 8 + f`` of EAT is time column t, frequency band f.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nearfar.config import Features
from nearfar.encoders import Encoder, Tokens
from nearfar.frontends import Frontend, KaldiFbank
from nearfar.frontends.kaldi import FRAME_SAMPLES, MEL_BINS, PATCH_FRAMES
from nearfar.models import Embedder
from nearfar.models.embedder import token_keep
from nearfar.pooling import POOLINGS, Pooling, log_mel_statistics
from nearfar.settings import Settings

BANDS = MEL_BINS // PATCH_FRAMES
"""Parts of log-mel statistics that are kept apart by frequency."""


class EmbeddingFeatures(nn.Module):
    """The embedding of a trained head: one part."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """(batch, padded samples) float32 at 16 kHz and (batch,) lengths before padding to (batch, 1, dim)."""
        embedding: Tensor = self.embedder(waveform, samples)
        return embedding.unsqueeze(1)


class TokenFeatures(nn.Module):
    """Pooled tokens of one or more blocks of an encoder, over all bands or within each.

    Args:
        encoder: trained or not.
        frontend: waveforms to the spectrogram that the encoder reads.
        features: layers and pooling.
        mask_padding: leave token columns of pure padding out of attention and pooling.
        trained: the trained head's pooling, for the poolings that are ``trained``, or None.

    Raises:
        ValueError: if the encoder has no such block.
    """

    def __init__(
        self,
        encoder: Encoder,
        frontend: Frontend,
        features: Features,
        *,
        mask_padding: bool = False,
        trained: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.frontend, self.features, self.mask_padding = encoder, frontend, features, mask_padding
        self.trained = trained
        self.layers = features.layers or (encoder.depth,)
        if max(self.layers) > encoder.depth:
            raise ValueError(f"expected layers from 1 to {encoder.depth}, got {list(self.layers)}")

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """As :meth:`EmbeddingFeatures.forward`; parts are layers, and within each its bands from low to high."""
        return self.pooled(*self.tokens(waveform, samples, self.layers), self.features)

    def tokens(
        self, waveform: Tensor, samples: Tensor, layers: Sequence[int]
    ) -> tuple[dict[int, Tokens], Tensor | None]:
        """Tokens by layer, and which patches to keep, (batch, columns * bands) bool or None for all."""
        spectrogram = self.frontend(waveform)
        columns = spectrogram.shape[2] // self.encoder.patch_frames
        keep = token_keep(self.encoder, self.frontend, samples, columns) if self.mask_padding else None
        blocks = sorted(set(layers))
        outputs = self.encoder.encode(spectrogram, blocks, token_keep=keep)
        return dict(zip(blocks, outputs, strict=True)), keep

    def pooled(self, tokens: dict[int, Tokens], keep: Tensor | None, features: Features) -> Tensor:
        """Features from what :meth:`tokens` returned, (batch, parts, dim)."""
        layers = features.layers or (self.encoder.depth,)
        kind, settings = _pooling(features)
        if kind.trained and self.trained is not None:
            statistics: Tensor = self.trained(tokens[layers[-1]].patches, keep)
            return statistics.unsqueeze(1)
        chosen = [_read_by(kind, tokens[layer]) for layer in layers]
        if features.average_layers:
            chosen = [torch.stack(chosen).mean(dim=0)]
        if kind.pool is None:
            return torch.cat(chosen, dim=1)

        def pool(grid: Tensor) -> Tensor:
            """(batch, columns, bands, dim) to (batch, 1 or bands, dim')."""
            assert kind.pool is not None
            groups = grid.transpose(1, 2) if features.keep_bands else grid.flatten(1, 2).unsqueeze(1)
            return kind.pool(groups, settings)

        parts = []
        for patches in chosen:
            grid = patches.reshape(len(patches), -1, self.encoder.bands, patches.shape[2])
            if keep is None:
                parts.append(pool(grid))
            else:
                counts = (keep.sum(dim=1) // self.encoder.bands).tolist()
                parts.append(
                    torch.cat([pool(clip[None, :count]) for clip, count in zip(grid, counts, strict=True)])
                )
        return torch.cat(parts, dim=1)


def _pooling(features: Features) -> tuple[Pooling, Settings]:
    """The pooling that a recipe chooses, and its settings."""
    entry = POOLINGS[features.pooling]
    fields = [name for name in entry.settings.model_fields if hasattr(features, name)]
    return entry, entry.settings(**{name: getattr(features, name) for name in fields})


def _read_by(kind: Pooling, tokens: Tokens) -> Tensor:
    """The tokens that a pooling reads, (batch, tokens, dim)."""
    if kind.tokens == "patches":
        return tokens.patches
    if tokens.cls is None:
        raise ValueError("expected an encoder with a CLS token")
    return tokens.cls.unsqueeze(1)


class LogMelFeatures(nn.Module):
    """Statistics of the log-mel spectrogram: one part, or one for every 16 of the 128 mel bands.

    Padding is never looked at. Deviations and means keep their units; compare them by the standardised distance.
    """

    def __init__(self, fbank: KaldiFbank, features: Features) -> None:
        super().__init__()
        self.fbank, self.features = fbank, features

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """As :meth:`EmbeddingFeatures.forward`; (batch, 1 or 8, statistics * bands of a part)."""
        rows = []
        for clip, count in zip(waveform, samples.tolist(), strict=True):
            log_mel = self.fbank.log_mel(clip[None, : max(count, FRAME_SAMPLES)])[0]
            statistics = log_mel_statistics(log_mel, self.features.lags, remove_level=self.features.remove_level)
            parts = BANDS if self.features.keep_bands else 1
            rows.append(statistics.reshape(len(statistics), parts, -1).transpose(0, 1).flatten(1))
        return torch.stack(rows)
