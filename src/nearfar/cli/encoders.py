"""Which encoder a command takes where none is named: EAT-base if it was downloaded, else nearfar's own."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from nearfar.config import Recipe
    from nearfar.config.pretraining import PretrainRecipe

STAND_IN = "eat-tiny"
NOTE = "Encoder: eat-tiny in the place of EAT-base."

Heard = TypeVar("Heard", "Recipe", "PretrainRecipe")


def encoder_at_hand() -> str:
    """The hub name of EAT-base if it is in the local cache, else ``eat-tiny``, which is said on standard error."""
    from nearfar.models.hub import SHORT_NAMES, is_cached
    from nearfar.training.finetune import is_main_process

    name = SHORT_NAMES["eat-base"]
    if is_cached(name):
        return name
    if is_main_process():
        print(
            "The encoder is eat-tiny, which comes with nearfar: EAT-base is not on this machine. "
            "It is one command away: nearfar download eat-base",
            file=sys.stderr,
        )
    return STAND_IN


class EncoderAtHand:
    """Gives the recipes of one command :func:`encoder_at_hand`, where nobody named another.

    Args:
        encoder: what ``--encoder`` says.
        settings: what ``--set`` says.
    """

    def __init__(self, encoder: str | None, settings: list[str] | None = None) -> None:
        self._named = encoder is not None or any(
            setting.partition("=")[0].strip() == "encoder.weights" for setting in settings or []
        )
        self._stands_in = False

    def __call__(self, recipe: Heard) -> Heard:
        """The recipe with what is at hand, if EAT-base is its encoder and decides anything."""
        from nearfar.models.hub import SHORT_NAMES

        if self._named or recipe.encoder.weights != SHORT_NAMES["eat-base"] or not _hears_with_encoder(recipe):
            return recipe
        self._stands_in = self._at_hand == STAND_IN
        return recipe.with_changes(**{"encoder.weights": self._at_hand})

    def noted(self, note: str | None) -> str | None:
        """The line beside the results, with a word on an encoder that stands in for another."""
        if not self._stands_in:
            return note
        return NOTE if note is None else f"{note} {NOTE}"

    @cached_property
    def _at_hand(self) -> str:
        return encoder_at_hand()


def _hears_with_encoder(recipe: Recipe | PretrainRecipe) -> bool:
    from nearfar.config import Recipe
    from nearfar.systems.system_description import uses_encoder

    return not isinstance(recipe, Recipe) or uses_encoder(recipe)
