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
from nearfar.frontends.kaldi import FRAME_SAMPLES, MEL_BINS, PATCH_FRAMES, Fbank, frame_count
from nearfar.models.embedder import Embedder
from nearfar.pooling import POOLINGS, AttentiveStatisticsPooling, Pooling, log_mel_statistics
from nearfar.settings import Settings

BANDS = MEL_BINS // PATCH_FRAMES


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
        fbank: its front end.
        features: layers and pooling.
        mask_padding: leave token columns of pure padding out of attention and pooling.
        attention: the trained head's pooling, for ``asp``.

    Raises:
        ValueError: if the encoder has no such block.
    """

    def __init__(
        self,
        encoder: Encoder,
        fbank: Fbank,
        features: Features,
        *,
        mask_padding: bool = False,
        attention: AttentiveStatisticsPooling | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.fbank, self.features, self.mask_padding = encoder, fbank, features, mask_padding
        self.attention = attention
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
        spectrogram = self.fbank(waveform)
        columns = spectrogram.shape[2] // self.encoder.patch_frames
        keep = None
        if self.mask_padding:
            kept = torch.tensor([min(columns, _columns(int(count))) for count in samples])
            keep = (torch.arange(columns) < kept[:, None]).repeat_interleave(self.encoder.bands, dim=1)
            keep = keep.to(spectrogram.device)
        blocks = sorted(set(layers))
        outputs = self.encoder.encode(spectrogram, blocks, token_keep=keep)
        return dict(zip(blocks, outputs, strict=True)), keep

    def pooled(self, tokens: dict[int, Tokens], keep: Tensor | None, features: Features) -> Tensor:
        """Features from what :meth:`tokens` returned, (batch, parts, dim)."""
        layers = features.layers or (self.encoder.depth,)
        if self.attention is not None and features.pooling == "asp":
            statistics: Tensor = self.attention(tokens[layers[-1]].patches, keep)
            return statistics.unsqueeze(1)
        kind = POOLINGS[features.pooling]
        chosen = [_chosen(tokens[layer], kind) for layer in layers]
        if features.average_layers:
            chosen = [torch.stack(chosen).mean(dim=0)]
        if kind.pool is None:
            return torch.cat(chosen, dim=1)
        return torch.cat([self._pooled(layer, keep, features) for layer in chosen], dim=1)

    def _pooled(self, patches: Tensor, keep: Tensor | None, features: Features) -> Tensor:
        """(batch, columns * bands, dim) to (batch, 1 or bands, dim)."""
        bands = self.encoder.bands
        grid = patches.reshape(len(patches), -1, bands, patches.shape[2])  # (batch, columns, bands, dim)
        if keep is None:
            return _pool(grid, features)
        kept = (keep.sum(dim=1) // bands).tolist()
        return torch.cat([_pool(clip[None, :count], features) for clip, count in zip(grid, kept, strict=True)])


def _chosen(tokens: Tokens, kind: Pooling) -> Tensor:
    """The tokens that a pooling reads, (batch, tokens, dim)."""
    if kind.tokens == "patches":
        return tokens.patches
    if tokens.cls is None:
        raise ValueError("expected an encoder with a CLS token")
    return tokens.cls.unsqueeze(1)


def _pool(grid: Tensor, features: Features) -> Tensor:
    kind = POOLINGS[features.pooling]
    assert kind.pool is not None
    tokens = grid.transpose(1, 2) if features.keep_bands else grid.flatten(1, 2).unsqueeze(1)
    return kind.pool(tokens, pooling_settings(features))


def pooling_settings(features: Features) -> Settings:
    """The settings of the pooling that a recipe chooses."""
    kind = POOLINGS[features.pooling].settings
    return kind(**{key: getattr(features, key) for key in kind.model_fields})


class LogMelFeatures(nn.Module):
    """Statistics of the log-mel spectrogram: one part, or one for every 16 of the 128 mel bands.

    Padding is never looked at. Deviations and means keep their units; compare them by the standardised distance.
    """

    def __init__(self, fbank: Fbank, features: Features) -> None:
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


def _columns(samples: int) -> int:
    """Token columns that hold at least one whole frame of a clip."""
    return max(1, -(-max(frame_count(samples), 1) // PATCH_FRAMES))
