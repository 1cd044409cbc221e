"""The errors a person can fix, worded so that they can."""

from __future__ import annotations

from pathlib import Path


class NearfarError(Exception):
    """Base of every error that nearfar raises on purpose; the command line turns it into exit code 2."""


class InputError(NearfarError):
    """Something given to nearfar is not what it needs.

    Args:
        where: the file, folder or option at fault.
        found: what is there.
        expected: what should be there.
        remedy: what to do about it, as an imperative sentence without the full stop.
    """

    def __init__(self, where: Path | str, *, found: str, expected: str, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        super().__init__(f"{where}: found {found}; expected {expected}. {remedy}.")


class TrainingError(NearfarError):
    """Training cannot go on, for instance because the loss is no longer finite."""
