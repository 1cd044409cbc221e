"""Atomic writing of files: whole or not at all, also when the program is killed or the disk fills."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearfar.errors import NearfarError

ABANDONED_AFTER_SECONDS = 3_600
"""Temporary files that have not been written to for this long are left over from a killed program."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file with the suffix of ``path``, beside it, that replaces ``path`` if the block succeeds.

    If the block raises, the temporary file is removed and ``path`` is unchanged. The folder is created if needed.
    Permissions follow the umask, whatever the library that writes the file sets. Old temporary files of the same
    path, left by killed programs, are removed.

    Raises:
        OSError: if the folder cannot be created or the file cannot be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    oldest = time.time() - ABANDONED_AFTER_SECONDS
    with suppress(OSError):
        for other in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{glob.escape(path.suffix)}"):
            if other.stat().st_mtime < oldest:
                other.unlink()
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors makes its files readable only by their owner
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def reset_permissions(folder: Path) -> None:
    """Give files in and below a folder the umask's permissions; some libraries make them private."""
    example = folder / f".{os.getpid()}.mode"
    example.touch()
    mode = example.stat().st_mode
    example.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, creating its folder if needed.

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
    """Write indented JSON atomically; values that JSON lacks, such as paths, are written as strings."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n")


def flush_to_disk(path: Path) -> None:
    """Flush a closed file to the disk, so that a power cut does not leave it empty."""
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
