"""Errors that users can fix, with messages that state the fault and its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

MOST_LISTED = 10
"""Largest number of errors listed in a message; the rest are counted."""


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
        super().__init__(f"{where}: found {found}; expected {expected}{end} {remedy}.")


class MultipleInputError(InputError):
    """Several errors about one input, such as the recordings of a folder; the attributes are of the first."""

    def __init__(self, errors: Sequence[InputError]) -> None:
        first = errors[0]
        super().__init__(first.where, found=first.found, expected=first.expected, remedy=first.remedy)
        self.errors = tuple(errors)
        lines = [str(error) for error in errors[:MOST_LISTED]]
        if len(errors) > MOST_LISTED:
            lines.append(f"and {len(errors) - MOST_LISTED} more")
        self.args = ("\n".join(lines),)


def raise_errors(errors: Sequence[InputError]) -> None:
    """Raise a single error as it is and several as one; do nothing without errors."""
    if errors:
        raise errors[0] if len(errors) == 1 else MultipleInputError(errors)


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
