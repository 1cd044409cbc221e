"""Recipes of all kinds: reading TOML, changing dotted keys, and errors that name the key."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar

import tomli_w
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from nearfar.errors import InputError, did_you_mean
from nearfar.settings import Settings, dotted, keys_of, reason

_REMEDY = "See the reference of recipe keys in docs/reference.md and correct it"

RecipeT = TypeVar("RecipeT", bound=Settings)


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
        for name, value in changes.items():
            *tables, key = name.split(".")
            node = tree
            for table in tables:
                node = node.setdefault(table, {})
                if not isinstance(node, dict):
                    raise _refused(f"recipe {self.name}", f"the unknown key {name}", "a key of the recipe")
            node[key] = value
        return validated(type(self), tree, f"recipe {self.name}", changes)

    def to_toml(self) -> str:
        """The whole recipe as TOML; None, which TOML lacks, is left out, and is the default of such keys."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def digest(tree: Any) -> str:
    """Sixteen hex digits of a hash of a tree of plain values."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def validated(
    kind: type[RecipeT], tree: dict[str, Any], name_or_path: str, changed: Collection[str] = ()
) -> RecipeT:
    """A recipe from its tree; ``name_or_path`` and the ``changed`` dotted keys are for error messages.

    Raises:
        InputError: if a key is unknown or missing, or a value does not fit.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        context = first.get("ctx") or {}
        key = _dotted_key(first, tree)
        if first["type"] == "nearfar":
            key = dotted(key, context["key"])
            if context.get("unknown"):
                raise _refused(name_or_path, f"the unknown key {key}", context["expected"]) from None
            if context.get("missing"):
                raise _refused(name_or_path, f"no {key}", context["expected"]) from None
            found, expected = context["found"], context["expected"]
            for name, (value, expects) in context["related"].items():
                other = dotted(key.rpartition(".")[0], name)
                if key not in changed and other in changed:
                    key, found, expected = other, value, expects
            raise _refused(name_or_path, f"{key} = {found}", expected) from None
        if first["type"] == "extra_forbidden":
            *tables, unknown = first["loc"]
            owner: Any = kind
            for name in tables:
                owner = owner.model_fields[name].annotation
            close = did_you_mean(unknown, keys_of(owner))
            raise _refused(name_or_path, f"the unknown key {key}", f"a key of the recipe{close}") from None
        # A value of a union of types has an error for each of them.
        reasons = [reason(each) for each in (first, *others) if _dotted_key(each, tree) == key]
        found = f"no {key}" if first["type"] == "missing" else f"{key or 'a recipe'} = {first['input']!r}"
        raise _refused(name_or_path, found, " or ".join(dict.fromkeys(reasons))) from None


def packaged_names(folder: str) -> list[str]:
    """Names of the TOML files in a folder of the package, without the suffix."""
    names = [entry.name for entry in (resources.files("nearfar") / folder).iterdir()]
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def read_toml(name_or_path: str, folder: str, kind: str) -> dict[str, Any]:
    """The tree of a TOML file: by name, from a folder of the package, or by path.

    Raises:
        InputError: if there is no such file, or it is not TOML.
    """
    names, path = packaged_names(folder), Path(name_or_path)
    file = resources.files("nearfar") / folder / f"{name_or_path}.toml" if name_or_path in names else path
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(
            name_or_path,
            found=f"no {kind} of that name and no such file",
            expected=f"one of {', '.join(names)}, or a TOML file{did_you_mean(name_or_path, names)}",
            remedy="Check the spelling",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            name_or_path, found=f"text that is not TOML ({error})", expected="TOML", remedy="Correct the file"
        ) from None


def _dotted_key(error: ErrorDetails, tree: dict[str, Any]) -> str:
    """The key, such as ``training.steps``, without the names of types that pydantic appends for unions."""
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


def _refused(name_or_path: str, found: str, expected: str) -> InputError:
    return InputError(name_or_path, found=found, expected=expected, remedy=_REMEDY)
