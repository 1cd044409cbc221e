"""The grid of an ablation: a base recipe, axes of changes to it, and every combination of them.

base = "nearfar-best"
against = "base"                  # or a recipe, the folder of a run, or one point: { view = "near", ... }

[set]                             # changes of the base, before anything else
"scoring.batch_size" = 32

[axes]
"scoring.normalisation" = ["none", "ratio", "varmin"]

[axes.view]                       # several keys that change together, by name
near = { "scoring.channels" = ["near"] }
W1 = { "scoring.channels" = ["cancelled"], "cancellation.gain_limit" = 1.0 }
"""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from nearfar.config import Recipe, list_recipes, load_recipe
from nearfar.config.recipe import own_tables
from nearfar.errors import InputError

MOST_POINTS = 5_000
"""Combinations of one grid; more are refused."""

_FOLDER = resources.files("nearfar") / "recipes" / "grids"
_KEYS = ("base", "against", "set", "axes")

Changes = Mapping[str, Any]
"""Values by dotted recipe key."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: the name of its value on every axis, and the resulting recipe."""

    values: dict[str, str]
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Skipped:
    """A combination that is no valid recipe, or that the data or encoder does not allow, and the reason."""

    values: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of a TOML file.

    Attributes:
        file: the grid's name or path.
        base: the recipe, changed by ``[set]``.
        axes: by axis and name of the value, the changes of the recipe.
        against: ``base``, the name or path of a recipe or run, a recipe, or the values of a point.
    """

    file: str
    base: Recipe
    axes: dict[str, dict[str, Changes]]
    against: str | dict[str, str] | Recipe

    def with_encoder(self, weights: str | None) -> Grid:
        """The grid with other encoder weights in its base and in a reference recipe; unchanged for None."""
        if weights is None:
            return self
        change = {"encoder.weights": weights}
        return replace(self, base=self.base.with_changes(**change), against=self._reference(change))

    def recipes(self) -> tuple[Recipe, ...]:
        """The base and, if the reference is a recipe, the reference."""
        against = self._reference({})
        return (self.base, against) if isinstance(against, Recipe) else (self.base,)

    def _reference(self, changes: Changes) -> str | dict[str, str] | Recipe:
        """``against``; loaded if it names a recipe, and changed if that recipe has an encoder."""
        against = self.against
        if isinstance(against, str) and against != "base" and not Path(against).is_dir():
            against = load_recipe(against)
        if isinstance(against, Recipe) and against.uses_encoder:
            return against.with_changes(**changes) if changes else against
        return against

    def points(self) -> tuple[list[Point], list[Skipped]]:
        """The valid combinations in the order of the file, and the others with the reason.

        Raises:
            InputError: if a value is invalid in every combination, which is an error of the grid.
        """
        points, skipped = [], []
        first_error: dict[tuple[str, str], InputError] = {}
        valid: set[tuple[str, str]] = set()
        for names in itertools.product(*self.axes.values()):
            values = dict(zip(self.axes, names, strict=True))
            changes = {key: value for axis, name in values.items() for key, value in self.axes[axis][name].items()}
            try:
                points.append(Point(values, self.base.with_changes(**changes)))
            except InputError as error:
                skipped.append(Skipped(values, f"{error.found}; expected {error.expected}"))
                for choice in values.items():
                    first_error.setdefault(choice, error)
            else:
                valid |= values.items()
        for (axis, name), refusal in first_error.items():
            if (axis, name) not in valid:
                found = f"{axis} = {name}, which no combination can have ({refusal.found})"
                raise _bad(self.file, found, refusal.expected)
        return points, skipped


def grid_names() -> list[str]:
    """Names of the grids that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _FOLDER.iterdir() if file.name.endswith(".toml"))


def load_grid(name_or_path: str | Path) -> Grid:
    """Read a grid that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such grid, it is not TOML, or it is not of the form above.
    """
    file = str(name_or_path)
    tree = _read(file)
    if unknown := [key for key in tree if key not in _KEYS]:
        raise _bad(file, f"the unknown key {unknown[0]}", ", ".join(_KEYS))
    axes = _axes(file, tree.get("axes"))
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_POINTS:
        raise _bad(file, f"{count:,} combinations", f"at most {MOST_POINTS:,}")
    if not isinstance(name := tree.get("base"), str):
        raise _bad(file, f"base = {name!r}", "the name or path of a recipe")
    base, changes = load_recipe(_beside(file, name)), _flat(_table(file, "set", tree.get("set", {})))
    base = base.with_changes(**changes) if changes else base
    return Grid(file, base, axes, _against(file, tree.get("against", "base"), axes))


def _read(file: str) -> dict[str, Any]:
    try:
        if file in grid_names():
            text = (_FOLDER / f"{file}.toml").read_text(encoding="utf-8")
        elif Path(file).is_file():
            text = Path(file).read_text(encoding="utf-8")
        else:
            known = f"one of {', '.join(grid_names())}, or a TOML file"
            raise InputError(
                file, found="no grid of that name and no such file", expected=known, remedy="Check the spelling"
            )
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(file, f"text that is not TOML ({error})", "TOML") from None


def _beside(file: str, name: str) -> str:
    """A recipe's name unchanged, or a path relative to the grid's folder."""
    return name if name in list_recipes() else str(Path(file).parent / name)


def _axes(file: str, tree: Any) -> dict[str, dict[str, Changes]]:
    tables = {*Recipe.model_fields, *own_tables()}
    axes: dict[str, dict[str, Changes]] = {}
    for name, value in _table(file, "axes", tree).items():
        if name.partition(".")[0] in tables:
            for key, values in _flat({name: value}).items():
                if not isinstance(values, list):
                    raise _bad(file, f"axes.{key} = {values!r}", "a list of values")
                axes[key] = {value_name(choice): {key: choice} for choice in values}
                if len(axes[key]) < len(values):
                    raise _bad(file, f"axes.{key} with a value twice", "each value once")
        else:
            axes[name] = {
                label: _flat(_table(file, f"axes.{name}.{label}", changes))
                for label, changes in _table(file, f"axes.{name}", value).items()
            }
    if not axes or not all(axes.values()):
        raise _bad(file, "no axes, or an axis without values", "an axis or more, each with a value or more")
    return axes


def value_name(value: Any) -> str:
    """The name of a value in tables: text as it is, lists with a plus, the rest as in JSON."""
    if isinstance(value, list):
        return "+".join(value_name(entry) for entry in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested tables by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _against(file: str, value: Any, axes: Mapping[str, Mapping[str, Changes]]) -> str | dict[str, str]:
    if isinstance(value, str):
        return value if value == "base" else _beside(file, value)
    point = {axis: value_name(name) for axis, name in _flat(_table(file, "against", value)).items()}
    if point.keys() != axes.keys() or any(name not in axes[axis] for axis, name in point.items()):
        given = ", ".join(f"{axis} = {name}" for axis, name in point.items())
        choices = "; ".join(f"{axis} among {', '.join(values)}" for axis, values in axes.items())
        raise _bad(file, f"against = {given}", f"a value of each axis: {choices}")
    return {axis: point[axis] for axis in axes}


def _table(file: str, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(file, f"no table {key}" if value is None else f"{key} = {value!r}", f"a table [{key}]")
    return value


def _bad(file: str, found: str, expected: str) -> InputError:
    remedy = "See the section on grids in docs/reference.md and correct it"
    return InputError(file, found=found, expected=expected, remedy=remedy)
