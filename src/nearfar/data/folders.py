"""The clips of one machine's folder: in the challenge's layouts, in one's own layout, or a plain folder.

In the challenge's layouts file names give labels and attributes (see :mod:`nearfar.data.clips`); its
``attributes_00.csv`` repeats them and is not read. In one's own layout folders give them. A machine has normal
recordings in ``normal/`` and, for tests, recordings in ``test/normal/`` and ``test/<name of a fault>/``, with any
file names. Folders inside these may give attributes as ``key=value``; other folder names have no meaning.
``attributes.csv`` may give attributes as well, a row for each recording::

    file_name,speed,load,domain
    normal/monday_0001.wav,1200,high,source

The column ``domain`` is source or target; without it all recordings are of the source domain.

Every function returns clips and warnings: sentences about files that are not read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from nearfar.data.clips import AUDIO_SUFFIXES, Attributes, Clip, Domain, Label, Split, normal_clip
from nearfar.errors import InputError

Found = tuple[list[Clip], list[str]]

NORMAL, TEST = "normal", "test"
ATTRIBUTES_CSV = "attributes.csv"
SUPPLEMENTAL = "supplemental"
SPLIT_FOLDERS = ("train", TEST)
TESTS_2021 = ("source_test", "target_test")
SPLIT_FOLDERS_2021 = (*SPLIT_FOLDERS, *TESTS_2021)
"""With ``test``, into which the organisers' own scripts merge the two."""

_OTHER_FORMATS = (".aac", ".aif", ".aiff", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".wma")
_COMPANIONS = ("attributes_", "license", "licence", "manifest", "readme", "simulated", "truth")
"""Beginnings of the names of files that may be beside clips without a warning."""


# The challenge's layouts


def read_challenge_machine(
    folder: Path, subfolders: Sequence[str], parse: Callable[[Path, str, Split], Clip]
) -> Found:
    """The clips of a machine's folder in a layout of the challenge.

    Args:
        subfolders: names of its folders of clips.
        parse: makes a clip of its path, machine and split.

    Raises:
        InputError: if a training folder has no clips, a name has another form, or a clip exists as WAV and FLAC.
    """
    machine = folder_name(folder)
    clips: list[Clip] = []
    supplement = _supplement(folder / SUPPLEMENTAL, f"{machine}/{SUPPLEMENTAL}", parse)
    warnings = supplement + unread(folder, machine, read=[*subfolders, *([SUPPLEMENTAL] if supplement else [])])
    for name in subfolders:
        split: Split = "train" if name == "train" else "test"
        if not (folder / name).is_dir():
            continue
        files = audio_files(folder / name)
        _require_no_duplicates(files)
        if split == "train" and not files:
            remedy = f"Copy the training clips there, or remove the folder if {machine} only has test clips"
            raise _no_recordings(folder / name, "a training folder without WAV or FLAC files", remedy)
        if not files:
            warnings.append(f"{machine}/{name} holds no WAV or FLAC file")
        warnings += unread(folder / name, f"{machine}/{name}", read={path.name for path in files})
        clips += [parse(path, machine, split) for path in files]
    return clips, warnings


def _supplement(folder: Path, name: str, parse: Callable[[Path, str, Split], Clip]) -> list[str]:
    """A warning about the supplemental recordings of 2025, unless they have names of training clips.

    Public sources agree on the folder and on names that begin with ``section_NN``, not on the rest of the names.
    """

    def is_training_clip(path: Path) -> bool:
        try:
            parse(path, "", "train")
        except InputError:
            return False
        return True

    files = audio_files(folder)
    if not files or any(map(is_training_clip, files)):
        return []
    return [
        f"{name}: {len(files)} recordings of only the machine or only noise, which are neither training nor test "
        f"clips and are not read, such as {files[0].name}"
    ]


# One's own layout


def is_own_folder(folder: Path) -> bool:
    """Whether a folder is a machine in one's own layout: ``normal/`` or ``test/normal/`` and no ``train/``."""
    if folder.name in ("train", TEST) or (folder / "train").is_dir():
        return False
    return (folder / NORMAL).is_dir() or (folder / TEST / NORMAL).is_dir()


def read_own_machine(folder: Path) -> Found:
    """The clips of a machine's folder in one's own layout.

    Raises:
        InputError: if there are no normal recordings, a test recording is in no folder that labels it, an
            attribute or a domain cannot be read, or the table names a recording that does not exist.
    """
    machine = folder_name(folder)
    table = _read_attributes(folder / ATTRIBUTES_CSV)
    clips: list[Clip] = []
    warnings = unread(folder, machine, read=(NORMAL, TEST, ATTRIBUTES_CSV)) + _other_formats(folder, machine)
    if (folder / NORMAL).is_dir():
        clips += _own_clips(folder, folder / NORMAL, machine, "train", "normal", table)
        if not clips:
            remedy = "Copy them there (converted from other formats), or remove the folder"
            raise _no_recordings(folder / NORMAL, "a folder without WAV or FLAC files", remedy)
    for path in visible(folder / TEST):
        if is_audio(path):
            raise InputError(
                path,
                found="a test recording in no folder that labels it",
                expected=f"it in {TEST}/{NORMAL}, or in a folder of {TEST} named after its fault",
                remedy="Move it there",
            )
        if path.is_dir():
            label: Label = "normal" if path.name.casefold() == NORMAL else "anomaly"
            found = _own_clips(folder, path, machine, "test", label, table)
            warnings += [] if found else [f"{machine}/{TEST}/{path.name} holds no WAV or FLAC file"]
            clips += found
    _require_listed_files(folder, table, clips)
    return clips, warnings


def _own_clips(
    root: Path, folder: Path, machine: str, split: Split, label: Label, table: dict[str, Attributes]
) -> list[Clip]:
    """The clips in ``folder`` and below, with paths inside ``normal/`` or ``test/`` as names."""
    files = list(_recordings(folder))
    _require_no_duplicates(files)
    clips = []
    for path in files:
        relative = path.relative_to(root)
        pairs = (*_folder_attributes(path, folder), *table.get(relative.as_posix(), ()))
        attributes, domain = _split_domain(path, pairs)
        name = Path(*relative.parts[1:]).as_posix()
        clips.append(Clip(path, machine, "00", split, domain, label, None, attributes, name))
    return clips


def _recordings(folder: Path) -> Iterator[Path]:
    for path in visible(folder):
        if path.is_dir():
            yield from _recordings(path)
        elif is_audio(path):
            yield path


def _folder_attributes(path: Path, folder: Path) -> Iterator[tuple[str, str]]:
    for name in path.parent.relative_to(folder).parts:
        key, equals, value = name.partition("=")
        if equals and not (key and value):
            raise InputError(
                path.parent,
                found=f"the folder name {name!r}",
                expected="key=value, as in speed=1200, or a name without =",
                remedy="Rename the folder",
            )
        if equals:
            yield key, value.casefold()


def _split_domain(path: Path, pairs: Attributes) -> tuple[Attributes, Domain]:
    """Attributes without the domain, and the domain. A repeated key is refused: it could have two values."""
    values: dict[str, str] = {}
    for key, value in pairs:
        if key in values:
            raise InputError(
                path,
                found=f"the attribute {key!r} twice",
                expected=f"each attribute once, from a folder or from {ATTRIBUTES_CSV}",
                remedy="Remove one of the two",
            )
        values[key] = value
    domain = values.pop("domain", "source")
    if domain not in ("source", "target"):
        raise InputError(path, found=f"the domain {domain!r}", expected="source or target", remedy="Correct it")
    return tuple(values.items()), cast(Domain, domain)


def _read_attributes(path: Path) -> dict[str, Attributes]:
    """Attributes by the recordings' paths inside the machine's folder; empty cells are left out."""

    def bad(found: str) -> InputError:
        return InputError(
            path,
            found=found,
            expected="a header file_name,<attribute>,... and a row for each recording, by its path inside the "
            "machine's folder",
            remedy="Correct or remove the file",
        )

    if not path.is_file():
        return {}
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise bad(f"text that is not CSV ({error})") from None
    head = [cell.strip() for cell in rows[0]] if rows else []
    if not head or head[0] != "file_name" or not all(head) or len(set(head)) != len(head):
        raise bad(f"the header {','.join(head)!r}")
    table: dict[str, Attributes] = {}
    for number, row in enumerate(rows[1:], start=2):
        name, *cells = [cell.strip() for cell in row] or [""]
        name = name.replace("\\", "/")  # as Windows writes paths
        if len(row) != len(head) or not name or name in table:
            raise bad(f"{','.join(row)!r} in row {number}")
        pairs = zip(head[1:], cells, strict=True)
        table[name] = tuple((key, value.casefold()) for key, value in pairs if value)
    return table


def _require_listed_files(folder: Path, table: Collection[str], clips: list[Clip]) -> None:
    recordings = {clip.path.relative_to(folder).as_posix() for clip in clips}
    if missing := [name for name in table if name not in recordings]:
        raise InputError(
            folder / ATTRIBUTES_CSV,
            found=f"{missing[0]}, which is no recording of this machine",
            expected=f"paths inside the machine's folder, such as {min(recordings, default='normal/0001.wav')}",
            remedy="Correct the path, or remove the row",
        )


# A plain folder


def is_plain_folder(root: Path) -> bool:
    """Whether a folder itself holds recordings and is neither a machine's folder nor a part of one."""
    parts = (*SPLIT_FOLDERS_2021, NORMAL, SUPPLEMENTAL)
    return (
        folder_name(root).casefold() not in parts
        and bool(audio_files(root))
        and not any((root / part).is_dir() for part in parts)
    )


def read_plain_folder(root: Path, machine: str | None = None) -> Found:
    """All recordings of a folder as normal ones of one machine, by default named after the folder.

    Raises:
        InputError: if a name contains "anomal", or a clip exists both as WAV and as FLAC.
    """
    files = audio_files(root)
    _require_no_duplicates(files)
    for path in files:
        if "anomal" in path.stem.casefold():
            raise InputError(
                path,
                found='a name with "anomal" in a folder of normal recordings',
                expected=f"normal recordings only ({', '.join(AUDIO_SUFFIXES)}), of one machine",
                remedy="Move it, or arrange the folder as docs/layouts.md describes, with normal/ and test/",
            )
    name = machine or folder_name(root)
    return [normal_clip(path, name) for path in files], unread(root, name, {path.name for path in files})


# Files in a folder


def visible(folder: Path) -> list[Path]:
    """The sorted entries of a folder that are neither hidden nor ``__MACOSX`` of macOS; empty if it is missing."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in entries if not path.name.startswith((".", "__MACOSX")))


def is_audio(path: Path) -> bool:
    """Whether a path has a suffix of WAV or FLAC and is not a folder."""
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.is_dir()


def audio_files(folder: Path) -> list[Path]:
    """The WAV and FLAC files among :func:`visible` entries."""
    return [path for path in visible(folder) if is_audio(path)]


def folder_name(folder: Path) -> str:
    """A folder's own name, that of a link included, also where it is given as ``.`` or ``..``."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def unread(folder: Path, name: str, read: Collection[str]) -> list[str]:
    """A warning about the folders in a folder that are not read, and one about the files."""
    paths = [path for path in visible(folder) if path.name not in read]
    folders = [path.name for path in paths if path.is_dir()]
    files = [path.name for path in paths if not path.is_dir() and not path.name.casefold().startswith(_COMPANIONS)]
    return [
        f"{name}: {kind} that are not read ({len(names)}), such as {names[0]}"
        for kind, names in (("folders", folders), ("files", files))
        if names
    ]


def _other_formats(folder: Path, name: str) -> list[str]:
    """A warning about the recordings in a folder and below it that are in a format that is not read."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in _OTHER_FORMATS)
    if not files:
        return []
    count = "1 recording that is" if len(files) == 1 else f"{len(files)} recordings that are"
    first = files[0].relative_to(folder).as_posix()
    return [f"{name}: {count} neither WAV nor FLAC and not read, such as {first}"]


def _no_recordings(folder: Path, found: str, remedy: str) -> InputError:
    return InputError(folder, found=found, expected="normal recordings of the machine", remedy=remedy)


def _require_no_duplicates(files: Iterable[Path]) -> None:
    """Refuse a recording that exists both as WAV and as FLAC."""
    first: dict[Path, Path] = {}
    for path in files:
        other = first.setdefault(path.with_suffix(""), path)
        if other is not path:
            raise InputError(
                path,
                found=f"the same clip as {other.name}",
                expected="each clip once, as WAV or as FLAC",
                remedy="Remove one of the two files",
            )
