"""Recipes: typed, frozen configuration, read from and written to TOML."""

from nearfar.config.recipe import Recipe, load_recipe, recipe_names
from nearfar.config.tables import (
    FAR_CHANNEL,
    NEAR_CHANNEL,
    Audio,
    Augmentation,
    Autoencoder,
    Cancellation,
    Decision,
    Detection,
    Encoder,
    KaldiFbank,
    Features,
    Head,
    Lora,
    Scoring,
    Training,
)

__all__ = [
    "FAR_CHANNEL",
    "NEAR_CHANNEL",
    "Audio",
    "Augmentation",
    "Autoencoder",
    "Cancellation",
    "Decision",
    "Detection",
    "Encoder",
    "KaldiFbank",
    "Features",
    "Head",
    "Lora",
    "Recipe",
    "Scoring",
    "Training",
    "load_recipe",
    "recipe_names",
]
