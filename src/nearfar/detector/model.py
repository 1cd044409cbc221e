"""What a detector's features are made with: a trained model of its own, or an encoder from outside, or neither."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nearfar.config import Recipe
from nearfar.detector.store import ENCODER, Card, EncoderCard
from nearfar.encoders import Encoder, encoder_hash
from nearfar.errors import InputError
from nearfar.features.representation import Representation, of_model, represent
from nearfar.models import ADAPTATIONS, load_model, read_card, start_weights


def needs_of(representation: Representation, model: Path | None) -> tuple[tuple[str, ...], EncoderCard | None]:
    """The classes of a detector's model, and the encoder that it takes from outside.

    Args:
        representation: that features are made with.
        model: folder of the trained model, or None.
    """
    recipe = representation.recipe
    if model is not None:
        card = read_card(model)
        assert card is not None, "a model that could be loaded has a card"
        outside = ADAPTATIONS[recipe.training.adaptation].needs_base(model)
        base = card["base_encoder"]
        needed = EncoderCard(weights=base["weights"], revision=recipe.encoder.revision, hash=base["hash"])
        return tuple(card["classes"]), needed if outside else None
    encoder = frozen_encoder(representation.extractor)
    if encoder is None:
        return (), None
    weights = start_weights(recipe)
    return (), EncoderCard(weights=weights, revision=recipe.encoder.revision, hash=encoder_hash(encoder))


def frozen_encoder(extractor: nn.Module) -> Encoder | None:
    """The encoder of an extractor, if it has one."""
    encoder = getattr(extractor, "encoder", None)
    return encoder if isinstance(encoder, Encoder) else None


def with_whole_path(recipe: Recipe) -> Recipe:
    """The recipe with the path of its encoder from the root, so that it is found from other folders."""
    place = Path(recipe.encoder.weights)
    if not place.exists():
        return recipe
    return recipe.with_changes(**{"encoder.weights": str(place.resolve())})


def loaded_representation(card: Card, folder: Path, encoder: str | None) -> Representation:
    """What a kept detector makes features with.

    Args:
        card: of the detector.
        folder: that it is kept in.
        encoder: where the encoder from outside is, if not where it was.

    Raises:
        InputError: if the encoder cannot be had, or is not the one that the banks were made with.
    """
    recipe = card.recipe
    if recipe.training.adaptation != "none":
        return _same(of_model(load_model(folder / "model", encoder=encoder), recipe), card, encoder)
    if card.encoder is None:
        return _same(represent(recipe), card, encoder)
    own = folder / ENCODER
    place = encoder or (str(own) if own.is_dir() else card.encoder.weights)
    made = represent(recipe.with_changes(**{"encoder.weights": place}))
    return _same(made, card, place)


def _same(representation: Representation, card: Card, place: str | None) -> Representation:
    if representation.weights_hash == card.weights_hash:
        return representation
    encoder = frozen_encoder(representation.extractor)
    if card.encoder is not None and encoder is not None:
        raise InputError(
            place or card.encoder.weights,
            found=f"an encoder with hash {encoder_hash(encoder)[:12]}",
            expected=f"{card.encoder.hash[:12]} ({card.encoder.weights}), which this detector was fitted with",
            remedy="Say with --encoder (encoder=) where that one is, or fit the detector again",
        )
    raise InputError(
        place or card.recipe.name,
        found=f"a model with hash {representation.weights_hash[:12]}",
        expected=f"{card.weights_hash[:12]}, with which this detector was fitted",
        remedy="Restore the detector's folder, or fit the detector again",
    )
