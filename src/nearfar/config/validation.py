"""Reading and changing recipes of every kind: TOML, dotted keys, and errors that name the key."""

from __future__ import annotations

import hashlib
import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nearfar.errors import InputError, did_you_mean
from nearfar.settings import Settings, keys_of, reason

_REMEDY = "See the reference of recipe keys in docs/reference.md and correct it"

RecipeT = TypeVar("RecipeT", bound="RecipeTable")


class RecipeTable(Settings):
    """The root of a recipe."""

    name: str
    description: str = ""

    def with_changes(self, **changes: Any) -> Self:
        """A copy with dotted keys changed: ``recipe.with_changes(**{"training.steps": 10})``.

        Raises:
            InputError: if a key does not exist or a value does not fit.
        """
        tree = self.model_dump(mode="json")
        for dotted, value in changes.items():
            *tables, key = dotted.split(".")
            node = tree
            for table in tables:
                node = node.setdefault(table, {})
                if not isinstance(node, dict):
                    raise _unknown_key(f"recipe {self.name}", dotted, "a key of the recipe")
            node[key] = value
        return validated(type(self), tree, f"recipe {self.name}")

    def to_toml(self) -> str:
        """The whole recipe as TOML; None values, which TOML lacks, are left out and read back as None."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def digest(tree: Any) -> str:
    """Sixteen hex digits that are equal for equal trees of plain values."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def validated(kind: type[RecipeT], tree: dict[str, Any], where: str) -> RecipeT:
    """A recipe from its tree."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        context = first.get("ctx") or {}
        key = _dotted_key(first, tree)
        if first["type"] == "nearfar":
            key = ".".join(filter(None, (key, context["key"])))
            if context.get("unknown"):
                raise _unknown_key(where, key, context["expected"]) from None
            raise InputError(
                where, found=f"{key} = {context['found']}", expected=context["expected"], remedy=_REMEDY
            ) from None
        if first["type"] == "extra_forbidden":
            close = did_you_mean(first["loc"][-1], keys_of(_table_kind(kind, first["loc"][:-1])))
            raise _unknown_key(where, key, f"a key of the recipe{close}") from None
        # A value that may be of several kinds has an error for each of them.
        reasons = [reason(each) for each in (first, *others) if _dotted_key(each, tree) == key]
        raise InputError(
            where,
            found=f"no {key}" if first["type"] == "missing" else f"{key or 'a recipe'} = {first['input']!r}",
            expected=" or ".join(dict.fromkeys(reasons)),
            remedy=_REMEDY,
        ) from None


def packaged_names(folder: str) -> list[str]:
    """Names of the TOML files in a folder of the package, without the suffix."""
    inside = resources.files("nearfar").joinpath(*folder.split("/"))
    return sorted(entry.name.removesuffix(".toml") for entry in inside.iterdir() if entry.name.endswith(".toml"))


def read_toml(name_or_path: str, folder: str, kind: str) -> dict[str, Any]:
    """The tree of a TOML file of the package (by name, in ``folder``) or of the disk (by path)."""
    names = packaged_names(folder)
    try:
        if name_or_path in names:
            packaged = resources.files("nearfar").joinpath(*folder.split("/"), f"{name_or_path}.toml")
            return tomllib.loads(packaged.read_text(encoding="utf-8"))
        return tomllib.loads(Path(name_or_path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(
            name_or_path,
            found=f"no {kind} of that name and no such file",
            expected=f"one of {', '.join(names)}, or a TOML file",
            remedy="Check the spelling",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            name_or_path, found=f"text that is not TOML ({error})", expected="TOML", remedy="Correct the file"
        ) from None


def _table_kind(kind: type[Settings], location: tuple[int | str, ...]) -> type[Settings]:
    """The class of the table at a location below a recipe."""
    for part in location:
        inner = kind.model_fields[str(part)].annotation
        assert isinstance(inner, type)
        kind = inner
    return kind


def _dotted_key(error: ErrorDetails, tree: dict[str, Any]) -> str:
    """``training.steps``, without what pydantic adds to name the kind of value that it tried."""
    parts: list[str] = []
    node: Any = tree
    for part in error["loc"]:
        if isinstance(node, dict):
            if part not in node and error["type"] != "missing":
                break
            node = node.get(str(part))
        elif not isinstance(part, int):
            break
        parts.append(str(part))
    return ".".join(parts)


def _unknown_key(where: str, key: str, expected: str) -> InputError:
    return InputError(where, found=f"the unknown key {key}", expected=expected, remedy=_REMEDY)
