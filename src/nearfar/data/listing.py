"""What lies in a folder: recordings, what belongs beside them, and what is not read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.errors import InputError

_OTHER_FORMATS = (".aac", ".aif", ".aiff", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wma")
_COMPANIONS = ("attributes_", "license", "licence", "manifest", "readme", "simulated", "truth")
"""How the names of files begin that belong beside clips and are neither read nor odd."""


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and the shadow folder of macOS archives."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def is_audio(path: Path) -> bool:
    """Whether a path is a file named as WAV or FLAC."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def other_formats(folder: Path, name: str) -> list[str]:
    """One sentence about the recordings in a folder and below it that are in a format that is not read."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in _OTHER_FORMATS)
    if not files:
        return []
    count = "1 recording that is" if len(files) == 1 else f"{len(files)} recordings that are"
    return [
        f"{name}: {count} neither WAV nor FLAC and not read, such as {files[0].relative_to(folder).as_posix()}"
    ]


def folder_name(folder: Path) -> str:
    """A folder's own name, that of a link included, also where it is given as ``.`` or ``..``."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def unread(folder: Path, name: str, read: Collection[str]) -> list[str]:
    """One sentence about the folders inside a folder that are not read, and one about the files."""
    rest = [path for path in visible(folder) if path.name not in read]
    folders = [path.name for path in rest if path.is_dir()]
    files = [path.name for path in rest if path.name not in folders]
    files = [file for file in files if not file.casefold().startswith(_COMPANIONS)]
    sentences = []
    if folders:
        sentences.append(f"{name}: folders that are not read ({len(folders)}), such as {folders[0]}")
    if files:
        sentences.append(f"{name}: files that are not read ({len(files)}), such as {files[0]}")
    return sentences


def refuse_duplicates(files: Iterable[Path]) -> None:
    """Make sure that no recording is there both as WAV and as FLAC.

    Raises:
        InputError: naming the second file of a pair.
    """
    seen: dict[Path, Path] = {}
    for path in files:
        clip = path.with_suffix("")
        if clip in seen:
            raise InputError(
                path,
                found=f"the same clip as {seen[clip].name}",
                expected="each clip once, as WAV or as FLAC",
                remedy="Remove one of the two files",
            )
        seen[clip] = path
