"""Zip archives from strangers: what is unpacked stays inside its folder, is no link, and fits on the disk."""

from __future__ import annotations

import filecmp
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.data.download.space import disk_errors, require_space
from nearfar.errors import InputError

CHUNK_BYTES = 1 << 20
ENCRYPTED = 0x1


def unpack(path: Path, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Unpack a zip archive into a folder of its own. Nothing is written if one of its entries is refused.

    Args:
        path: the archive.
        folder: made if needed.
        progress: is told the bytes written and the bytes there are.

    Raises:
        InputError: if the archive is damaged or encrypted, an entry would leave the folder, is a link or another
            special file or comes twice, or the disk has no room.
    """
    with _readable(path), zipfile.ZipFile(path) as archive:
        places = _places(path, archive.infolist())
        # An entry cannot give more bytes than the directory states: zipfile stops there and compares the checksum.
        total = sum(info.file_size for info, _ in places)
        require_space(folder, total, f"the {len(places)} entries of {path.name}")
        done = 0
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for info, place in places:
            for written in _extract(archive, info, folder / place):
                done += written
                if progress is not None:
                    progress(done, total)


def merge(source: Path, target: Path, origin: str) -> None:
    """Move everything in one folder into another. A folder that is new there arrives whole, in one step.

    A file that is there already with the same bytes stays. A clip with other bytes is never replaced; any other
    file, such as ``attributes_00.csv`` of a machine's second archive, is put beside the first, with ``origin`` in
    its name.

    Raises:
        InputError: if a clip of that name and other content is there, or a file stands where a folder has to.
    """
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if not (place.exists() or place.is_symlink()):
            entry.replace(place)
        elif entry.is_dir() and place.is_dir():
            merge(entry, place, origin)
        elif not (entry.is_file() and place.is_file()):
            raise _in_the_way(place, "a file where a folder has to be, or the other way round", origin)
        elif not filecmp.cmp(entry, place, shallow=False):
            if entry.suffix.lower() in AUDIO_SUFFIXES:
                raise _in_the_way(place, "a clip of that name with other content", origin)
            entry.replace(place.with_name(f"{place.stem}.{origin}{place.suffix}"))


def _places(path: Path, entries: Iterable[zipfile.ZipInfo]) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Where each entry goes, relative to the folder; every one is looked at before any is written."""
    places: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    seen: set[PurePosixPath] = set()
    for info in entries:
        place = PurePosixPath(info.filename)
        objection = _objection(info) or (
            f"{info.filename!r} twice" if place in seen and not info.is_dir() else None
        )
        if objection:
            raise InputError(
                path,
                found=f"an archive with {objection}",
                expected="plain files and folders, each once, all below the archive's own folder",
                remedy="Do not unpack it by other means, and ask where it came from; nothing of it was written",
            )
        seen.add(place)
        places.append((info, place))
    return places


def _objection(info: zipfile.ZipInfo) -> str | None:
    """Why an entry is not unpacked; None if it may be."""
    # The name as it stands in the archive: zipfile cuts it at a zero byte and turns separators, per system.
    name = info.orig_filename
    parts = re.split(r"[/\\]", name)
    kind = stat.S_IFMT(info.external_attr >> 16)
    objections = {
        "an absolute path": name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name),
        "a path that leaves the folder": ".." in parts,
        "a backslash, a colon or a control character in a name": re.search(r"[\\:\x00-\x1f]", name),
        "an empty name": not any(part not in ("", ".") for part in parts),
        "a link": kind == stat.S_IFLNK,
        "a special file": kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK),
        "an encrypted entry": info.flag_bits & ENCRYPTED,
    }
    return next((f"{what}: {name!r}" for what, found in objections.items() if found), None)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Iterator[int]:
    """Write one entry; yields the bytes of each chunk."""
    with disk_errors(target):
        (target if info.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
        if info.is_dir():
            return
        with archive.open(info) as packed, target.open("xb") as file:
            while chunk := packed.read(CHUNK_BYTES):
                file.write(chunk)
                yield len(chunk)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the ways in which a zip archive can be broken into one error."""
    try:
        yield
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise InputError(
            path,
            found=f"an archive that cannot be read ({error})",
            expected="a whole zip archive",
            remedy="Remove it and give the same command again to fetch it anew",
        ) from None


def _in_the_way(place: Path, found: str, origin: str) -> InputError:
    return InputError(
        place,
        found=found,
        expected=f"nothing, or what {origin} holds",
        remedy="Move it away and give the same command again; it was left as it is",
    )
