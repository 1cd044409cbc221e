"""Bring the tables of docs/reference.md in line with the code: ``make reference``.

Keys, defaults, owners and names of choices are those of the code. The meaning in the last column is edited by
hand; new rows have the description of their entry.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from nearfar.config import Recipe
from nearfar.config.recipe import own_tables
from nearfar.encoders import ADAPTATIONS, ENCODERS, SPEEDUPS
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import POOLINGS, TRAINED_POOLINGS
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.registry import Registry
from nearfar.scoring import BACKENDS, FUSIONS
from nearfar.settings import ChoiceTable, Settings, inline_settings
from nearfar.thresholds import RULES
from nearfar.views import VIEWS

REFERENCE = Path(__file__).resolve().parent / "reference.md"
NOT_SET = "–"
TABLES: dict[str, Registry[Any]] = {
    "encoders.ENCODERS": ENCODERS,
    "encoders.ADAPTATIONS": ADAPTATIONS,
    "encoders.SPEEDUPS": SPEEDUPS,
    "pooling.TRAINED_POOLINGS": TRAINED_POOLINGS,
    "losses.LOSSES": LOSSES,
    "views.VIEWS": VIEWS,
    "features.SOURCES": SOURCES,
    "pooling.POOLINGS": POOLINGS,
    "scoring.BACKENDS": BACKENDS,
    "scoring.FUSIONS": FUSIONS,
    "thresholds.RULES": RULES,
}

PRETRAINING: dict[str, tuple[type[PretrainRecipe | NoiseAwareRecipe], tuple[str, ...]]] = {
    "Pre-training recipes": (PretrainRecipe, ("crop_seconds", "export")),
    "Recipes of noise-aware layers": (NoiseAwareRecipe, ("crop_seconds",)),
}
"""Sections of the page: the recipe, and the keys of its root that have a meaning of their own."""

Keys = dict[str, tuple[Any, list[str]]]
"""Default and owners of every key; owners are names in tables of choices."""


def keys_of(recipe: type[Recipe | PretrainRecipe | NoiseAwareRecipe]) -> Keys:
    """Every key of a recipe below the root, as ``table.key``, from the classes of its tables."""
    tables = {
        name: type(field.default)
        for name, field in recipe.model_fields.items()
        if isinstance(field.default, Settings)
    }
    if recipe is Recipe:
        tables |= own_tables()
    owners = {
        entry.table: name for table in TABLES.values() for name, entry in table.items() if entry.table is not None
    }
    found: Keys = {}
    for table, kind in tables.items():
        for name, default, owner in _keys_of_table(kind, owners.get(table)):
            of = found.setdefault(f"{table}.{name}", (default, []))[1]
            if owner is not None and owner not in of:
                of.append(owner)
    return found


def pretraining_keys(section: str) -> Keys:
    """The same of the pre-training recipe of a section, and keys of its root."""
    recipe, names = PRETRAINING[section]
    root: Keys = {name: (recipe.model_fields[name].default, []) for name in names}
    return root | keys_of(recipe)


def updated(text: str) -> str:
    """The text of the page with its tables brought in line with the code."""
    out, section, table = [], "", ""
    for block in re.split(r"(?<=\n)(?=#)|(?<=\n)(?=\n)|(?<=\|---\|\n)", text):
        if found := re.match(r"## (.*)\n", block):
            section, table = found[1], ""
        elif found := re.match(r"### `\[(.*)\]`\n", block):
            table = found[1]
        is_rows = block.startswith("| `")
        if is_rows and section == "Recipes" and table:
            keys = {name: key for name, key in keys_of(Recipe).items() if name.partition(".")[0] == table}
            block = _with_keys(block, keys, owners=True)
        elif is_rows and section in PRETRAINING:
            block = _with_keys(block, pretraining_keys(section), owners=False)
        elif is_rows and section == "Tables of choices":
            block = _with_choices(block)
        elif block.startswith("### Keys of earlier versions"):
            table = ""
        out.append(block)
    return "".join(out)


def _cells(rows: str) -> list[list[str]]:
    marked = rows.replace("\\|", "\0").splitlines()
    return [[cell.strip().replace("\0", "\\|") for cell in row.strip("|").split("|")] for row in marked]


def _line(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"


def _with_keys(rows: str, keys: Keys, *, owners: bool) -> str:
    before = {cells[0].strip("`"): cells for cells in _cells(rows)}
    order = [*(name for name in before if name in keys), *(name for name in keys if name not in before)]
    out = []
    for name in order:
        default, of = keys[name]
        old = before.get(name, [""] * 4)
        names = ", ".join(f"`{one}`" for one in of)
        owner = old[2] if sorted(re.findall("`(.*?)`", old[2])) == sorted(of) else names
        value = old[1] if name in before and _same(old[1], default) else _toml(default)
        meaning = old[-1] if name in before else f"a setting of {names or 'this table'}"
        out.append(_line([f"`{name}`", value, *([owner] if owners else []), meaning]))
    return "".join(out)


def _with_choices(rows: str) -> str:
    keys: dict[str, str] = {}
    meanings: dict[tuple[str, str], str] = {}
    table = ""
    for key, where, name, meaning in _cells(rows):
        table = where.strip("`").removeprefix("nearfar.") or table
        keys[table] = key or keys[table]
        meanings[table, name.strip("`")] = meaning
    out = []
    for table, entries in TABLES.items():
        for number, (name, entry) in enumerate(entries.items()):
            first = [keys.get(table, ""), f"`nearfar.{table}`"] if number == 0 else ["", ""]
            out.append(_line([*first, f"`{name}`", meanings.get((table, name), entry.description)]))
    return "".join(out)


def _toml(default: Any) -> str:
    return NOT_SET if default is None else f"`{tomli_w.dumps({'x': default}).removeprefix('x = ').strip()}`"


def _same(cell: str, default: Any) -> bool:
    """Whether a cell states a default, in whichever notation of TOML."""
    if NOT_SET in (cell, _toml(default)):
        return cell == _toml(default)
    return bool(tomllib.loads(f"x = {cell.strip('`')}") == tomllib.loads(tomli_w.dumps({"x": default})))


def _keys_of_table(kind: type[Settings], owner: str | None = None) -> Iterator[tuple[str, Any, str | None]]:
    for name, field in kind.model_fields.items():
        yield name, field.default, owner
    if issubclass(kind, ChoiceTable):
        for table in kind.choices.values():
            for name, entry in table.items():
                yield from _keys_of_table(inline_settings(entry), name)


if __name__ == "__main__":
    REFERENCE.write_text(updated(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
