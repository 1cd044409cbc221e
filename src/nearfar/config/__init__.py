"""Recipes: typed, frozen configuration, read from and written to TOML."""

from nearfar.config.recipe import Recipe, list_recipes, load_recipe
from nearfar.config.tables import (
    FAR_CHANNEL,
    NEAR_CHANNEL,
    Audio,
    Augmentation,
    CalibrationTable,
    EncoderTable,
    FbankNormalisation,
    FeaturesTable,
    Head,
    Inference,
    Scoring,
    ThresholdTable,
    Training,
)

__all__ = [
    "FAR_CHANNEL", "NEAR_CHANNEL", "Audio", "Augmentation", "CalibrationTable", "EncoderTable",
    "FbankNormalisation", "FeaturesTable", "Head", "Inference", "Recipe", "Scoring", "ThresholdTable", "Training",
    "list_recipes", "load_recipe",
]  # fmt: skip
