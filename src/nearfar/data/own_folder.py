"""A folder of one's own recordings, in which folders say what the challenge's file names say.

A machine is a folder with normal recordings in ``normal/`` and, if there are any, recordings to test the detector
with in ``test/normal/`` and ``test/<name of a fault>/``; files may have any names. Folders inside these may give
attributes as ``key=value``; other names of folders say nothing. ``attributes.csv`` beside them may give attributes
as well, a row for each recording::

    file_name,speed,load,domain
    normal/monday_0001.wav,1200,high,source

``domain`` is no attribute but says whether a recording is of the source or the target domain; without it, all are
of the source domain.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nearfar.data.clips import Attributes, Clip, Domain, Label, Split
from nearfar.data.listing import is_audio, other_formats, refuse_duplicates, unread, visible
from nearfar.errors import InputError

NORMAL, TEST = "normal", "test"
TABLE = "attributes.csv"

_FORM = "a header file_name,<attribute>,... and a row for each recording, by its path inside the machine's folder"
_Table = dict[str, Attributes]


def is_own_folder(folder: Path) -> bool:
    """Whether a folder is a machine of this layout: it has ``normal/`` or ``test/normal/``, and no ``train/``."""
    if folder.name in ("train", TEST) or (folder / "train").is_dir():
        return False
    return (folder / NORMAL).is_dir() or (folder / TEST / NORMAL).is_dir()


def read_own_machine(folder: Path, machine: str) -> tuple[list[Clip], list[str]]:
    """The clips of one machine's folder, and sentences about what else is in it.

    Raises:
        InputError: if there are no normal recordings, a test recording lies in no folder that says what it is, an
            attribute or a domain cannot be read, or the table names a recording that is not there.
    """
    table = _read_table(folder / TABLE)
    clips: list[Clip] = []
    warnings = unread(folder, machine, read=(NORMAL, TEST, TABLE)) + other_formats(folder, machine)
    if (folder / NORMAL).is_dir():
        clips += _clips(folder, folder / NORMAL, folder / NORMAL, machine, "train", "normal", table)
        if not clips:
            raise InputError(
                folder / NORMAL,
                found="a folder without WAV or FLAC files",
                expected="normal recordings of the machine",
                remedy="Put them there (converted from other formats), or remove the folder",
            )
    if (folder / TEST).is_dir():
        for place in visible(folder / TEST):
            if is_audio(place):
                raise InputError(
                    place,
                    found="a test recording in no folder that says what it is",
                    expected=f"it in {TEST}/{NORMAL}, or in a folder of {TEST} that is called by its fault",
                    remedy="Move it there",
                )
            if place.is_dir():
                label: Label = "normal" if place.name.casefold() == NORMAL else "anomaly"
                found = _clips(folder, folder / TEST, place, machine, "test", label, table)
                warnings += [] if found else [f"{machine}/{TEST}/{place.name} holds no WAV or FLAC file"]
                clips += found
    _refuse_unknown(folder, table, clips)
    return clips, warnings


def _clips(
    folder: Path, listed_from: Path, place: Path, machine: str, split: Split, label: Label, table: _Table
) -> list[Clip]:
    """The clips in ``place`` and below, listed by their paths inside ``listed_from``."""
    files = list(_recordings(place))
    refuse_duplicates(files)
    clips = []
    for path in files:
        told = table.get(path.relative_to(folder).as_posix(), ())
        attributes, domain = _told(path, (*_attributes_of_folders(path, place), *told))
        listed_as = path.relative_to(listed_from).as_posix()
        clips.append(Clip(path, machine, "00", split, domain, label, None, attributes, listed_as))
    return clips


def _recordings(folder: Path) -> Iterator[Path]:
    for path in visible(folder):
        if path.is_dir():
            yield from _recordings(path)
        elif is_audio(path):
            yield path


def _attributes_of_folders(path: Path, place: Path) -> Iterator[tuple[str, str]]:
    for name in path.parent.relative_to(place).parts:
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


def _told(path: Path, pairs: Attributes) -> tuple[Attributes, Domain]:
    """Attributes and domain; a key that is given twice is refused, as it might be given two values."""
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise InputError(
            path,
            found=f"the attribute {repeated[0]!r} twice",
            expected=f"each attribute once, from a folder or from {TABLE}",
            remedy="Take one of the two out",
        )
    domain = dict(pairs).get("domain", "source")
    if domain not in ("source", "target"):
        raise InputError(path, found=f"the domain {domain!r}", expected="source or target", remedy="Correct it")
    attributes = tuple(pair for pair in pairs if pair[0] != "domain")
    return attributes, "source" if domain == "source" else "target"


def _read_table(path: Path) -> _Table:
    """Attributes by the recordings' paths inside the machine's folder; empty cells are left out."""
    if not path.is_file():
        return {}
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(path, f"something that is not CSV text ({error})") from None
    head = [cell.strip() for cell in rows[0]] if rows else []
    if not head or head[0] != "file_name" or not all(head) or len(set(head)) != len(head):
        raise _bad_table(path, f"the header {','.join(head)!r}")
    table: _Table = {}
    for number, row in enumerate(rows[1:], start=2):
        name, *cells = [cell.strip() for cell in row] or [""]
        name = name.replace("\\", "/")  # as Windows writes paths
        if len(row) != len(head) or not name or name in table:
            raise _bad_table(path, f"{','.join(row)!r} in row {number}")
        pairs = zip(head[1:], cells, strict=True)
        table[name] = tuple((key, value.casefold()) for key, value in pairs if value)
    return table


def _refuse_unknown(folder: Path, table: _Table, clips: list[Clip]) -> None:
    known = {clip.path.relative_to(folder).as_posix() for clip in clips}
    if unknown := [name for name in table if name not in known]:
        raise InputError(
            folder / TABLE,
            found=f"{unknown[0]}, which is no recording of this machine",
            expected=f"paths inside the machine's folder, such as {min(known, default='normal/0001.wav')}",
            remedy="Correct the path, or take the row out",
        )


def _bad_table(path: Path, found: str) -> InputError:
    return InputError(path, found=found, expected=_FORM, remedy="Correct the file, or take it away")
