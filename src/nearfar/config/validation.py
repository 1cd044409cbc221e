"""What recipes of every kind share: changes by dotted key, TOML, and errors that name the key."""

from __future__ import annotations

from typing import Any, Self, TypeVar

import tomli_w
from pydantic import ValidationError

from nearfar.config.tables import Table
from nearfar.errors import InputError

_REMEDY = "See the reference of recipe keys in docs/reference.md and correct it"

Kind = TypeVar("Kind", bound="RecipeTable")


class RecipeTable(Table):
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
                    raise _unknown_key(f"recipe {self.name}", dotted)
            node[key] = value
        return validated(type(self), tree, f"recipe {self.name}")

    def to_toml(self) -> str:
        """The whole recipe as TOML; None values, which TOML lacks, are left out and come back as None."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def validated(kind: type[Kind], tree: dict[str, Any], where: str) -> Kind:
    """A recipe from its tree.

    Raises:
        InputError: naming ``where`` and the first key at fault.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors()
        key = _dotted_key(first["loc"], tree)
        if first["type"] == "extra_forbidden":
            raise _unknown_key(where, key) from None
        # A value that may be one of several things has an error for each of them.
        reasons = [first["msg"]] + [other["msg"] for other in others if _dotted_key(other["loc"], tree) == key]
        raise InputError(
            where,
            found=f"no {key}" if first["type"] == "missing" else f"{key} = {first['input']!r}",
            expected=" or ".join(reason.removeprefix("Value error, ") for reason in reasons),
            remedy=_REMEDY,
        ) from None


def _dotted_key(location: tuple[int | str, ...], tree: dict[str, Any]) -> str:
    """``training.steps``; what pydantic adds to say which kind of value it tried is no key and left out."""
    parts: list[str] = []
    node: Any = tree
    for part in location:
        if isinstance(node, dict):
            node = node.get(str(part))
        elif not isinstance(part, int):
            break
        parts.append(str(part))
    return ".".join(parts)


def _unknown_key(where: str, key: str) -> InputError:
    return InputError(where, found=f"the unknown key {key}", expected="a key of the recipe", remedy=_REMEDY)
