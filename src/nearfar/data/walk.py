"""The files in a folder and below it, as every command finds them.

Links are followed and each real folder is read once, under its own path rather than under that of a link, so links
that lead back add nothing. Entries that are hidden or written by operating systems are counted and left out.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.errors import InputError

FOREIGN_SUFFIXES = (".aac", ".aif", ".aiff", ".amr", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".w64", ".wma")
"""Recordings in formats that are not read."""

_SYSTEM = {
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""Names that operating systems and archives leave, case-folded; those of Linux and macOS begin with a dot."""

_log = logging.getLogger("nearfar")

FolderId = tuple[int, int]
"""Device and inode."""


@dataclass(slots=True)
class Walked:
    """The content of a folder and all below it, each list sorted by path as given.

    Attributes:
        root: the folder.
        files: recordings.
        foreign: recordings in formats that are not read.
        others: other files.
        repeated: links to folders that are read under another path, or that hold the folder itself.
        excluded: folders that were to be left out.
        unreadable: folders that cannot be listed, and recordings that are no files.
        hidden: number of hidden and system entries.
    """

    root: Path
    files: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    excluded: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    hidden: int = 0

    def warnings(self, name: str, companions: tuple[str, ...] | None = None) -> list[str]:
        """Sentences about what is left out.

        Args:
            name: of the folder.
            companions: beginnings of the case-folded names of other files that are not mentioned, all with None.
        """
        kinds = [
            ("1 recording that is", "recordings that are", "neither WAV nor FLAC and not read", self.foreign),
            ("1 link", "links", "to folders that are read under other paths, and not followed", self.repeated),
            ("1 folder", "folders", "of test recordings, and not read", self.excluded),
            ("1 entry that is", "entries that are", "unreadable", self.unreadable),
        ]
        out = []
        for one, several, what, paths in kinds:
            if paths:
                count = one if len(paths) == 1 else f"{len(paths)} {several}"
                out.append(f"{name}: {count} {what}, such as {self.inside(paths[0])}")
        others = (
            [] if companions is None else [p for p in self.others if not p.name.casefold().startswith(companions)]
        )
        if others:
            out.append(f"{name}: files that are not read ({len(others)}), such as {self.inside(others[0])}")
        return out

    def inside(self, path: Path) -> str:
        """A path inside the folder."""
        return path.relative_to(self.root).as_posix()


def walk(
    root: Path,
    suffixes: Sequence[str] = AUDIO_SUFFIXES,
    exclude: Collection[str] = (),
    elsewhere: Collection[Path] = (),
) -> Walked:
    """The recordings in a folder and below it, and what else is there.

    Args:
        root: the folder, which may itself be hidden or a link.
        suffixes: of recordings.
        exclude: case-folded names of folders below it that are left out, also where a link leads into one.
        elsewhere: folders that are read by themselves, into which no link is followed.
    """
    walked = Walked(root)
    real = root.resolve()
    others = [other for folder in elsewhere if (other := folder.resolve()) != real]
    # A link to a folder above would bring in all that is beside this one.
    seen = {found for folder in real.parents if (found := _id(folder)) is not None}
    links: list[Path] = []
    folders = [root]
    while folders or links:
        # Links come last: a folder that is also reached by one keeps its own path.
        is_link, folder = (False, folders.pop()) if folders else (True, links.pop(0))
        found = _id(folder)
        if found is None:
            walked.unreadable.append(folder)
        elif found in seen or (is_link and any(map(folder.resolve().is_relative_to, others))):
            walked.repeated.append(folder)
        elif folder != root and _is_excluded(folder, exclude, real if is_link else None):
            walked.excluded.append(folder)
        else:
            seen.add(found)
            below = _list(folder, walked, suffixes)
            folders += [path for path in below if not path.is_symlink()]
            links = sorted([*links, *(path for path in below if path.is_symlink())])
    for paths in (
        walked.files,
        walked.foreign,
        walked.others,
        walked.repeated,
        walked.excluded,
        walked.unreadable,
    ):
        paths.sort()
    return walked


def is_hidden(name: str) -> bool:
    """Whether an entry of this name is hidden, or left by an operating system or an archive."""
    return name.startswith((".", "__MACOSX")) or name.casefold() in _SYSTEM


def is_audio(path: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> bool:
    """Whether a path has a suffix of recordings and is a file, or is a broken link, which reading will report."""
    if path.suffix.lower() not in suffixes:
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def found_recordings(
    paths: Iterable[Path], suffixes: Sequence[str] = AUDIO_SUFFIXES
) -> tuple[list[Path], list[Walked]]:
    """The files among some paths and the recordings in and below the folders, each once and in order; the folders.

    What is left out of the folders is logged.
    """
    files: list[Path] = []
    folders = []
    for path in paths:
        if path.is_dir():
            folders.append(walk(path, suffixes))
            log_left_out(folders[-1].warnings(str(path)), folders[-1].hidden, path)
            files += folders[-1].files
        else:
            files.append(path)
    return list(dict.fromkeys(files)), folders


def log_left_out(warnings: Iterable[str], hidden: int, root: Path) -> None:
    """Log sentences about what is left out of a folder, and the number of hidden and system entries."""
    for warning in warnings:
        _log.warning("%s", warning)
    if hidden:
        _log.warning("%s: %s left out", root, hidden_text(hidden))


def hidden_text(count: int) -> str:
    """A number of hidden and system entries in words."""
    return "1 hidden or system entry is" if count == 1 else f"{count} hidden or system entries are"


def _list(folder: Path, walked: Walked, suffixes: Sequence[str]) -> list[Path]:
    """Enter the files of a folder, and return its sub-folders."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        walked.unreadable.append(folder)
        return []
    below = []
    for path in entries:
        if is_hidden(path.name):
            walked.hidden += 1
        elif path.is_dir():
            below.append(path)
        elif is_audio(path, suffixes):
            walked.files.append(path)
        elif path.suffix.lower() in suffixes:  # a pipe or a device
            walked.unreadable.append(path)
        else:
            is_foreign = path.suffix.lower() in FOREIGN_SUFFIXES
            (walked.foreign if is_foreign else walked.others).append(path)
    return below


def _is_excluded(folder: Path, exclude: Collection[str], link_from: Path | None) -> bool:
    names = [folder.name]
    if link_from is not None:
        target = folder.resolve()
        names += target.relative_to(os.path.commonpath([target, link_from])).parts
    return any(name.casefold() in exclude for name in names)


def _id(folder: Path) -> FolderId | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def recordings_in(paths: Iterable[Path]) -> list[Path]:
    """The files, and the WAV and FLAC files in the folders and below them, sorted within each.

    What is left out of the folders is logged; see :func:`nearfar.data.walk.walk`.

    Raises:
        InputError: if a folder holds none.
    """
    files, folders = found_recordings(paths)
    for folder in folders:
        if not folder.files:
            raise InputError(
                folder.root,
                found="no WAV or FLAC file in it",
                expected="recordings to score",
                remedy="Check the path",
            )
    return files
