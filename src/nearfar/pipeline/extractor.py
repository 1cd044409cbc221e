"""Extractors compute the features of a recipe with a trained model, a frozen encoder or only a front end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar.config import Recipe
from nearfar.config.validation import digest
from nearfar.encoders import ENCODERS, encoder_hash, parameter_count
from nearfar.encoders.speedups import faster
from nearfar.errors import InputError
from nearfar.explain.dimensions import Dimensions, undivided
from nearfar.features import EncoderParts, Source, WindowBatch
from nearfar.models import TrainedEmbedder, load_model, load_start
from nearfar.settings import Settings


@dataclass(frozen=True, eq=False)
class Extractor:
    """From batches of windows to features.

    Attributes:
        recipe: resolved, so ``audio.clip_seconds`` is a number.
        parts: what features are computed with.
        weights_hash: equal where the same waveform gives the same features, apart from the recipe's keys.
        parameters: number of trained scalars.
        folder: of the trained model; None where the recipe trains nothing, or the model is in memory only.
    """

    recipe: Recipe
    parts: EncoderParts
    weights_hash: str
    parameters: int
    folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """By the recipe and the model's folder: a worker process loads its own networks, and each only once."""
        if self.folder is None and self.recipe.trains:
            return Extractor, (self.recipe, self.parts, self.weights_hash, self.parameters)
        return _loaded_again, (self.recipe, self.folder, self.weights_hash)

    @property
    def source(self) -> Source:
        """The recipe's source of features."""
        source: Source = self.recipe.features.entry("source")
        return source

    @property
    def settings(self) -> Any:
        """The settings of the recipe's source of features."""
        return self.recipe.features.settings_of("source")

    @property
    def padded_samples(self) -> int:
        """The length that every window is padded to."""
        seconds = self.recipe.audio.clip_seconds
        assert not isinstance(seconds, str), "a recipe is resolved before it is used"
        return round(seconds * self.recipe.audio.sample_rate_hz)

    def dimensions(self, shape: tuple[int, int]) -> Dimensions:
        """As :func:`feature_dimensions`."""
        return feature_dimensions(self.recipe, shape)

    def to(self, device: torch.device) -> None:
        """Move the networks to a device."""
        for module in (self.parts.frontend, self.parts.encoder, self.parts.fast, self.parts.head):
            if module is not None:
                module.to(device)

    def __call__(self, batch: WindowBatch, wanted: Sequence[Settings]) -> list[Tensor]:
        """Features (windows, parts, dim) float32 for each of several settings of the source, without gradients."""
        with torch.inference_mode():
            return [values.float() for values in self.source.extract(batch, self.parts, wanted)]


def feature_dimensions(recipe: Recipe, shape: tuple[int, int]) -> Dimensions:
    """The frequency band and the quantity of every dimension of a recipe's features of ``shape`` (parts, dim)."""
    source: Source = recipe.features.entry("source")
    return source.dimensions(recipe.features.settings_of("source"), shape)


def scored_dimensions(recipe: Recipe, features: Mapping[str, Tensor]) -> Dimensions:
    """The same for features (clips, parts, dim) of scored views: of the first view of a waveform.

    Where all are views of features, which may have combined them into another shape, all dimensions are of the
    whole spectrum.
    """
    for view, values in features.items():
        if view in recipe.waveform_views:
            return feature_dimensions(recipe, (values.shape[1], values.shape[2]))
    first = next(iter(features.values()))
    return undivided(first.shape[1], first.shape[2])


def build_extractor(recipe: Recipe, model_folder: Path | None = None) -> Extractor:
    """The extractor of a recipe.

    Args:
        recipe: resolved.
        model_folder: of the trained model; not read where the recipe trains nothing.

    Raises:
        InputError: if the model or the encoder cannot be loaded, or lacks what the recipe asks for.
    """
    if recipe.trains:
        if model_folder is None:
            raise InputError(
                f"recipe {recipe.name}",
                found="a recipe that trains, without a model",
                expected="a trained model's folder",
                remedy="Train it first with nearfar run, or set training.adaptation to 'none'",
            )
        return replace(extractor_of_model(load_model(model_folder), recipe), folder=model_folder)
    require_head(recipe)
    if not recipe.uses_encoder:
        return Extractor(recipe, EncoderParts(), recipe.features.source, 0)
    encoder = load_start(recipe).eval().requires_grad_(False)
    frontend = recipe.encoder.entry("family").frontend(recipe.fbank.mean, recipe.fbank.std)
    mask, family = recipe.encoder.mask_padding, recipe.encoder.family
    constants: tuple[object, ...] = (encoder_hash(encoder), recipe.fbank.mean, recipe.fbank.std, mask)
    if family != next(iter(ENCODERS)):
        constants = (*constants, family)
    identity = hashlib.sha256(repr(constants).encode()).hexdigest()
    parts = EncoderParts(frontend, encoder, None, mask)
    return _checked(_fast(Extractor(recipe, parts, identity, parameter_count(encoder))))


_LOADED: dict[str, Extractor] = {}
"""The last extractors that this worker process loaded, by what their networks depend on."""

_MOST_LOADED = 2


def _loaded_again(recipe: Recipe, folder: Path | None, weights_hash: str) -> Extractor:
    """The extractor of a recipe in a worker process; other recipes on the same networks share them.

    Raises:
        InputError: as :func:`build_extractor`, or if the networks have other weights than in the main process.
    """
    networks = [str(folder), recipe.features.source, recipe.seed, recipe.audio.model_dump(mode="json")]
    key = digest([*networks, recipe.encoder.model_dump(mode="json"), recipe.fbank.model_dump(mode="json")])
    if key not in _LOADED:
        while len(_LOADED) >= _MOST_LOADED:
            del _LOADED[next(iter(_LOADED))]
        _LOADED[key] = build_extractor(recipe, folder)
    found = replace(_LOADED[key], recipe=recipe)
    if found.weights_hash != weights_hash:
        del _LOADED[key]
        raise InputError(
            folder or recipe.encoder.weights,
            found=f"a model with hash {found.weights_hash[:12]} in a worker",
            expected=f"{weights_hash[:12]}, as in the main process",
            remedy="Give all workers the same files, and the same version of nearfar",
        )
    return found


def extractor_of_model(model: TrainedEmbedder, recipe: Recipe) -> Extractor:
    """The extractor of a trained model, with the features that ``recipe`` asks for."""
    embedder = model.embedder
    parts = EncoderParts(embedder.frontend, embedder.encoder, embedder, recipe.encoder.mask_padding)
    return _checked(_fast(Extractor(recipe, parts, model.weights_hash, parameter_count(embedder))))


def _fast(extractor: Extractor) -> Extractor:
    """The extractor with the speed-ups of its recipe, which are part of its ``weights_hash``.

    Padding that is masked is not computed, with or without speed-ups.
    """
    parts, recipe, loaded = extractor.parts, extractor.recipe, extractor.parts.encoder
    assert loaded is not None
    chosen = {name: recipe.inference.settings_of("speedups", name) for name in recipe.inference.speedups}
    encoder, mask_padding = faster(loaded, chosen, mask_padding=parts.mask_padding)
    if encoder is loaded:
        return extractor
    head = None if parts.head is None else parts.head.with_encoder(encoder, mask_padding=mask_padding)
    identity = extractor.weights_hash
    if chosen:
        identity = hashlib.sha256(repr((identity, recipe.inference.identity())).encode()).hexdigest()
    return replace(
        extractor,
        parts=replace(parts, fast=encoder, head=head, mask_padding=mask_padding),
        weights_hash=identity,
    )


def require_head(recipe: Recipe) -> None:
    """Refuse features of a trained head in a recipe that trains nothing."""
    source, settings = recipe.features.entry("source"), recipe.features.settings_of("source")
    if not recipe.trains and source.needs_head(settings):
        pooling = getattr(settings, "pooling", None)  # of sources that pool
        raise InputError(
            "features.source" if pooling is None else "features.pooling",
            found=f"{pooling or recipe.features.source!r} in a recipe that trains nothing",
            expected="features without a trained head, such as pooled tokens (mean) or log-mel statistics",
            remedy="Correct the recipe, or set training.adaptation to 'full' or 'lora'",
        )


def _checked(extractor: Extractor) -> Extractor:
    wrong = extractor.source.check(extractor.settings, extractor.parts.depth)
    if wrong is not None:
        found, _, expected = wrong.partition("; expected ")
        raise InputError("features", found=found, expected=expected, remedy="Correct the recipe")
    return extractor
