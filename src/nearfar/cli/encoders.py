"""Which encoder a command takes where none is named: EAT-base if it was downloaded, else nearfar's own."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from nearfar.ablation.grid import Grid
    from nearfar.config import Recipe
    from nearfar.pretraining.recipe import PretrainRecipe

EAT_BASE = "worstchan/EAT-base_epoch30_pretrain"
STAND_IN = "eat-tiny"
NOTE = "Encoder: eat-tiny in the place of EAT-base."

Heard = TypeVar("Heard", "Recipe", "PretrainRecipe")


def encoder_at_hand() -> str:
    """The hub name of EAT-base if it is in the local cache, else ``eat-tiny``, which is said on standard error."""
    from nearfar.encoders.hub import is_cached

    if is_cached(EAT_BASE):
        return EAT_BASE
    _say("EAT-base is not on this machine. It is one command away: nearfar download eat-base")
    return STAND_IN


class EncoderAtHand:
    """Gives the recipes of one command :func:`encoder_at_hand`, where nobody named another.

    Work that was begun with one of the two goes on with it.

    Args:
        encoder: what ``--encoder`` says.
        settings: what ``--set`` says.
        source: name or path of the recipe; a file of one's own may name an encoder as well.
    """

    def __init__(
        self, encoder: str | None, settings: list[str] | None = None, source: str | Path | None = None
    ) -> None:
        keys = {setting.partition("=")[0].strip() for setting in settings or []}
        self._named = (
            encoder is not None
            or bool(keys & {"encoder", "encoder.weights", "encoder.revision"})
            or (source is not None and _names_encoder(Path(source)))
        )
        self._told = False

    def __call__(self, recipe: Heard, *places: Path) -> Heard:
        """The recipe with what is at hand, if EAT-base is its encoder and decides anything.

        Args:
            recipe: as the command is about to use it.
            places: run and model folders that may hold work begun before.
        """
        if self._named or recipe.encoder.weights != EAT_BASE or not _hears_with_encoder(recipe):
            return recipe
        place, begun = next(
            ((place, weights) for place in places if (weights := _begun_with(place))), (None, None)
        )
        if begun == STAND_IN and not self._told:
            _say(f"{place} was begun with it. For EAT-base, choose another folder")
            self._told = True
        return recipe if (begun or self._at_hand) == EAT_BASE else _with_stand_in(recipe)

    def grid(self, grid: Grid) -> Grid:
        """A grid whose combinations, and the recipe they are compared with, have what is at hand.

        A grid that has encoders on an axis is left as it is.
        """
        points, _ = grid.points()
        recipes = [point.recipe for point in points]
        if all(recipe.encoder.weights == grid.base.encoder.weights for recipe in recipes):
            with_encoder = [recipe for recipe in (grid.base, *recipes) if _hears_with_encoder(recipe)]
            if with_encoder:
                changed = self(with_encoder[0]) != with_encoder[0]
                grid = replace(grid, base=_with_stand_in(grid.base)) if changed else grid
        reference = grid.recipes()[1:]
        return replace(grid, against=self(reference[0])) if reference else grid

    @cached_property
    def _at_hand(self) -> str:
        return encoder_at_hand()


def noted(note: str | None, *recipes: Recipe) -> str | None:
    """The line beside results, with a word on an encoder that stands in for another in any of the recipes."""
    if not any(recipe.description.endswith(NOTE) for recipe in recipes):
        return note
    return NOTE if note is None else f"{note} {NOTE}"


def _with_stand_in(recipe: Heard) -> Heard:
    described = f"{recipe.description} {NOTE}".strip()
    return recipe.with_changes(**{"encoder.weights": STAND_IN, "description": described})


def _say(why: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # one process of a distributed launch speaks
        print(f"The encoder is eat-tiny, which comes with nearfar: {why}", file=sys.stderr)


def _hears_with_encoder(recipe: Recipe | PretrainRecipe) -> bool:
    from nearfar.config import Recipe

    return not isinstance(recipe, Recipe) or recipe.uses_encoder


def _names_encoder(path: Path) -> bool:
    """Whether a recipe file (not one of the package's) says itself which encoder it takes."""
    return path.is_file() and "weights" in _table(_read_toml(path), "encoder")


def _begun_with(place: Path) -> str | None:
    """Which of the two encoders the work in a run's or a model's folder was begun with, if with any."""
    model = place / "model.json"
    trees = [_read_toml(place / "recipe.toml"), _table(_read_json(model), "recipe")]
    found = [_table(tree, "encoder").get("weights") for tree in trees]
    return next((str(weights) for weights in found if weights in (EAT_BASE, STAND_IN)), None)


def _table(tree: dict[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it cannot be read, which is for those to say who need it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
