"""A plain folder of normal recordings of one machine, without folders that say so."""

from __future__ import annotations

from pathlib import Path

from nearfar.data.clips import AUDIO_SUFFIXES, Clip, normal_clip
from nearfar.data.listing import folder_name, is_audio, refuse_duplicates, unread, visible
from nearfar.errors import InputError

_PLACES = ("train", "test", "normal", "source_test", "target_test", "supplemental")
"""Folders inside a machine's; recordings in one of these are not all there is, nor all normal."""


def is_flat_folder(root: Path) -> bool:
    """Whether recordings lie in the folder itself, and it is no part of a machine's folder."""
    return (
        root.is_dir()
        and folder_name(root).casefold() not in _PLACES
        and any(is_audio(path) for path in visible(root))
        and not any((root / place).is_dir() for place in _PLACES)
    )


def read_flat_folder(root: Path, machine: str | None = None) -> tuple[list[Clip], list[str]]:
    """All recordings of a folder as normal ones of one machine, which is called as the folder by default.

    Raises:
        InputError: if a name says that its recording is anomalous, or one is there both as WAV and as FLAC.
    """
    files = [path for path in visible(root) if is_audio(path)]
    refuse_duplicates(files)
    for path in files:
        if "anomal" in path.stem.casefold():
            raise InputError(
                path,
                found="a name that says anomaly in a folder of normal recordings",
                expected=f"normal recordings only ({', '.join(AUDIO_SUFFIXES)}), of one machine",
                remedy="Take it out, or lay the folder out as docs/layouts.md says, with normal/ and test/",
            )
    name = machine or folder_name(root)
    clips = [normal_clip(path, name) for path in files]
    return clips, unread(root, name, {path.name for path in files})
