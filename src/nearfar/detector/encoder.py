"""The encoder or trained model that a detector needs, when it is fitted and when it is loaded."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakValueDictionary

from nearfar.config import Recipe
from nearfar.detector import store
from nearfar.encoders import encoder_hash, parameter_count
from nearfar.errors import InputError
from nearfar.features import EncoderParts
from nearfar.models import load_model, read_card, start_weights
from nearfar.pipeline.extractor import Extractor, build_extractor, extractor_of_model

_FROZEN: WeakValueDictionary[str, EncoderParts] = WeakValueDictionary()
"""Frozen encoders of detectors in memory, by the hash of their weights: many detectors share one."""


def with_absolute_encoder(recipe: Recipe) -> Recipe:
    """The recipe with the absolute path of its encoder, so that it is found from other folders."""
    path = Path(recipe.encoder.weights)
    return recipe.with_changes(**{"encoder.weights": str(path.resolve())}) if path.exists() else recipe


def requirements(extractor: Extractor, model: Path | None) -> tuple[tuple[str, ...], store.EncoderCard | None]:
    """The classes of a detector's model, and the encoder that is not saved with the detector."""
    recipe = extractor.recipe
    if recipe.trains:
        assert model is not None
        card = read_card(model)
        assert card is not None, "a model that could be loaded has a card"
        base = card["base_encoder"]
        needed = store.EncoderCard(weights=base["weights"], revision=recipe.encoder.revision, hash=base["hash"])
        needs_base = recipe.training.entry("adaptation").needs_base(model)
        return tuple(card["classes"]), needed if needs_base else None
    encoder = extractor.parts.encoder
    if encoder is None:
        return (), None
    weights = start_weights(recipe)
    return (), store.EncoderCard(weights=weights, revision=recipe.encoder.revision, hash=encoder_hash(encoder))


def loaded_extractor(card: store.Card, folder: Path, encoder: str | None) -> Extractor:
    """The extractor of a saved detector; an InputError if its encoder cannot be loaded or is another one."""
    recipe = card.recipe
    if recipe.trains:
        model = load_model(folder / store.MODEL, encoder=encoder)
        path = encoder or (str(folder / store.MODEL) if card.encoder is None else None)
        return _same_weights(extractor_of_model(model, recipe), card, path)
    if card.encoder is None:
        return _same_weights(build_extractor(recipe), card, encoder)
    if (parts := _FROZEN.get(card.weights_hash)) is not None and parts.encoder is not None:
        return Extractor(recipe, parts, card.weights_hash, parameter_count(parts.encoder))
    saved = folder / store.ENCODER
    path = encoder or (str(saved) if saved.is_dir() else card.encoder.weights)
    extractor = _same_weights(build_extractor(recipe.with_changes(**{"encoder.weights": path})), card, path)
    _FROZEN[extractor.weights_hash] = extractor.parts
    return extractor


def _same_weights(extractor: Extractor, card: store.Card, path: str | None) -> Extractor:
    if extractor.weights_hash == card.weights_hash:
        return extractor
    encoder = extractor.parts.encoder
    if card.encoder is not None and encoder is not None:
        raise InputError(
            path or card.encoder.weights,
            found=f"an encoder with hash {encoder_hash(encoder)[:12]}",
            expected=f"{card.encoder.hash[:12]} ({card.encoder.weights}), which this detector was fitted with",
            remedy="Give the path of that one (encoder), or fit the detector again",
        )
    raise InputError(
        path or card.recipe.name,
        found=f"a model with hash {extractor.weights_hash[:12]}",
        expected=f"{card.weights_hash[:12]}, with which this detector was fitted",
        remedy="Restore the detector's folder, or fit the detector again",
    )
