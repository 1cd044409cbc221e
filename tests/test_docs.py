"""The pages of docs/ name every recipe key, choice and public name, and their examples run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from docs.write_reference import TABLES, keys_of, updated
from tests.documentation import ROOT, output_and_comments, page, python_blocks
from tests.fixtures import write_clip

import nearfar
from nearfar.cli import app
from nearfar.config import Recipe
from nearfar.config.renamed import MOVED
from nearfar.features import SOURCES
from nearfar.pooling import POOLINGS, Pooling
from nearfar.registry import Registry
from nearfar.settings import ChoiceTable, Settings

REFERENCE, API = "docs/reference.md", "docs/api.md"


def section(name: str, heading: str) -> str:
    """The text below a heading of the first or second level, up to the next one."""
    return page(name).split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_keys_and_choices_of_the_reference_are_those_of_the_code() -> None:
    assert len(keys_of(Recipe)) > 80
    assert updated(page(REFERENCE)) == page(REFERENCE), "run make reference"


def test_a_new_choice_is_entered_in_the_reference_by_make_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    class PowerSettings(Settings):
        power: float = 3.0

    entry = Pooling(pool=lambda tokens, _: tokens.mean(dim=-2), settings=PowerSettings, description="power mean")
    monkeypatch.setitem(POOLINGS, "power", entry)
    before = page(REFERENCE).splitlines()
    added = [line for line in updated(page(REFERENCE)).splitlines() if line not in before]
    assert added == [
        "| `features.power` | `3.0` | `power` | a setting of `power` |",
        "| | | `power` | power mean |",
    ]


def test_the_tables_of_choices_are_those_that_recipes_read() -> None:
    read = [
        table
        for field in Recipe.model_fields.values()
        if isinstance(field.default, ChoiceTable)
        for table in type(field.default).choices.values()
    ]
    nested = [table for entry in SOURCES.values() for table in _choices(entry.settings)]
    assert {id(table) for table in (*read, *nested)} == {id(table) for table in TABLES.values()}


def _choices(kind: type[Settings]) -> list[Registry[Any]]:
    return list(kind.choices.values()) if issubclass(kind, ChoiceTable) else []


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
