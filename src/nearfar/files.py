"""Atomic writing of files: whole or not at all, also when the program is killed or the disk fills."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nearfar.errors import InputError, NearfarError

SIGNATURE = "sha256"
"""The entry of a JSON object that holds the SHA-256 of the others."""

ABANDONED_AFTER_SECONDS = 3_600
"""Temporary files that have not been written to for this long are left over from a killed program."""


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


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
            # Paths need not be UTF-8; JSON reads their escaped bytes as they were.
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise NearfarError(
            f"{path}: cannot write it ({error.strerror or error}). Free some space or choose another folder."
        ) from None


def as_text(name: str | Path) -> str:
    """A name or path with a UTF-8 form: bytes that are none, as some archives unpack them, become ``\\udcfc``.

    The same is written where files of results hold names.
    """
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def as_path(text: str) -> Path:
    """The path that :func:`as_text` wrote as text."""
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda match: chr(0xDC00 + int(match[1], 16)), text))


def write_json(path: Path, tree: Any) -> None:
    """Write indented JSON atomically; values that JSON lacks, such as paths, are written as strings."""
    write_text(path, json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n")


def write_signed_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Write a JSON object as :func:`write_json`, with the SHA-256 of its content as the entry ``sha256``."""
    write_json(path, signed(tree))


def signed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the SHA-256 of its content as the entry ``sha256``."""
    content = json.loads(json.dumps(tree, default=str))
    return {**content, SIGNATURE: _json_sha256(content)}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; :func:`require_signature` checks it once its format is known.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no JSON object.
    """
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__}")
    return tree


def require_signature(tree: Mapping[str, Any]) -> None:
    """Raise a ValueError if an object is not the one that its SHA-256 is of; earlier files have none."""
    expected = tree.get(SIGNATURE)
    found = _json_sha256(without_signature(tree))
    if expected not in (None, found):
        raise ValueError(f"SHA-256 {found[:12]}, not {str(expected)[:12]}")


def without_signature(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The content that :func:`signed` was given."""
    return {key: value for key, value in tree.items() if key != SIGNATURE}


def _json_sha256(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


@contextmanager
def exclusive(folder: Path, lock: Path | None = None, *, wait_s: float = 0.0) -> Iterator[None]:
    """Exclude other processes that write into the same output folder; the system frees it if this one is killed.

    The lock is the file ``lock``, by default ``.lock`` in the folder, which is made if needed and removed again if
    nothing was written into it. File systems without locks exclude nothing.

    Args:
        folder: the output folder.
        wait_s: how long to wait for another process, in seconds.

    Raises:
        InputError: if another process holds the lock for longer.
    """
    from filelock import FileLock, Timeout

    path = folder / ".lock" if lock is None else lock
    made = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
    held = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path)
        held.acquire(timeout=wait_s)
    except Timeout:
        raise InputError(
            folder,
            found="another nearfar process that writes into it",
            expected="one at a time",
            remedy="Wait for it, stop it, or choose another folder",
        ) from None
    except (OSError, NotImplementedError):
        held = None
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)  # while it is held: whoever waits for it makes a new one
            held.release()
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def exchange(one: Path, other: Path) -> bool:
    """Exchange two files or folders in one step, if the system can; returns whether it did.

    Linux only (renameat2); on other systems, and on file systems that lack it, nothing happens.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    names = [os.fsencode(path.absolute()) for path in (one, other)]
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def flush_to_disk(path: Path) -> None:
    """Flush a closed file to the disk, so that a power cut does not leave it empty."""
    with path.open("r+b") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())


def file_size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
