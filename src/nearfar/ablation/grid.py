"""The grid of an ablation: a base recipe, axes of what may differ from it, and every combination of them.

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

_KEYS = ("base", "against", "set", "axes")
_REMEDY = "See the section on grids in docs/reference.md and correct it"

Changes = Mapping[str, Any]
"""Values by dotted recipe key."""


@dataclass(frozen=True, slots=True)
class Point:
    """One combination: the name of its value on every axis, and the recipe that it comes to."""

    values: dict[str, str]
    recipe: Recipe

    @property
    def name(self) -> str:
        """``normalisation=varmin view=near``."""
        return " ".join(f"{axis.rpartition('.')[2]}={value}" for axis, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Skipped:
    """A combination that makes no recipe, or one that this data or encoder cannot be had with, and why."""

    values: dict[str, str]
    reason: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid as it is written down.

    Attributes:
        where: the file.
        base: the recipe, changed by ``[set]``.
        axes: by name, what each named value changes.
        against: ``base``, the name or path of a recipe or run, a recipe, or the values of a point.
    """

    where: str
    base: Recipe
    axes: dict[str, dict[str, Changes]]
    against: str | dict[str, str] | Recipe

    def with_encoder(self, weights: str | None) -> Grid:
        """The grid with other weights in its base and in a recipe that it is compared with; None: as it is."""
        if weights is None:
            return self
        change = {"encoder.weights": weights}
        return replace(self, base=self.base.with_changes(**change), against=self._reference(change))

    def recipes(self) -> tuple[Recipe, ...]:
        """The base, and the recipe that it is compared with, if one is."""
        against = self._reference({})
        return (self.base, against) if isinstance(against, Recipe) else (self.base,)

    def _reference(self, changes: Changes) -> str | dict[str, str] | Recipe:
        """``against``, read and changed if it is a recipe with an encoder."""
        against = self.against
        if isinstance(against, str) and against != "base" and not Path(against).is_dir():
            against = load_recipe(against)
        if isinstance(against, Recipe) and against.uses_encoder:
            return against.with_changes(**changes) if changes else against
        return against

    def points(self) -> tuple[list[Point], list[Skipped]]:
        """Every combination in the order of the file, and those that the recipe refuses.

        Raises:
            InputError: if a value is refused in whatever combination, which is an error of the grid.
        """
        points, skipped = [], []
        first_error: dict[tuple[str, str], InputError] = {}
        alive: set[tuple[str, str]] = set()
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
                alive |= set(values.items())
        for (axis, name), refusal in first_error.items():
            if (axis, name) not in alive:
                raise InputError(
                    self.where,
                    found=f"{axis} = {name}, which no combination can have ({refusal.found})",
                    expected=refusal.expected,
                    remedy=_REMEDY,
                )
        return points, skipped


def grid_names() -> list[str]:
    """Names of the grids that come with the package."""
    folder = resources.files("nearfar") / "recipes" / "grids"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_grid(name_or_path: str | Path) -> Grid:
    """Read a grid that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such grid, it is not TOML, or it is not of the form above.
    """
    where = str(name_or_path)
    tree = _read(where)
    for key in tree:
        if key not in _KEYS:
            raise _bad(where, f"the unknown key {key}", f"{', '.join(_KEYS)}")
    axes = _axes(where, tree.get("axes"))
    count = math.prod(len(values) for values in axes.values())
    if count > MOST_POINTS:
        raise _bad(where, f"{count:,} combinations", f"at most {MOST_POINTS:,}")
    base = load_recipe(_beside(where, _text(where, "base", tree.get("base"))))
    changes = _flat(_table(where, "set", tree.get("set", {})))
    base = base.with_changes(**changes) if changes else base
    return Grid(where, base, axes, _against(where, tree.get("against", "base"), axes))


def _read(where: str) -> dict[str, Any]:
    try:
        if where in grid_names():
            text = (resources.files("nearfar") / "recipes" / "grids" / f"{where}.toml").read_text(encoding="utf-8")
        elif Path(where).is_file():
            text = Path(where).read_text(encoding="utf-8")
        else:
            known = f"one of {', '.join(grid_names())}, or a TOML file"
            raise InputError(
                where, found="no grid of that name and no such file", expected=known, remedy="Check the spelling"
            )
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(where, f"text that is not TOML ({error})", "TOML") from None


def _beside(where: str, name: str) -> str:
    """A recipe's name as it is; a path is relative to the grid's folder."""
    return name if name in list_recipes() else str(Path(where).parent / name)


def _axes(where: str, tree: Any) -> dict[str, dict[str, Changes]]:
    tables = {*Recipe.model_fields, *own_tables()}
    axes: dict[str, dict[str, Changes]] = {}
    for name, value in _table(where, "axes", tree).items():
        if name.partition(".")[0] in tables:
            for key, values in _flat({name: value}).items():
                axes[key] = _listed(where, key, values)
        else:
            bundles = {
                label: _flat(_table(where, f"axes.{name}.{label}", changes))
                for label, changes in _table(where, f"axes.{name}", value).items()
            }
            axes[name] = dict(bundles)
    if not axes or not all(axes.values()):
        raise _bad(where, "no axes, or an axis without values", "an axis or more, each with a value or more")
    return axes


def _listed(where: str, key: str, values: Any) -> dict[str, Changes]:
    if not isinstance(values, list):
        raise _bad(where, f"axes.{key} = {values!r}", "a list of values")
    named = {value_name(value): {key: value} for value in values}
    if len(named) < len(values):
        raise _bad(where, f"axes.{key} with a value twice", "each value once")
    return dict(named)


def value_name(value: Any) -> str:
    """The name of a value in tables: text as it is, lists with a plus, the rest as in JSON."""
    if isinstance(value, list):
        return "+".join(value_name(entry) for entry in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted keys, however the tables were nested."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{before}{key}.")
        else:
            out[before + key] = value
    return out


def _against(where: str, value: Any, axes: Mapping[str, Mapping[str, Changes]]) -> str | dict[str, str]:
    if isinstance(value, str):
        return value if value == "base" else _beside(where, value)
    point = {axis: value_name(name) for axis, name in _flat(_table(where, "against", value)).items()}
    if point.keys() != axes.keys() or any(name not in axes[axis] for axis, name in point.items()):
        raise _bad(
            where,
            "against = " + ", ".join(f"{axis} = {name}" for axis, name in point.items()),
            "a value of each axis: "
            + "; ".join(f"{axis} among {', '.join(values)}" for axis, values in axes.items()),
        )
    return {axis: point[axis] for axis in axes}


def _table(where: str, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(where, f"no table {key}" if value is None else f"{key} = {value!r}", f"a table [{key}]")
    return value


def _text(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _bad(where, f"{key} = {value!r}", "the name or path of a recipe")
    return value


def _bad(where: str, found: str, expected: str) -> InputError:
    return InputError(where, found=found, expected=expected, remedy=_REMEDY)
