"""Errors that users can fix, with messages that state the fault and its remedy."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

MOST_LISTED = 10
"""Largest number of errors listed in a message; the rest are counted."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def printable(text: str, kept: str = "") -> str:
    """A text without control characters, which a terminal would obey: each as ``\\x1b``, but for those ``kept``.

    Names of files may hold any character.
    """
    return "".join(
        character if character in kept or unicodedata.category(character) != "Cc" else f"\\x{ord(character):02x}"
        for character in text
    )


class NearfarError(Exception):
    """Base of every error that nearfar raises on purpose; the command line turns it into exit code 2."""


class InputError(NearfarError):
    """An argument, file or folder has a wrong value or content.

    Args:
        where: the file, folder or argument at fault.
        found: its actual content or value.
        expected: the required content or value.
        remedy: an imperative sentence without the full stop.
    """

    def __init__(self, where: Path | str, *, found: str, expected: str, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        end = "" if expected.endswith("?") else "."
        super().__init__(f"{printable(str(where))}: found {found}; expected {expected}{end} {remedy}.")

    def __reduce__(self) -> tuple[Any, ...]:
        """From its parts, so that errors of other processes arrive as they were."""
        parts = {"found": self.found, "expected": self.expected, "remedy": self.remedy}
        return partial(type(self), self.where, **parts), ()


class SilentChannelError(InputError):
    """A channel of a recording has no sound, as of a microphone that is dead."""


class MultipleInputError(InputError):
    """Several errors about one input, such as the recordings of a folder; the attributes are of the first.

    Args:
        errors: one or more.
        summary: lines that are printed before the errors.
    """

    def __init__(self, errors: Sequence[InputError], summary: Sequence[str] = ()) -> None:
        first = errors[0]
        super().__init__(first.where, found=first.found, expected=first.expected, remedy=first.remedy)
        self.errors, self.summary = tuple(errors), tuple(summary)
        lines = [*summary, *(str(error) for error in errors[:MOST_LISTED])]
        if len(errors) > MOST_LISTED:
            lines.append(f"and {len(errors) - MOST_LISTED} more")
        self.args = ("\n".join(lines),)

    def __reduce__(self) -> tuple[Any, ...]:
        """As that of a single error."""
        return type(self), (self.errors, self.summary)


def raise_errors(errors: Sequence[InputError], summary: Sequence[str] = ()) -> None:
    """Raise a single error as it is and several, or those with a summary, as one; do nothing without errors."""
    if errors:
        raise errors[0] if len(errors) == 1 and not summary else MultipleInputError(errors, summary)


def map_errors(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results of a function of each item.

    Raises:
        InputError: listing the errors of all items.
    """
    results: list[Result] = []
    errors: list[InputError] = []
    for item in items:
        try:
            results.append(function(item))
        except MultipleInputError as error:
            errors += error.errors
        except InputError as error:
            errors.append(error)
    raise_errors(errors)
    return results


class TrainingError(NearfarError):
    """Training cannot continue, for instance because the loss is no longer finite."""


def one_of(names: Iterable[str], given: object = None) -> str:
    """``'mean', 'rdp' or 'cls'``, with the most similar of them as a suggestion if a misspelt name is given."""
    names = list(names)
    quoted = [repr(name) for name in names]
    listed = " or ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
    return listed + did_you_mean(given, names)


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """``", did you mean 'rdp'?"`` if one of the names is similar to the given one, else an empty string."""
    close = difflib.get_close_matches(given, list(names), n=1) if isinstance(given, str) else []
    return f", did you mean {close[0]!r}?" if close else ""
