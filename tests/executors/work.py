"""Tasks for tests of executors, which worker processes import by name."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

from nearfar.errors import InputError, MultipleInputError
from nearfar.progress import Progress

logger = logging.getLogger("nearfar.tests")


def square(number: int, progress: Progress) -> int:
    return number * number


def where(number: int, progress: Progress) -> tuple[int, str]:
    return os.getpid(), str(Path.cwd())


def one_is_killed(folder: Path, progress: Progress) -> str:
    """The first call for a folder named ``last`` kills its process."""
    killed = folder / "killed"
    if folder.name == "last" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.name


def always_killed(number: int, progress: Progress) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fails(number: int, progress: Progress) -> int:
    if number == 1:
        error = InputError(Path("a.wav"), found="noise", expected="sound", remedy="Record again")
        raise MultipleInputError([error, error], ["two of two"])
    return number


def warns(number: int, progress: Progress) -> int:
    logger.warning("the same of all")
    logger.warning("of %d", number % 2)
    return number
