"""What a recipe compares clips by: a trained model or a plain encoder or none, and how features are made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nearfar.config import Recipe
from nearfar.data.clips import Channel, View
from nearfar.encoders import encoder_hash, load_encoder
from nearfar.encoders.eat import EAT
from nearfar.errors import InputError
from nearfar.features.extractors import EmbeddingFeatures, LogMelFeatures, TokenFeatures
from nearfar.frontends.kaldi import Fbank
from nearfar.models.network import TrainedModel, load_model, require_positions, start_weights
from nearfar.pooling.attentive import AttentiveStatisticsPooling


@dataclass(frozen=True)
class Representation:
    """From waveforms to features.

    Attributes:
        extractor: (batch, padded samples) waveforms and (batch,) lengths to (batch, parts, dim) features.
        recipe: resolved, so ``audio.clip_seconds`` is a number.
        weights_hash: identity of all that decides the features of a given waveform, but for the recipe's tables.
        parameters: how many numbers were learnt.
    """

    extractor: nn.Module
    recipe: Recipe
    weights_hash: str
    parameters: int

    @property
    def padded_samples(self) -> int:
        """The length that every waveform is padded to."""
        seconds = self.recipe.audio.clip_seconds
        assert not isinstance(seconds, str), "a recipe is resolved before it is used"
        return round(seconds * self.recipe.audio.sample_rate_hz)

    def __call__(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """(batch, padded samples) float32 and (batch,) int64 to (batch, parts, dim) float32, without gradients."""
        with torch.inference_mode():
            features: Tensor = self.extractor(waveform, samples).float()
        return features


def represent(recipe: Recipe, model_folder: Path | None = None) -> Representation:
    """The representation of a recipe.

    Args:
        recipe: resolved.
        model_folder: of the trained model; not read where the recipe trains nothing.

    Raises:
        InputError: if the model or the encoder cannot be loaded, or has not what the recipe asks for.
    """
    if recipe.training.adaptation == "none":
        return _frozen(recipe)
    if model_folder is None:
        raise InputError(
            f"recipe {recipe.name}",
            found="a recipe that trains, without a model",
            expected="a trained model's folder",
            remedy="Train it first with nearfar run, or set training.adaptation to 'none'",
        )
    return of_model(load_model(model_folder), recipe)


def of_model(model: TrainedModel, recipe: Recipe) -> Representation:
    """The representation of a trained model, with the features that ``recipe`` asks for."""
    encoder = model.embedder.encoder
    assert isinstance(encoder, EAT)
    extractor: nn.Module
    if recipe.features.source == "embedding":
        extractor = EmbeddingFeatures(model.embedder)
    elif recipe.features.source == "tokens":
        extractor = _tokens(encoder, model.embedder.fbank, recipe, model.embedder.pooling)
    else:
        extractor = LogMelFeatures(model.embedder.fbank, recipe.features)
    parameters = sum(parameter.numel() for parameter in model.embedder.parameters())
    return Representation(extractor, recipe, model.weights_hash, parameters)


def _frozen(recipe: Recipe) -> Representation:
    fbank = Fbank(recipe.fbank.mean, recipe.fbank.std)
    if recipe.features.source == "log-mel":
        return Representation(LogMelFeatures(fbank, recipe.features).eval(), recipe, "log-mel", 0)
    if recipe.features.source == "embedding":
        raise InputError(
            "features.source",
            found="'embedding' in a recipe that trains nothing",
            expected="'tokens' or 'log-mel', which need no trained head",
            remedy="Correct the recipe, or set training.adaptation to 'full' or 'lora'",
        )
    if recipe.features.pooling == "asp":
        raise InputError(
            "features.pooling",
            found="'asp' in a recipe that trains nothing",
            expected="a pooling without parameters, such as 'mean' or 'rdp'",
            remedy="Correct the recipe, or set training.adaptation to 'full' or 'lora'",
        )
    encoder = load_encoder(start_weights(recipe), revision=recipe.encoder.revision)
    require_positions(encoder, recipe)
    extractor = _tokens(encoder, fbank, recipe).eval().requires_grad_(False)
    constants = (encoder_hash(encoder), recipe.fbank.mean, recipe.fbank.std, recipe.encoder.mask_padding)
    identity = hashlib.sha256(repr(constants).encode()).hexdigest()
    return Representation(extractor, recipe, identity, sum(p.numel() for p in encoder.parameters()))


def _tokens(
    encoder: EAT, fbank: Fbank, recipe: Recipe, attention: AttentiveStatisticsPooling | None = None
) -> TokenFeatures:
    mask = recipe.encoder.mask_padding
    try:
        return TokenFeatures(encoder, fbank, recipe.features, mask_padding=mask, attention=attention)
    except ValueError as error:
        raise InputError(
            "features.layers",
            found=str(list(recipe.features.layers or ())),
            expected=str(error),
            remedy="Correct it",
        ) from None


def waveform_views(recipe: Recipe) -> tuple[View, ...]:
    """The views that features have to be made of, so that every scored view can be had."""
    views: dict[View, None] = {}
    for scored in recipe.scoring.channels:
        if scored == "residual":
            views |= {"near": None, "far": None}
        else:
            views[scored] = None
    return tuple(views)


def scored_features(features: Mapping[View, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """Features of every scored view from those of the waveforms; ``residual`` is near - alpha far, by parts."""
    out: dict[str, Tensor] = {}
    for scored in recipe.scoring.channels:
        if scored == "residual":
            out[scored] = features["near"] - recipe.scoring.residual_alpha * features["far"]
        else:
            out[scored] = features[scored]
    return out


def channels_heard(recipe: Recipe) -> tuple[Channel, ...]:
    """The recorded channels that training and scoring of a recipe read."""
    from nearfar.views import channels_of

    trained: tuple[View, ...] = ()
    if recipe.training.adaptation != "none":
        noise: tuple[View, ...] = ("far",) if recipe.augmentation.far_noise_probability > 0 else ()
        trained = (*recipe.training.channels, *noise)
    return channels_of((*trained, *waveform_views(recipe)))
