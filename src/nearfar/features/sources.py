"""Sources of features: the embedding of a trained head, pooled tokens of an encoder, or a log-mel spectrogram.

To add one, write its settings and its extraction in a module of this package and add a line to :data:`SOURCES` in
``nearfar/features/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from nearfar.encoders import Encoder, Tokens, token_keep
from nearfar.explain.dimensions import (
    DECIBELS,
    Dimensions,
    Quantity,
    of_log_mel,
    of_mel_bins,
    of_token_bands,
    undivided,
)
from nearfar.features.windows import WindowBatch
from nearfar.frontends import Frontend
from nearfar.frontends.kaldi import MEL_BINS, PATCH_FRAMES
from nearfar.frontends.slaney import mel_centres_hz as slaney_centres_hz
from nearfar.frontends.slaney import slaney_log_mel
from nearfar.pooling import POOLINGS, log_mel_statistics
from nearfar.registry import Entry, Registry
from nearfar.settings import ChoiceTable, PositiveInt, Settings, each_once, refusal

BANDS = MEL_BINS // PATCH_FRAMES
"""Frequency bands of log-mel statistics, each of 16 mel bins."""


@dataclass(frozen=True)
class EncoderParts:
    """The networks that compute features.

    Attributes:
        frontend: front end of the encoder.
        encoder: fine-tuned or not, or None.
        head: the trained network with its pooling and projection, see :class:`nearfar.models.embedder.Embedder`,
            or None if nothing was trained.
        mask_padding: whether token columns that hold only padding are masked in attention and pooling.
        fast: the encoder with the speed-ups of the recipe, which computes the features; None is ``encoder``.
            ``head`` has it as well.
    """

    frontend: Frontend | None = None
    encoder: Encoder | None = None
    head: Any = None
    mask_padding: bool = False
    fast: Encoder | None = None

    @property
    def depth(self) -> int:
        """Number of blocks of the encoder; 0 without one."""
        return 0 if self.encoder is None else self.encoder.depth


@dataclass(frozen=True, kw_only=True)
class Source(Entry):
    """A source of features.

    Attributes:
        extract: from a batch of windows, the networks and several settings to the features of each, (windows,
            parts, dim) float32; common steps are computed once.
        uses_encoder: whether an encoder is needed.
        needs_head: whether, with these settings, a trained head is needed.
        aggregation: from the settings to a phrase for the description of a submission.
        pieces: from settings and the encoder's depth to the settings of smaller features, which are cached and
            from which these are assembled.
        assemble: from the settings and the features of their pieces, in order, to features.
        cached: whether features are cached on disk.
        check: from settings and the encoder's depth to an error message, or None.
        dimensions: from the settings and the shape (parts, dim) of the features to the frequency band and the
            quantity of every dimension, for explanations; by default all are of the whole spectrum.
    """

    extract: Callable[[WindowBatch, EncoderParts, Sequence[Any]], list[Tensor]]
    uses_encoder: bool
    aggregation: Callable[[Any], str]
    needs_head: Callable[[Any], bool] = lambda settings: False
    pieces: Callable[[Any, int], tuple[Any, ...]] = lambda settings, depth: (settings,)
    assemble: Callable[[Any, Sequence[Tensor]], Tensor] = lambda settings, pieces: pieces[0]
    cached: bool = True
    check: Callable[[Any, int], str | None] = lambda settings, depth: None
    dimensions: Callable[[Any, tuple[int, int]], Dimensions] = lambda settings, shape: undivided(*shape)


SOURCES: Registry[Source] = Registry("source of features")


# --- the embedding of a trained head ----------------------------------------------------------------------------


def _embeddings(batch: WindowBatch, parts: EncoderParts, wanted: Sequence[Settings]) -> list[Tensor]:
    spectrogram = batch.spectrogram(parts.head.frontend)
    embedding: Tensor = parts.head.embed(spectrogram, batch.samples)
    return [embedding.unsqueeze(1)] * len(wanted)


EMBEDDING = Source(
    description="embedding",
    extract=_embeddings,
    uses_encoder=True,
    needs_head=lambda settings: True,
    aggregation=lambda settings: "attentive statistics pooling",
)


# --- pooled tokens ----------------------------------------------------------------------------------------------


class TokenSettings(ChoiceTable):
    """Pooled tokens of one or more blocks of an encoder, over all frequency bands or within each.

    Attributes:
        layers: blocks of the encoder, from 1, each a part of its own; None is the last one.
        average_layers: pool the mean of the blocks' tokens, as one part.
        pooling: pooling of tokens over time (and frequency).
        keep_bands: pool each frequency band separately, as a part of its own.
    """

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"pooling": POOLINGS}
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1), AfterValidator(each_once)] | None = None
    average_layers: bool = False
    pooling: str = "mean"
    keep_bands: bool = False

    @model_validator(mode="after")
    def _fits(self) -> TokenSettings:
        pooling = POOLINGS[self.pooling]
        if self.keep_bands and not pooling.within_bands:
            raise refusal("keep_bands", True, f"false, as pooling = {self.pooling!r} has no frequency bands")
        if pooling.trained and self.layers is not None:
            expected = f"none, as pooling = {self.pooling!r} was trained on the tokens of the last block"
            raise refusal("layers", list(self.layers), expected)
        return self


def _tokens(batch: WindowBatch, parts: EncoderParts, wanted: Sequence[TokenSettings]) -> list[Tensor]:
    encoder, frontend, keep = parts.fast or parts.encoder, parts.frontend, None
    assert encoder is not None
    assert frontend is not None
    spectrogram = batch.spectrogram(frontend)
    if parts.mask_padding:
        keep = token_keep(encoder, frontend, batch.samples, spectrogram.shape[2] // encoder.patch_frames)
    layers = sorted({layer for settings in wanted for layer in settings.layers or (encoder.depth,)})
    tokens = dict(zip(layers, encoder.encode(spectrogram, layers, token_keep=keep), strict=True))
    out = []
    for settings in wanted:
        chosen = [tokens[layer] for layer in settings.layers or (encoder.depth,)]
        if settings.entry("pooling").trained:
            out.append(parts.head.pooling(chosen[-1].patches, keep).unsqueeze(1))
        else:
            out.append(pooled_tokens(chosen, keep, encoder.bands, settings))
    return out


def pooled_tokens(layers: Sequence[Tokens], keep: Tensor | None, bands: int, settings: TokenSettings) -> Tensor:
    """(windows, parts, dim); parts are layers and, within each, bands from low to high."""
    pooling, own = settings.entry("pooling"), settings.settings_of("pooling")
    is_cls = pooling.tokens == "cls"
    values = [token for layer in layers if (token := layer.cls if is_cls else layer.patches) is not None]
    if settings.average_layers:
        values = [torch.stack(values).mean(dim=0)]
    if is_cls:
        return torch.stack(values, dim=1)

    def pool(grid: Tensor) -> Tensor:  # (windows, columns, bands, dim)
        rows = grid.transpose(1, 2) if settings.keep_bands else grid.flatten(1, 2).unsqueeze(1)
        pooled: Tensor = pooling.pool(rows, own)
        return pooled

    out = []
    for patches in values:
        grid = patches.reshape(patches.shape[0], -1, bands, patches.shape[2])
        if keep is None:
            out.append(pool(grid))
        else:
            counts = (keep.sum(dim=1) // bands).tolist()
            out.append(torch.cat([pool(one[None, :count]) for one, count in zip(grid, counts, strict=True)]))
    return torch.cat(out, dim=1)


def _token_pieces(settings: TokenSettings, depth: int) -> tuple[TokenSettings, ...]:
    """One piece per layer; a single piece if layers are averaged or the pooling is that of the trained head."""
    if settings.entry("pooling").trained:
        return (settings,)
    layers = settings.layers or (depth,)
    average = settings.average_layers and len(layers) > 1
    groups = [layers] if average else [(layer,) for layer in layers]
    return tuple(settings.model_copy(update={"layers": group, "average_layers": average}) for group in groups)


def _token_check(settings: TokenSettings, depth: int) -> str | None:
    if settings.layers is not None and max(settings.layers) > depth:
        return f"features.layers = {list(settings.layers)}; expected layers from 1 to {depth}"
    return None


def _token_dimensions(settings: TokenSettings, shape: tuple[int, int]) -> Dimensions:
    """Bands where tokens are pooled within each, else the whole spectrum; a token's dimensions have no names."""
    names = ["tokens"]
    if settings.layers is not None and not settings.average_layers:
        names = [f"tokens of block {block}" for block in settings.layers]
    return of_token_bands(names, *shape) if settings.keep_bands else undivided(*shape, Quantity(", ".join(names)))


TOKENS = Source(
    description="tokens",
    settings=TokenSettings,
    extract=_tokens,
    uses_encoder=True,
    needs_head=lambda settings: bool(settings.entry("pooling").trained),
    aggregation=lambda settings: (
        settings.entry("pooling").described(settings.settings_of("pooling"))
        + " per frequency band" * settings.keep_bands
    ),
    pieces=_token_pieces,
    assemble=lambda settings, pieces: torch.cat(list(pieces), dim=1),
    check=_token_check,
    dimensions=_token_dimensions,
)


# --- statistics of the log-mel spectrogram ----------------------------------------------------------------------


class LogMelSettings(Settings):
    """Statistics of the log-mel spectrogram over time: one part, or one for every 16 of the 128 mel bins.

    Padding is excluded. Deviations and means are not scaled; compare them by the standardised distance.

    Attributes:
        lags: in addition to the mean, the deviation over time of differences this many frames (10 ms) apart; if
            empty, the deviation of the values themselves.
        remove_level: subtract the window's level, its mean over time and frequency, from the means.
        keep_bands: one part per band.
    """

    lags: tuple[PositiveInt, ...] = ()
    remove_level: bool = True
    keep_bands: bool = False


def _log_mel(batch: WindowBatch, parts: EncoderParts, wanted: Sequence[LogMelSettings]) -> list[Tensor]:
    out = []
    for settings in wanted:
        log_mels, level = batch.log_mels(), settings.remove_level
        statistics = [log_mel_statistics(log_mel, settings.lags, remove_level=level) for log_mel in log_mels]
        out.append(_by_band(torch.stack(statistics), settings))
    return out


def _by_band(statistics: Tensor, settings: LogMelSettings) -> Tensor:
    """(windows, statistics, mel bins) to (windows, parts, statistics * bins of a part)."""
    bands = BANDS if settings.keep_bands else 1
    return statistics.reshape(*statistics.shape[:2], bands, -1).transpose(1, 2).flatten(2)


def _log_mel_pieces(settings: LogMelSettings, depth: int) -> tuple[LogMelSettings, ...]:
    """One piece per lag: the mean and a deviation, as one part."""
    lags: list[tuple[int, ...]] = [(lag,) for lag in settings.lags] or [()]
    return tuple(LogMelSettings(lags=each, remove_level=settings.remove_level) for each in lags)


def _assembled_log_mel(settings: LogMelSettings, pieces: Sequence[Tensor]) -> Tensor:
    mean = pieces[0][:, :, :MEL_BINS]
    return _by_band(torch.cat([mean, *(piece[:, :, MEL_BINS:] for piece in pieces)], dim=1), settings)


def _log_mel_dimensions(settings: LogMelSettings, shape: tuple[int, int]) -> Dimensions:
    """Level and variation of every band, both in natural logarithms of energy."""
    relative = " relative to the whole spectrum" if settings.remove_level else ""
    level = Quantity("level" + relative, "quieter" + relative, "louder" + relative, to_db=DECIBELS)
    over = [f"{10 * lag} ms" for lag in settings.lags]
    names = [(f"change over {time}", time) for time in over] or [("variation", "")]
    rest = [Quantity(name, "steadier", "more variable", time, DECIBELS) for name, time in names]
    return of_log_mel(BANDS if settings.keep_bands else 1, [level, *rest])


LOG_MEL = Source(
    description="statistics of the log-mel spectrogram",
    settings=LogMelSettings,
    extract=_log_mel,
    uses_encoder=False,
    aggregation=lambda settings: "mean and deviation over time" + " per frequency band" * settings.keep_bands,
    pieces=_log_mel_pieces,
    assemble=_assembled_log_mel,
    dimensions=_log_mel_dimensions,
)


# --- frames of the autoencoder's front end ----------------------------------------------------------------------


def _slaney(batch: WindowBatch, parts: EncoderParts, wanted: Sequence[Settings]) -> list[Tensor]:
    windows = zip(batch.waveform, batch.samples.tolist(), strict=True)
    frames = torch.stack([slaney_log_mel(window[:count]) for window, count in windows])
    return [frames] * len(wanted)


def _slaney_dimensions(settings: Settings, shape: tuple[int, int]) -> Dimensions:
    """The level of every frame and mel bin, in dB."""
    return of_mel_bins(slaney_centres_hz(), shape[0], Quantity("level", "quieter", "louder", to_db=1.0))


SLANEY = Source(
    description="log-mel energies",
    extract=_slaney,
    uses_encoder=False,
    aggregation=lambda settings: "average",
    cached=False,
    dimensions=_slaney_dimensions,
)
"""Log-mel frames in dB of the official baseline's front end, (windows, frames, 128); equal lengths only."""
