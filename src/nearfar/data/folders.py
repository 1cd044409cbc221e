"""The clips of one machine's folder: in the challenge's layouts, in one's own layout, or a plain folder.

In the challenge's layouts file names give labels and attributes (see :mod:`nearfar.data.clips`); its
``attributes_00.csv`` repeats them and is not read. In one's own layout folders give them. A machine has normal
recordings in ``normal/`` and, for tests, recordings in ``test/normal/`` and ``test/<name of a fault>/``, with any
file names. Folders inside these may give attributes as ``key=value``; other folder names have no meaning.
``attributes.csv`` may give attributes as well, a row for each recording::

    file_name,speed,load,domain
    normal/monday_0001.wav,1200,high,source

The column ``domain`` is source or target; without it all recordings are of the source domain.

The names ``normal``, ``test``, ``train`` and so on may be in upper or lower case. Links are followed; see
:mod:`nearfar.data.walk`. Every function returns clips, warnings (sentences about files that are not read), and the
number of hidden and system entries that it left out.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

from nearfar.data.clips import AUDIO_SUFFIXES, Attributes, Clip, Domain, Label, Split, normal_clip
from nearfar.data.walk import Walked, is_audio, is_hidden, walk
from nearfar.errors import InputError, raise_errors


class Found(NamedTuple):
    """The clips of a machine, sentences about what is not read, and the number of hidden and system entries."""

    clips: list[Clip]
    warnings: list[str]
    hidden: int = 0


NORMAL, TEST = "normal", "test"
ATTRIBUTES_CSV = "attributes.csv"
SUPPLEMENTAL = "supplemental"
SPLIT_FOLDERS = ("train", TEST)
TESTS_2021 = ("source_test", "target_test")
SPLIT_FOLDERS_2021 = (*SPLIT_FOLDERS, *TESTS_2021)
"""With ``test``, into which the organisers' own scripts merge the two."""

RESERVED = (*SPLIT_FOLDERS_2021, NORMAL, SUPPLEMENTAL)
"""Names of parts of a machine's folder, in upper or lower case, which are no names of machines."""

NOT_NORMAL = (TEST, *TESTS_2021, "tests", "testing", SUPPLEMENTAL)
"""Names of folders, in upper or lower case, that are never read as normal recordings."""

_CHALLENGE = ("section_", "id_", "normal_id_", "anomaly_id_")
"""Beginnings of the names of the challenge's clips."""
_ANOMALOUS = re.compile("anomal|abnormal", re.IGNORECASE)
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
    errors: list[InputError] = []
    parts = {name: part for name in subfolders if (part := part_of(folder, name)) is not None}
    extra = part_of(folder, SUPPLEMENTAL) or folder / SUPPLEMENTAL
    supplement = _supplement(extra, f"{machine}/{extra.name}", parse)
    read = [part.name for part in parts.values()]
    warnings = supplement + unread(folder, machine, read=[*read, *([extra.name] if supplement else [])])
    for name, part in parts.items():
        split: Split = "train" if name == "train" else "test"
        files = audio_files(part)
        errors += _duplicates(files)
        if split == "train" and not files:
            remedy = f"Copy the training clips there, or remove the folder if {machine} only has test clips"
            raise _no_recordings(part, "a training folder without WAV or FLAC files", remedy)
        if not files:
            warnings.append(f"{machine}/{part.name} holds no WAV or FLAC file")
        warnings += unread(part, f"{machine}/{part.name}", read={path.name for path in files})
        for path in files:
            try:
                clips.append(parse(path, machine, split))
            except InputError as error:
                errors.append(error)
    raise_errors(errors)
    return Found(clips, warnings, sum(map(hidden_entries, (folder, *parts.values()))))


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
    if folder_name(folder).casefold() in RESERVED or part_of(folder, "train") is not None:
        return False
    test = part_of(folder, TEST)
    return part_of(folder, NORMAL) is not None or (test is not None and part_of(test, NORMAL) is not None)


def read_own_machine(folder: Path, machines: Collection[Path] = ()) -> Found:
    """The clips of a machine's folder in one's own layout.

    Args:
        machines: the folders of all machines, into which no link is followed from this one.

    Raises:
        InputError: if there are no normal recordings, an attribute or a domain cannot be read, a test recording
            exists both as WAV and as FLAC, or the table names a recording that does not exist. All of these are
            listed.
    """
    machine = folder_name(folder)
    errors: list[InputError] = []
    table = _read_attributes(folder / ATTRIBUTES_CSV)
    normal, test = part_of(folder, NORMAL), part_of(folder, TEST)
    parts = [part.name for part in (normal, test) if part is not None]
    below = walk(folder, elsewhere=machines)
    clips: list[Clip] = []
    empty = []
    if normal is not None:
        files = walk(normal, exclude=NOT_NORMAL, elsewhere=machines)
        below.excluded = files.excluded
        clips += _own_clips(folder, files, machine, "train", "normal", table, errors)
        if not files.files:
            remedy = "Copy them there (converted from other formats), or remove the folder"
            raise _no_recordings(normal, "a folder without WAV or FLAC files", remedy)
    for path in [] if test is None else sub_folders(test):
        files = walk(path, elsewhere=machines)
        empty += [] if files.files else [f"{machine}/{below.inside(path)} holds no WAV or FLAC file"]
        clips += _own_clips(folder, files, machine, "test", _label_of(path), table, errors)
    errors += _unlisted(folder, table, clips) if not errors else []
    raise_errors(errors)
    warnings = unread(folder, machine, read=(*parts, ATTRIBUTES_CSV)) + below.warnings(machine) + empty
    warnings += [] if test is None else _unlabelled(test, machine)
    return Found(clips, warnings, below.hidden)


def read_labelled_folder(folder: Path) -> list[Clip]:
    """The test recordings in ``normal/`` of a folder and in its other folders, which are named after faults.

    Raises:
        InputError: listing the recordings that exist both as WAV and as FLAC, and attributes that cannot be read.
    """
    errors: list[InputError] = []
    clips: list[Clip] = []
    if part_of(folder, NORMAL) is not None:
        for path in sub_folders(folder):
            clips += _own_clips(
                folder.parent, walk(path), folder_name(folder), "test", _label_of(path), {}, errors
            )
    raise_errors(errors)
    return clips


def _label_of(folder: Path) -> Label:
    return "normal" if folder.name.casefold() == NORMAL else "anomaly"


def _unlabelled(test: Path, machine: str) -> list[str]:
    """A warning about test recordings that are in no folder that labels them."""
    files = audio_files(test)
    if not files:
        return []
    found = "1 test recording is" if len(files) == 1 else f"{len(files)} test recordings are"
    return [
        f"{machine}: {found} in no folder that gives a label, and not read, such as {test.name}/{files[0].name}; "
        f"normal ones belong in {test.name}/{NORMAL}, others in a folder of {test.name} named after their fault"
    ]


def _own_clips(
    root: Path,
    walked: Walked,
    machine: str,
    split: Split,
    label: Label,
    table: dict[str, Attributes],
    errors: list[InputError],
) -> Iterator[Clip]:
    """The clips of ``normal/`` or of a folder of ``test/``, with paths inside the two as names; enters errors."""
    if split == "test":  # copies of normal recordings are found by their sound
        errors += _duplicates(walked.files)
    for path in walked.files:
        relative = path.relative_to(root)
        try:
            pairs = (*_folder_attributes(path, walked.root), *table.get(_table_key(relative.as_posix()), ()))
            attributes, domain = _split_domain(path, pairs)
        except InputError as error:
            if str(error) not in map(str, errors):  # one folder of many recordings
                errors.append(error)
            continue
        name = Path(*relative.parts[1:]).as_posix()
        yield Clip(path, machine, "00", split, domain, label, None, attributes, name)


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
        cells = [cell.strip() for cell in row]
        if not any(cells):  # as spreadsheets leave at the end
            continue
        name = _table_key(cells[0])
        if len(row) != len(head) or not cells[0] or name in table:
            raise bad(f"{','.join(row)!r} in row {number}")
        pairs = zip(head[1:], cells[1:], strict=True)
        table[name] = tuple((key, value.casefold()) for key, value in pairs if value)
    return table


def _table_key(name: str) -> str:
    """A path inside the machine's folder as tables are compared: however Windows, macOS or a person spells it."""
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))  # also drops ./ and //
    first, *rest = path.parts or ("",)
    return PurePosixPath(first.casefold() if first.casefold() in (NORMAL, TEST) else first, *rest).as_posix()


def _unlisted(folder: Path, table: Collection[str], clips: list[Clip]) -> list[InputError]:
    """Errors about rows of the table that name no recording."""
    recordings = {clip.path.relative_to(folder).as_posix() for clip in clips}
    found = set(map(_table_key, recordings))
    return [
        InputError(
            folder / ATTRIBUTES_CSV,
            found=f"{name}, which is no recording of this machine",
            expected=f"paths inside the machine's folder, such as {min(recordings, default='normal/0001.wav')}",
            remedy="Correct the path, or remove the row",
        )
        for name in table
        if name not in found
    ]


# A plain folder


def plain_folders(root: Path) -> list[Path]:
    """The plain folders of machines in a folder: itself, its sub-folders, or none.

    A folder that holds recordings is one machine with all below it. One that only holds folders with recordings is
    one of machines, unless these are named by attributes (``speed=1200``) or without letters (``2024-05``). No
    folder is plain where parts of a machine's folder lie below it.
    """
    if folder_name(root).casefold() in RESERVED or _has_layout(root):
        return []
    if audio_files(root):
        return [root] if _is_plain_machine(root) else []
    folders = [path for path in sub_folders(root) if path.name.casefold() not in NOT_NORMAL]
    machines = []
    for path in folders:
        below = walk(path, exclude={*RESERVED, *NOT_NORMAL})
        if not _is_plain_machine(path) and any(part.name.casefold() in RESERVED for part in below.excluded):
            return []
        machines += [path] if below.files else []
    are_parts = machines and all("=" in path.name or not re.search(r"[^\W\d_]", path.name) for path in machines)
    return [root] if are_parts else machines


def _is_plain_machine(folder: Path) -> bool:
    """Whether a folder holds recordings, and no parts of a machine's folder lie below but folders of tests."""
    below = walk(folder, exclude={*RESERVED, *NOT_NORMAL})
    others = [path for path in below.excluded if path.name.casefold() not in NOT_NORMAL]
    return bool(audio_files(folder)) and not others and not _has_layout(folder)


def _has_layout(folder: Path) -> bool:
    """Whether a folder is a machine's, apart from folders of tests in no layout."""
    tests = [part for name in NOT_NORMAL if (part := part_of(folder, name)) is not None]
    return (
        is_own_folder(folder)
        or part_of(folder, "train") is not None
        or any(path.name.casefold().startswith(_CHALLENGE) for part in tests for path in audio_files(part))
    )


def read_plain_folder(root: Path, machine: str | None = None, machines: Collection[Path] = ()) -> Found:
    """All recordings in a folder and below it as normal ones of one machine, by default named after the folder.

    Args:
        root: the folder.
        machine: the name of the machine.
        machines: the folders of all machines, into which no link is followed from this one.

    Raises:
        InputError: if a name contains "anomal" or "abnormal".
    """
    walked = walk(root, exclude=NOT_NORMAL, elsewhere=machines)
    errors: list[InputError] = []
    for path in walked.files:
        inside = path.relative_to(root)
        names = (*inside.parent.parts, inside.stem)
        if any(map(_ANOMALOUS.search, names)):
            word = next(match[0].lower() for match in map(_ANOMALOUS.search, names) if match)
            errors.append(
                InputError(
                    path,
                    found=f'a name with "{word}" in a folder of normal recordings',
                    expected=f"normal recordings only ({', '.join(AUDIO_SUFFIXES)}), of one machine",
                    remedy="Move it, or arrange the folder as docs/layouts.md describes, with normal/ and test/",
                )
            )
    raise_errors(errors)
    name = machine or folder_name(root)
    clips = [normal_clip(path, name, path.relative_to(root).as_posix()) for path in walked.files]
    return Found(clips, walked.warnings(name, _COMPANIONS), walked.hidden)


# Files in a folder


def visible(folder: Path) -> list[Path]:
    """The sorted entries of a folder that are neither hidden nor of a system; empty if it is missing."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in entries if not is_hidden(path.name))


def sub_folders(folder: Path) -> list[Path]:
    """The folders among :func:`visible` entries, each once, without links to others or to folders above."""
    found = [path for path in visible(folder) if path.is_dir()]
    real = folder.resolve()
    seen = {real, *real.parents}
    kept = []
    for path in sorted(found, key=lambda path: (path.is_symlink(), path)):
        if (target := path.resolve()) not in seen:
            seen.add(target)
            kept.append(path)
    return sorted(kept)


def hidden_entries(folder: Path) -> int:
    """The number of entries of a folder that :func:`visible` leaves out."""
    return sum(is_hidden(path.name) for path in folder.iterdir())


def audio_files(folder: Path) -> list[Path]:
    """The WAV and FLAC files among :func:`visible` entries."""
    return [path for path in visible(folder) if is_audio(path)]


def part_of(folder: Path, name: str) -> Path | None:
    """The sub-folder of this name in upper or lower case, or None.

    Raises:
        InputError: if there are two, as in ``Test/`` and ``test/``.
    """
    found = [path for path in visible(folder) if path.name.casefold() == name and path.is_dir()]
    if len(found) > 1:
        raise InputError(
            folder,
            found=f"the folders {' and '.join(path.name for path in found)}",
            expected=f"one folder {name}",
            remedy="Move the recordings into one of them, and remove the other",
        )
    return found[0] if found else None


def is_machine_folder(folder: Path) -> bool:
    """Whether a folder is one of a machine, in one's own layout or the challenge's."""
    return is_own_folder(folder) or any(part_of(folder, name) is not None for name in SPLIT_FOLDERS_2021)


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


def _no_recordings(folder: Path, found: str, remedy: str) -> InputError:
    return InputError(folder, found=found, expected="normal recordings of the machine", remedy=remedy)


def _duplicates(files: Iterable[Path]) -> list[InputError]:
    """Errors about recordings that exist both as WAV and as FLAC."""
    first: dict[Path, Path] = {}
    return [
        InputError(
            path,
            found=f"the same clip as {other.name}",
            expected="each clip once, as WAV or as FLAC",
            remedy="Remove one of the two files",
        )
        for path in files
        if (other := first.setdefault(path.with_suffix(""), path)) is not path
    ]
