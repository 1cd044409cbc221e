"""The default encoder of commands: EAT-base if it was downloaded, else eat-tiny, which comes with nearfar."""

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
SUBSTITUTE = "eat-tiny"
NOTE = "Encoder: eat-tiny instead of EAT-base."

AnyRecipe = TypeVar("AnyRecipe", "Recipe", "PretrainRecipe")


def default_encoder() -> str:
    """The hub name of EAT-base if it is in the local cache, else ``eat-tiny`` with a note on standard error."""
    from nearfar.encoders.hub import is_cached

    if is_cached(EAT_BASE):
        return EAT_BASE
    _print_note("EAT-base has not been downloaded. To get it: nearfar download eat-base")
    return SUBSTITUTE


class DefaultEncoder:
    """Sets :func:`default_encoder` in the recipes of one command, unless the user names an encoder.

    A run or model that was started with one of the two encoders is resumed with it.

    Args:
        encoder: the value of ``--encoder``.
        settings: the values of ``--set``.
        source: name or path of the recipe; a recipe file of the user may name an encoder as well.
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
        self._noted = False

    def __call__(self, recipe: AnyRecipe, *folders: Path) -> AnyRecipe:
        """The recipe with the default encoder, if its encoder is EAT-base and it uses it.

        Args:
            recipe: with the changes of the command line.
            folders: run and model folders that may hold unfinished or finished work.
        """
        if self._named or recipe.encoder.weights != EAT_BASE or not _uses_encoder(recipe):
            return recipe
        started = next(((folder, weights) for folder in folders if (weights := _started_with(folder))), None)
        if started is None:
            return recipe if self._default == EAT_BASE else _with_substitute(recipe)
        folder, weights = started
        if weights == EAT_BASE:
            return recipe
        if not self._noted:
            _print_note(f"{folder} was started with it. For EAT-base, choose another folder")
            self._noted = True
        return _with_substitute(recipe)

    def grid(self, grid: Grid) -> Grid:
        """A grid whose combinations, and the recipe they are compared with, have the default encoder.

        A grid with encoders on an axis is returned unchanged.
        """
        points, _ = grid.points()
        recipes = [point.recipe for point in points]
        if all(recipe.encoder.weights == grid.base.encoder.weights for recipe in recipes):
            with_encoder = [recipe for recipe in (grid.base, *recipes) if _uses_encoder(recipe)]
            if with_encoder and self(with_encoder[0]) != with_encoder[0]:
                grid = replace(grid, base=_with_substitute(grid.base))
        reference = grid.recipes()[1:]
        return replace(grid, against=self(reference[0])) if reference else grid

    @cached_property
    def _default(self) -> str:
        return default_encoder()


def noted(note: str | None, *recipes: Recipe) -> str | None:
    """The note of the results, with :data:`NOTE` if any of the recipes has eat-tiny instead of EAT-base."""
    if not any(recipe.description.endswith(NOTE) for recipe in recipes):
        return note
    return NOTE if note is None else f"{note} {NOTE}"


def _with_substitute(recipe: AnyRecipe) -> AnyRecipe:
    described = f"{recipe.description} {NOTE}".strip()
    return recipe.with_changes(**{"encoder.weights": SUBSTITUTE, "description": described})


def _print_note(why: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # once in a distributed launch
        print(f"The encoder is eat-tiny, which comes with nearfar: {why}", file=sys.stderr)


def _uses_encoder(recipe: Recipe | PretrainRecipe) -> bool:
    from nearfar.config import Recipe

    return not isinstance(recipe, Recipe) or recipe.uses_encoder


def _names_encoder(path: Path) -> bool:
    """Whether a recipe file of the user sets the encoder itself."""
    return path.is_file() and "weights" in _table(_read_toml(path), "encoder")


def _started_with(folder: Path) -> str | None:
    """Which of the two encoders the work in a run's or model's folder was started with, if either."""
    trees = [_read_toml(folder / "recipe.toml"), _table(_read_json(folder / "model.json"), "recipe")]
    found = [_table(tree, "encoder").get("weights") for tree in trees]
    return next((str(weights) for weights in found if weights in (EAT_BASE, SUBSTITUTE)), None)


def _table(tree: dict[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    """The content of a file; empty where it cannot be read, which the code that needs it reports."""
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
