"""Base classes of all configuration: frozen, typed tables with an identity of the keys that decide results.

A :class:`ChoiceTable` has keys that name entries of registries, and accepts the settings of the named entries as
its own keys: with ``pooling = "rdp"``, ``rdp_gamma`` is a key of ``[features]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from nearfar.errors import did_you_mean, one_of

if TYPE_CHECKING:
    from nearfar.registry import Entry, Registry

PositiveFloat = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]

Item = TypeVar("Item")


def each_once(names: tuple[Item, ...]) -> tuple[Item, ...]:
    """Raise a ValueError if an item is repeated."""
    if len(set(names)) != len(names):
        raise ValueError("each entry once")
    return names


Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(each_once)]


class Settings(BaseModel):
    """A table of settings: frozen, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields that change speed, memory or wording, but no result."""

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that are no part of the identity at their default, so that results of earlier versions stay valid."""

    def identity(self) -> dict[str, Any]:
        """The keys that decide results, as plain values; equal for tables with the same results."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        unchanged = {name for name in self.added_later if getattr(self, name) == defaults[name]}
        fields = set(defaults) - self.without_effect - unchanged
        return self.model_dump(mode="json", include=fields)


class ChoiceTable(Settings):
    """A table of settings with fields that name one or several entries of a :class:`~nearfar.registry.Registry`.

    The settings of all entries are accepted as keys. Those of the chosen entries have their defaults and are part
    of :meth:`identity`; those of other entries are checked and have no effect.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    choices: ClassVar[Mapping[str, Registry[Any]]] = {}
    """The registries, by the field that names entries of each."""

    @model_validator(mode="after")
    def _fill_settings(self) -> Self:
        extras = self.__pydantic_extra__
        assert extras is not None
        for field, table in self.choices.items():
            for name in self.chosen(field):
                if name not in table:
                    raise refusal(field, name, one_of(table, name))
        check_keys(type(self), extras)
        owned: set[str] = set()
        entries = [
            (name in self.chosen(field), entry)
            for field, table in self.choices.items()
            for name, entry in table.items()
        ]
        for chosen, entry in sorted(entries, key=lambda item: not item[0]):  # shared keys are of chosen entries
            kind = inline_settings(entry)
            free = keys_of(kind) - owned
            given = {key: value for key, value in extras.items() if key in free}
            if given or chosen:
                filled = checked(kind, given).model_dump()
                extras.update(filled if chosen else {key: filled[key] for key in given})
                owned |= set(filled) if chosen else set(given)
        return self

    def chosen(self, field: str) -> tuple[str, ...]:
        """The name or names in a field of :attr:`choices`; empty if it is None."""
        value = getattr(self, field)
        return (value,) if isinstance(value, str) else tuple(value or ())

    def entry(self, field: str) -> Any:
        """The chosen entry of a field."""
        return self.choices[field][self.chosen(field)[0]]

    def settings_of(self, field: str, name: str | None = None) -> Any:
        """The settings of the entry ``name`` of a field, by default the chosen one or the first of several."""
        kind = inline_settings(self.choices[field][name or self.chosen(field)[0]])
        extras = self.__pydantic_extra__ or {}
        return kind.model_validate({key: extras[key] for key in keys_of(kind) if key in extras})

    def identity(self) -> dict[str, Any]:
        """As :meth:`Settings.identity`, with the settings of the chosen entries."""
        out = super().identity()
        for field in self.choices:
            for name in self.chosen(field):
                out |= self.settings_of(field, name).identity()
        return out


def inline_settings(entry: Entry) -> type[Settings]:
    """The settings of an entry that are keys of the :class:`ChoiceTable`; none if it has a table of its own."""
    return entry.settings if entry.table is None else Settings


def keys_of(kind: type[Settings]) -> set[str]:
    """All keys that a table of this class accepts."""
    keys = set(kind.model_fields)
    if issubclass(kind, ChoiceTable):
        for table in kind.choices.values():
            keys = keys.union(*(keys_of(inline_settings(entry)) for entry in table.values()))
    return keys


SettingsT = TypeVar("SettingsT", bound=Settings)


def checked(kind: type[SettingsT], values: Any, table: str = "") -> SettingsT:
    """Settings from plain values, for use inside validators; errors name ``table.key``, or the key alone."""
    if isinstance(values, Settings):
        values = values.model_dump()
    if not isinstance(values, Mapping):
        raise refusal(table, values, "a table of keys")
    check_keys(kind, values, table)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first, *others = error.errors()
        if first["type"] == "nearfar":
            raise _key_error(dotted(table, first["ctx"]["key"]), first["ctx"]) from None
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            raise _key_error(dotted(table, key), {"missing": True, "expected": "a value"}) from None
        reasons = [reason(each) for each in (first, *others) if each["loc"][:1] == first["loc"][:1]]
        found = values.get(key, first["input"])
        raise refusal(dotted(table, key), found, " or ".join(dict.fromkeys(reasons))) from None


def check_keys(kind: type[Settings], values: Iterable[str], table: str = "") -> None:
    """Raise an error about the first key that a table of this class lacks; for use inside validators."""
    known = keys_of(kind)
    for key in values:
        if key not in known:
            raise unknown_key(key, known, table)


def dotted(*keys: str) -> str:
    """The keys that are not empty, joined by dots."""
    return ".".join(filter(None, keys))


def refusal(
    key: str, found: Any, expected: str, related: Mapping[str, tuple[Any, str]] | None = None
) -> PydanticCustomError:
    """The error about one key of a table, to be raised inside a validator.

    Where keys do not fit each other, ``related`` has the value and the expected value of each other one: the error
    is about that key if it is the one that was changed.
    """
    others = {name: (repr(value), expects) for name, (value, expects) in (related or {}).items()}
    return _key_error(key, {"found": repr(found), "expected": expected, "related": others})


def unknown_key(key: str, keys: set[str], table: str = "") -> PydanticCustomError:
    """The error about a key that is not one of ``keys``, to be raised inside a validator."""
    expected = f"a key of the recipe{did_you_mean(key, keys)}"
    return _key_error(dotted(table, key), {"unknown": True, "expected": expected})


def _key_error(key: str, context: Mapping[str, Any]) -> PydanticCustomError:
    words = "the unknown key {key}" if context.get("unknown") else "{key} = {found}"
    words = "no {key}" if context.get("missing") else words
    return PydanticCustomError("nearfar", f"found {words}; expected {{expected}}", {**context, "key": key})


def reason(error: Any) -> str:
    """The expected value in plain words, from one of pydantic's errors."""
    context = error.get("ctx") or {}
    kind = error["type"]
    if kind == "literal_error":
        return f"{context['expected']}{did_you_mean(error['input'], context['expected'].split(chr(39))[1::2])}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    for prefix, words in _KINDS.items():
        if kind.startswith(prefix):
            return words
    return f"a value of another kind ({kind.replace('_', ' ')})"


_BOUNDS = {
    "greater_than": "a number greater than {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number less than {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "too_short": "a list with a length of at least {min_length}",
    "too_long": "a list with a length of at most {max_length}",
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "model": "a table of keys",
    "dict": "a table of keys",
    "none": "nothing",
    "missing": "a value",
}
