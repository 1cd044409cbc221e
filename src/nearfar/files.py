"""Files that are there whole or not at all, also when the program is killed or the disk fills up while writing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearfar.errors import NearfarError

ABANDONED_AFTER_SECONDS = 3_600
"""A half-written file that nobody has written to for so long is of a program that was killed."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path``: a hidden file beside it, with the same ending.

    When the block ends, that file takes the place of ``path`` at once; if the block raises, it is removed and
    ``path`` is as before. The folder is made if need be. What the block raises is raised on. What a killed program
    left half-written of the same file is removed, in time.

    Raises:
        OSError: if the folder cannot be made or the file not put in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _remove_abandoned(path: Path) -> None:
    start, end, now = f".{path.stem}.", f".partial{path.suffix}", time.time()
    with suppress(OSError):
        for other in path.parent.iterdir():
            if not (other.name.startswith(start) and other.name.endswith(end)):
                continue
            if now - other.stat().st_mtime > ABANDONED_AFTER_SECONDS:
                other.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; its folder is made if need be.

    Raises:
        NearfarError: if it cannot be written.
    """
    try:
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NearfarError(
            f"{path}: cannot write it ({error.strerror or error}). Free some space or choose another folder."
        ) from None


def write_json(path: Path, tree: Any) -> None:
    """:func:`write_text` of indented JSON; what JSON does not know, such as paths, is written as text."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n")


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a closed file is on the disk, so that a power cut does not leave it empty."""
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
