"""Which recordings are meant by a list of files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nearfar.data.audio import read_headers
from nearfar.data.folders import is_audio
from nearfar.errors import InputError


def recordings_in(places: Iterable[Path]) -> list[Path]:
    """The files, and the WAV and FLAC files in the folders and below them, sorted within each.

    Raises:
        InputError: if one is missing or no whole WAV or FLAC file, or a folder holds none.
    """
    out: list[Path] = []
    for place in places:
        if not place.is_dir():
            out.append(place)
            continue
        inside = [path for path in place.rglob("*") if is_audio(path) and not path.name.startswith(".")]
        if not inside:
            raise InputError(
                place, found="no WAV or FLAC file in it", expected="recordings to score", remedy="Check the path"
            )
        out += sorted(inside)
    for header in read_headers(out):
        if isinstance(header, InputError):
            raise header
    return out
