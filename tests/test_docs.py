"""The pages of docs/ name every recipe key, choice and public name, and their examples run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tests.conftest import write_clip
from tests.documentation import ROOT, output_and_comments, page, python_blocks

import nearfar
from nearfar.cli import app
from nearfar.config import Recipe
from nearfar.config.recipe import own_tables
from nearfar.config.renamed import MOVED
from nearfar.encoders import ADAPTATIONS, ENCODERS
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import POOLINGS, TRAINED_POOLINGS
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.registry import Registry
from nearfar.scoring import BACKENDS, FUSIONS
from nearfar.settings import ChoiceTable, Settings, inline_settings
from nearfar.thresholds import RULES
from nearfar.views import VIEWS

REFERENCE, API = "docs/reference.md", "docs/api.md"
TABLES: dict[str, Registry[Any]] = {
    "encoders.ENCODERS": ENCODERS,
    "encoders.ADAPTATIONS": ADAPTATIONS,
    "pooling.TRAINED_POOLINGS": TRAINED_POOLINGS,
    "losses.LOSSES": LOSSES,
    "views.VIEWS": VIEWS,
    "features.SOURCES": SOURCES,
    "pooling.POOLINGS": POOLINGS,
    "scoring.BACKENDS": BACKENDS,
    "scoring.FUSIONS": FUSIONS,
    "thresholds.RULES": RULES,
}

Keys = dict[str, tuple[Any, set[str]]]
"""Default and owners of every key; the owners are names in tables of choices."""


def section(name: str, heading: str) -> str:
    """The text below a heading of the first or second level, up to the next one."""
    return page(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def plain(value: Any) -> Any:
    """A default as TOML knows it."""
    return None if value is None else tomllib.loads(tomli_w.dumps({"x": value}))["x"]


def keys_of_table(kind: type[Settings], owner: str | None = None) -> Iterator[tuple[str, Any, str | None]]:
    for name, field in kind.model_fields.items():
        yield name, plain(field.default), owner
    if issubclass(kind, ChoiceTable):
        for table in kind.choices().values():
            for name, entry in table.items():
                yield from keys_of_table(inline_settings(entry), name)


def keys_of_recipe(recipe: type[Recipe] | type[PretrainRecipe]) -> Keys:
    """Every key below the root of a recipe, as ``table.key``, from the classes of its tables."""
    found: Keys = {}
    tables = {
        name: type(field.default)
        for name, field in recipe.model_fields.items()
        if isinstance(field.default, Settings)
    }
    owners = {
        entry.table: name for table in TABLES.values() for name, entry in table.items() if entry.table is not None
    }
    if recipe is Recipe:
        tables |= own_tables()
    for table, kind in tables.items():
        for name, default, owner in keys_of_table(kind, owners.get(table)):
            _, of = found.setdefault(f"{table}.{name}", (default, set()))
            if owner is not None:
                of.add(owner)
    return found


def documented_keys(text: str, columns: int) -> Keys:
    """Rows of the tables of keys: key, default and (of recipes) the owners."""
    found: Keys = {}
    for row in re.findall(r"^\| (`[a-z_.]+` \|.*) \|$", text.replace("\\|", "/"), re.MULTILINE):
        key, default, *others = [cell.strip() for cell in row.split(" |")]
        if len(others) != columns - 2:
            continue
        name, owners = key.strip("`"), set(re.findall("`(.*?)`", others[0])) if columns == 4 else set()
        assert name not in found, f"{name} stands twice"
        value = None if default == "–" else tomllib.loads(f"x = {default.strip('`')}")["x"]
        found[name] = (value, owners)
    return found


def test_every_recipe_key_stands_in_the_reference_with_its_default_and_owner() -> None:
    documented = documented_keys(section(REFERENCE, "Recipes"), columns=4)
    expected = keys_of_recipe(Recipe)
    assert len(expected) > 80
    assert documented == expected


def test_every_key_of_pre_training_stands_in_the_reference_with_its_default() -> None:
    expected = keys_of_recipe(PretrainRecipe)
    fields = PretrainRecipe.model_fields
    expected |= {name: (fields[name].default, set()) for name in ("crop_seconds", "export")}
    assert documented_keys(section(REFERENCE, "Pre-training recipes"), columns=3) == expected


def test_every_choice_stands_in_the_reference_and_nothing_else() -> None:
    documented: dict[str, list[str]] = {}
    table = ""
    for row in re.findall(r"^\| (.*) \|$", section(REFERENCE, "Tables of choices"), re.MULTILINE)[1:]:
        _, where, name, meaning = [cell.strip() for cell in row.split("|")]
        table = where.strip("`").removeprefix("nearfar.") or table
        documented.setdefault(table, []).append(name.strip("`"))
        assert meaning
    assert documented == {name: list(table) for name, table in TABLES.items()}


def test_the_tables_of_choices_are_those_that_recipes_read() -> None:
    read = [
        table
        for field in Recipe.model_fields.values()
        if isinstance(field.default, ChoiceTable)
        for table in type(field.default).choices().values()
    ]
    nested = [table for entry in SOURCES.values() for table in _choices(entry.settings)]
    assert {id(table) for table in (*read, *nested)} == {id(table) for table in TABLES.values()}


def _choices(kind: type[Settings]) -> list[Registry[Any]]:
    return list(kind.choices().values()) if issubclass(kind, ChoiceTable) else []


def test_every_renamed_key_stands_in_the_reference() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `([a-z_.]+)`", section(REFERENCE, "Recipes"), re.MULTILINE)
    expected = {".".join(old): ".".join(new) for old, new in MOVED.items()}
    assert dict(rows).items() >= expected.items()
    assert dict(rows)["decision.quantile"] == "threshold.false_alarm_rate"


def public_names() -> Iterator[tuple[str, str]]:
    """(heading of docs/api.md, name) of everything public."""
    for name in nearfar.__all__:
        yield "nearfar", name
    for module in nearfar._MODULES:
        for name in import_module(f"nearfar.{module}").__all__:
            yield f"nearfar.{module}", name


def test_every_public_name_stands_in_the_api_reference() -> None:
    names = list(public_names())
    assert len(names) > 80
    for heading, name in names:
        assert re.search(rf"`{name}\b", section(API, heading)), f"{heading}.{name} is missing from {API}"


def test_every_public_module_has_an_example() -> None:
    headings = {heading for heading, _ in python_blocks(API)}
    assert headings >= {"nearfar", *(f"nearfar.{module}" for module in nearfar._MODULES)}


def recordings(folder: Path) -> None:
    """The made-up recordings that examples read."""
    for index in range(24):
        write_clip(folder / "recordings" / "pump 7" / f"{index:04d}.wav", 1.0, 440.0, index)
    for index in range(2):
        write_clip(folder / "monday" / f"{index:04d}.wav", 1.0, 440.0 * (1 + index), 100 + index)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workshop")
    recordings(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "heading", "code"),
    [(name, *block) for name in (API, "README.md") for block in python_blocks(name)],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_an_example_prints_what_its_comments_say(
    name: str, heading: str, code: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    printed, commented = output_and_comments(code, f"{name}, {heading}")
    assert printed
    if name == API:
        assert printed == commented


def test_every_command_stands_in_the_reference() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    rows = re.findall(r"^\| `nearfar ([a-z]+)", section(REFERENCE, "Commands"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == commands


# --- links ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["README.md", *(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))]
)
def test_links_to_files_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page(name)):
        assert (folder / target).exists(), f"{name} links to {target}, which does not exist"
