"""Whether the disk has room."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nearfar.errors import InputError

SPARE_BYTES = 100_000_000
"""Left free beyond what is needed: a system whose disk is full to the last byte fails elsewhere."""


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Make sure that the disk of a folder, which need not exist yet, has room.

    Args:
        folder: where something is to be written.
        needed_bytes: how much it is.
        purpose: what it is for, for the message.

    Raises:
        InputError: if less is free than that and a little more.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes + SPARE_BYTES:
        raise InputError(
            folder,
            found=f"{free / 1e9:.2f} GB free",
            expected=f"{(needed_bytes + SPARE_BYTES) / 1e9:.2f} GB for {purpose}",
            remedy="Free some space or give a folder on another disk; what is already there is kept",
        )


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an error that names the place and the way out."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            place,
            found="no space left on the disk" if full else str(error),
            expected="a place that can be written to",
            remedy=("Free some space" if full else "Check the folder and its permissions")
            + " and give the same command again; what has arrived is kept",
        ) from None
