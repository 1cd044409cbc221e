"""Several kinds of features from one forward pass, each stored in the smallest pieces that others are made of.

A piece is one layer, or the mean of some, pooled in one way; or the mean and one deviation of the log-mel
spectrogram. Features of several layers are pieces side by side, and so are log-mel statistics of several lags,
with or without bands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nearfar.config import Features
from nearfar.features.extractors import (
    BANDS,
    EmbeddingFeatures,
    LogMelFeatures,
    TokenFeatures,
)
from nearfar.frontends.kaldi import FRAME_SAMPLES, MEL_BINS
from nearfar.pooling.statistics import log_mel_statistics


def pieces_of(features: Features, depth: int) -> tuple[Features, ...]:
    """The pieces that features are made of, in their order, each without what it does not read.

    Args:
        features: of a recipe.
        depth: blocks of the encoder, the last of which ``layers = None`` means.
    """
    if features.source == "embedding":
        return (Features(),)
    if features.source == "log-mel":
        level = features.remove_level
        lags: list[tuple[int, ...]] = [(lag,) for lag in features.lags] or [()]
        return tuple(Features(source="log-mel", lags=each, remove_level=level) for each in lags)
    if features.pooling == "asp":
        return (Features(source="tokens", pooling="asp"),)
    pooling, bands = features.pooling, features.keep_bands
    gamma = features.rdp_gamma if pooling == "rdp" else Features().rdp_gamma
    layers = features.layers or (depth,)
    together = features.average_layers and len(layers) > 1
    return tuple(
        Features(
            source="tokens",
            layers=each,
            average_layers=together,
            pooling=pooling,
            rdp_gamma=gamma,
            keep_bands=bands,
        )
        for each in ([layers] if together else [(layer,) for layer in layers])
    )


def piece_shape(piece: Features, token_dim: int, embedding_dim: int) -> tuple[int, int]:
    """(parts, dim) of a piece."""
    if piece.source == "embedding":
        return 1, embedding_dim
    if piece.source == "log-mel":
        return 1, 2 * MEL_BINS
    return BANDS if piece.keep_bands else 1, token_dim * (2 if piece.pooling in ("mean-std", "asp") else 1)


def assembled(features: Features, pieces: Mapping[Features, Tensor], depth: int) -> Tensor:
    """Features from their pieces, (clips, parts, dim) each: what the extractor of ``features`` itself gives."""
    rows = [pieces[piece] for piece in pieces_of(features, depth)]
    if features.source != "log-mel":
        return torch.cat(rows, dim=1)
    mean = rows[0][:, :, :MEL_BINS]
    statistics = torch.cat([mean, *(row[:, :, MEL_BINS:] for row in rows)], dim=1)  # (clips, statistics, mels)
    parts = BANDS if features.keep_bands else 1
    by_part = statistics.reshape(*statistics.shape[:2], parts, -1)
    return by_part.transpose(1, 2).flatten(2)


class Statistics(nn.Module):
    """All pieces of a batch of clips from one pass through the encoder, side by side.

    Args:
        extractor: of a recipe with the same encoder, or none, and the same front end.
        pieces: all of one source, which is the extractor's.
    """

    def __init__(self, extractor: nn.Module, pieces: Sequence[Features]) -> None:
        super().__init__()
        self.extractor, self.pieces = extractor, tuple(pieces)

    def forward(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """(batch, padded samples) float32 and (batch,) lengths to (batch, 1, all numbers of all pieces)."""
        return torch.cat([piece.flatten(1) for piece in self._each(waveform, samples)], dim=1).unsqueeze(1)

    def _each(self, waveform: Tensor, samples: Tensor) -> Iterable[Tensor]:
        if isinstance(self.extractor, TokenFeatures):
            last = (self.extractor.encoder.depth,)
            layers = [layer for piece in self.pieces for layer in piece.layers or last]
            tokens, keep = self.extractor.tokens(waveform, samples, layers)
            for piece in self.pieces:
                yield self.extractor.pooled(tokens, keep, piece)
        elif isinstance(self.extractor, LogMelFeatures):
            yield from self._of_log_mel(self.extractor, waveform, samples)
        else:
            assert isinstance(self.extractor, EmbeddingFeatures)
            yield from [self.extractor(waveform, samples)] * len(self.pieces)

    def _of_log_mel(self, extractor: LogMelFeatures, waveform: Tensor, samples: Tensor) -> list[Tensor]:
        clips = []
        for clip, count in zip(waveform, samples.tolist(), strict=True):
            log_mel = extractor.fbank.log_mel(clip[None, : max(count, FRAME_SAMPLES)])[0]
            clips.append(
                [log_mel_statistics(log_mel, each.lags, remove_level=each.remove_level) for each in self.pieces]
            )
        return [torch.stack(rows) for rows in zip(*clips, strict=True)]
