"""Tables of choices: one per kind (poolings, losses, views, back-ends, ...), read by everything that offers a
choice.

A table is a dictionary from the name that recipes use to an :class:`Entry`. To add a choice, write it in a file of
its own and add one line to the table beside it::

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
    """Base of the entries of all tables; each table adds what its kind of choice computes.

    Attributes:
        description: a phrase for the description of a submission, such as ``"mean over tokens"``; attributes of
            the settings may stand in braces.
        settings: the settings of this choice alone. Its fields are keys of the recipe table in which the choice is
            made, and enter the identity of results only where this entry is chosen.
        table: the name of a table of the recipe that holds these settings instead, such as ``"lora"``.
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
    """A table of choices. Looking up a name that it lacks raises an :class:`InputError` that lists the others.

    Args:
        kind: what the entries are, in the singular, for messages: ``"pooling"``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> EntryT:
        raise InputError(self.kind, found=repr(name), expected=one_of(self, name), remedy="Correct the name")
