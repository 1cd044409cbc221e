"""Passwords and other secrets in files of their own, so that a configuration holds none."""

from __future__ import annotations

from pathlib import Path

from nearfar.errors import InputError


def secret_in(path: Path) -> str:
    """The text of a file without spaces and line breaks around it.

    Raises:
        InputError: if it cannot be read or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "no text"
        raise InputError(
            path, found=found, expected="a file with the secret", remedy="Write it, readable by nearfar only"
        ) from None
    if not text:
        raise InputError(path, found="an empty file", expected="the secret", remedy="Write it into the file")
    return text
