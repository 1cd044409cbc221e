"""The default encoder of commands: EAT-base if it was downloaded, else eat-tiny, which is part of nearfar."""

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
    from nearfar.extras import missing_modules

    if is_cached(EAT_BASE):
        return EAT_BASE
    first = "pip install 'nearfar[train]' && " if missing_modules("train") else ""
    _print_note(f"EAT-base has not been downloaded. To get it: {first}nearfar download eat-base")
    return SUBSTITUTE


class DefaultEncoder:
    """Sets :func:`default_encoder` in the recipes of one command, unless the user names an encoder.

    A run or model that was started with one of the two encoders is resumed with it.

    Args:
        encoder: the value of ``--encoder``.
        settings: the values of ``--set``.
        source: name or path of the recipe; a recipe file may name an encoder as well.
    """

    def __init__(
        self, encoder: str | None, settings: list[str] | None = None, source: str | Path | None = None
    ) -> None:
        keys = {setting.partition("=")[0].strip() for setting in settings or []}
        self._named = (
            encoder is not None
            or bool(keys & {"encoder", "encoder.weights", "encoder.revision"})
            or (source is not None and "weights" in _table(Path(source), "encoder"))
        )
        self._noted = False

    def __call__(self, recipe: AnyRecipe, *folders: Path) -> AnyRecipe:
        """The recipe with the default encoder, if its encoder is EAT-base and is used.

        Args:
            recipe: with the changes of the command line.
            folders: run and model folders that may hold unfinished or finished work.
        """
        is_used = getattr(recipe, "uses_encoder", True)  # always in pre-training
        if self._named or recipe.encoder.weights != EAT_BASE or not is_used:
            return recipe
        for folder in folders:
            weights = _started_with(folder)
            if weights == SUBSTITUTE and not self._noted:
                _print_note(f"{folder} was started with it. For EAT-base, choose another folder")
                self._noted = True
            if weights is not None:
                return recipe if weights == EAT_BASE else _with_substitute(recipe)
        return recipe if self._default == EAT_BASE else _with_substitute(recipe)

    def grid(self, grid: Grid) -> Grid:
        """The grid with the default encoder in its combinations and in the recipe they are compared with.

        A grid with encoders on an axis is returned unchanged.
        """
        points, _ = grid.points()
        recipes = [point.recipe for point in points]
        if all(recipe.encoder.weights == grid.base.encoder.weights for recipe in recipes):
            with_encoder = [recipe for recipe in (grid.base, *recipes) if recipe.uses_encoder]
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
    if os.environ.get("RANK", "0") == "0":  # only the first process of a distributed launch
        print(f"The encoder is eat-tiny, which comes with nearfar: {why}", file=sys.stderr)


def _started_with(folder: Path) -> str | None:
    """The hub name of EAT-base or ``eat-tiny`` if the run or model in a folder was started with it, else None."""
    found = [
        _table(folder / "recipe.toml", "encoder").get("weights"),
        _table(folder / "model.json", "recipe", "encoder").get("weights"),
    ]
    return next((str(weights) for weights in found if weights in (EAT_BASE, SUBSTITUTE)), None)


def _table(path: Path, *keys: str) -> dict[str, Any]:
    """A table in a TOML or JSON file; empty if it is missing or the file cannot be read."""
    try:
        tree = (json if path.suffix == ".json" else tomllib).loads(path.read_text(encoding="utf-8"))
        for key in keys:
            tree = tree[key]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return tree if isinstance(tree, dict) else {}
