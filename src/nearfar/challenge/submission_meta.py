"""``<label>.meta.yaml`` of a submission: the metadata of a system, from its recipe and results.

Keys are those of the challenge's template; a value that does not apply is written ``!!null``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nearfar.challenge.description import DEVELOPMENT_MACHINES, describe, external_datasets
from nearfar.config import Recipe
from nearfar.errors import InputError
from nearfar.metrics import MachineMetrics

_AUTHOR = re.compile(r"\s*(\S.*?)\s+(\S+)\s+<([^<>@\s]+@[^<>@\s]+)>\s*")
_NULL = "tag:yaml.org,2002:null"


class Author(BaseModel):
    """An author of the submission. The first author is the corresponding one unless another is marked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    firstname: str
    lastname: str
    email: str
    corresponding: bool = False
    institution: str | None = None
    department: str | None = None
    location: str | None = None


def read_authors(path: Path) -> list[Author]:
    """Authors from a TOML file with a table ``[[authors]]`` for each.

    Raises:
        InputError: if the file is missing or no TOML, or a table has an unknown key or lacks a name or address.
    """
    expected = "[[authors]] with firstname, lastname, email and, if wanted, institution, department, location"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("authors")
        if not isinstance(tables, list) or not tables:
            raise ValueError("no [[authors]]")
        return [Author.model_validate(table) for table in tables]
    except OSError as error:
        found = f"no file that can be read ({error.strerror})"
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc'])) or 'an author'}: {first['msg']}"
    except ValueError as error:
        found = str(error)
    raise InputError(path, found=found, expected=expected, remedy="Correct the file") from None


def parse_author(text: str, **affiliation: str | None) -> Author:
    """``"Ada Last <ada@inst.example>"`` to an author; ``affiliation`` is institution, department, location.

    Raises:
        InputError: if the text is of another form.
    """
    match = _AUTHOR.fullmatch(text)
    if match is None:
        raise InputError("author", found=text, expected="First Last <address@host>", remedy="Write it so")
    return Author(firstname=match[1], lastname=match[2], email=match[3], **affiliation)


def metadata(
    recipe: Recipe,
    *,
    label: str,
    authors: Iterable[Author],
    parameters: int | None,
    trained_on: Iterable[str],
    rules: Iterable[str] = (),
    development: Mapping[str, MachineMetrics] | None = None,
    name: str | None = None,
    abbreviation: str | None = None,
    source_code: str | None = None,
) -> dict[str, Any]:
    """The tree of ``<label>.meta.yaml``.

    Args:
        recipe: the system's.
        label: ``<LastName>_<INST>_task2_<number>``.
        authors: at least one.
        parameters: how many the system has.
        trained_on: the machines whose training clips the system was trained on.
        rules: the threshold rules that the decisions were made with.
        development: results on the development set as fractions, by machine; None leaves them null.
        name, abbreviation: of the system; by default the name of the recipe.
        source_code: the address of the public code, if any.
    """
    return {
        "submission": {
            "label": label,
            "name": name or recipe.name,
            "abbreviation": abbreviation or recipe.name,
            "authors": _authors(list(authors)),
        },
        "system": {
            "description": describe(recipe, trained_on, rules),
            "complexity": {"total_parameters": parameters},
            "external_datasets": external_datasets(recipe),
            "source_code": source_code,
        },
        "results": {"development_dataset": _development(development or {})},
    }


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML in the order of the tree, None as ``!!null``, without line breaks within values."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def process_tag(self) -> None:
            if getattr(self.event, "tag", None) == _NULL:
                self.write_indicator("!!null", True)
            else:
                super().process_tag()

        def ignore_aliases(self, data: Any) -> bool:
            return True  # repeated values are written in full, not as references

    Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, ""))
    text: str = yaml.dump(dict(tree), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text


def _authors(authors: list[Author]) -> list[dict[str, Any]]:
    marked = any(author.corresponding for author in authors)
    return [
        author.model_dump(include={"firstname", "lastname", "email"})
        | {"corresponding": author.corresponding if marked else position == 0}
        | {"affiliation": author.model_dump(include={"institution", "department", "location"})}
        for position, author in enumerate(authors)
    ]


def _development(results: Mapping[str, MachineMetrics]) -> dict[str, dict[str, float | None]]:
    """In percent. All machines of the challenge are listed, unless the results are of other machines only."""
    is_challenge = not results or any(machine in results for machine in DEVELOPMENT_MACHINES)
    empty: dict[str, float | None] = dict.fromkeys(MachineMetrics._fields)
    rows = dict.fromkeys(DEVELOPMENT_MACHINES, empty) if is_challenge else {}
    return rows | {
        machine: {quantity: round(100 * value, 2) for quantity, value in metrics._asdict().items()}
        for machine, metrics in results.items()
    }
