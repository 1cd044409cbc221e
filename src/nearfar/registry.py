"""Registries of choices, one per kind: poolings, losses, views, back-ends, ...

A registry is a dictionary from the name in recipes to an :class:`Entry`. To add a choice, write it in a module of
its own and add one line to the registry::

    POOLINGS["max"] = Pooling(max_pooling, description="maximum over tokens")
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter
from typing import Generic, TypeVar

from nearfar.errors import InputError, one_of
from nearfar.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Base of the entries of all registries; each registry adds the functions of its kind.

    Attributes:
        description: a phrase for the description of a submission, such as ``"mean over tokens"``, with attributes
            of the settings in braces.
        settings: the settings of this entry. Its fields are keys of the recipe table that names the entry, and are
            part of the identity of results only if it does.
        table: the name of a recipe table of its own for these settings, such as ``"lora"``, or None.
    """

    description: str
    settings: type[Settings] = Settings
    table: str | None = None

    def described(self, settings: Settings) -> str:
        """The description, with the values of settings filled in."""
        names = [name for _, name, _, _ in Formatter().parse(self.description) if name]
        return self.description.format(**{name: getattr(settings, name) for name in names})


EntryT = TypeVar("EntryT", bound=Entry)


class Registry(dict[str, EntryT], Generic[EntryT]):
    """A table of choices. Looking up an unknown name raises an :class:`InputError` that lists the known ones.

    Args:
        kind: the name of an entry in messages, such as ``"pooling"``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> EntryT:
        raise InputError(self.kind, found=repr(name), expected=one_of(self, name), remedy="Correct the name")
