"""Safe unpacking of zip archives: nothing outside the folder, no links, no more than fits on the disk."""

from __future__ import annotations

import filecmp
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.data.download.transfer import disk_errors, require_space
from nearfar.errors import InputError
from nearfar.progress import StepProgress

_CHUNK_BYTES = 1 << 20
_ENCRYPTED = 0x1


def unpack(path: Path, folder: Path, progress: StepProgress | None = None) -> None:
    """Unpack a zip archive into a folder. Nothing is written if one of its entries is refused.

    ``progress`` is called with bytes written and in all.

    Raises:
        InputError: if the archive is damaged or encrypted, an entry would leave the folder, is a link or another
            special file or is repeated, or the disk is too small.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            targets = _targets(path, archive.infolist())
            # An entry has no more bytes than the directory states: zipfile stops there and compares the checksum.
            total = sum(info.file_size for info in targets.values())
            require_space(folder, total, f"the {len(targets)} entries of {path.name}")
            done = 0
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            for target, info in targets.items():
                for written in _extract(archive, info, folder / target):
                    done += written
                    if progress is not None:
                        progress(done, total)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise InputError(
            path,
            found=f"an archive that cannot be read ({error})",
            expected="a whole zip archive",
            remedy="Remove it and rerun the same command to download it again",
        ) from None


def merge(source: Path, target: Path, origin: str) -> None:
    """Move the content of one folder into another. A new folder is moved in one step.

    An existing file with the same bytes is kept. An existing clip with other bytes is never replaced; any other
    file, such as ``attributes_00.csv`` of a machine's second archive, is moved to a name with ``origin`` added.

    Raises:
        InputError: if a clip of the same name has other content, or a file and a folder have the same name.
    """
    for entry in sorted(source.iterdir()):
        existing = target / entry.name
        if not (existing.exists() or existing.is_symlink()):
            entry.replace(existing)
        elif entry.is_dir() and existing.is_dir():
            merge(entry, existing, origin)
        elif not (entry.is_file() and existing.is_file()):
            raise _conflict(existing, "a file instead of a folder, or a folder instead of a file", origin)
        elif not filecmp.cmp(entry, existing, shallow=False):
            if entry.suffix.lower() in AUDIO_SUFFIXES:
                raise _conflict(existing, "a clip of that name with other content", origin)
            entry.replace(existing.with_name(f"{existing.stem}.{origin}{existing.suffix}"))


def _targets(path: Path, entries: Iterable[zipfile.ZipInfo]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The entries by path relative to the folder; all are checked before any is written."""
    targets: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in entries:
        target = PurePosixPath(info.filename)
        objection = _objection(info)
        if target in targets and not (info.is_dir() and targets[target].is_dir()):
            objection = objection or f"{info.filename!r} twice"
        if objection:
            raise InputError(
                path,
                found=f"an archive with {objection}",
                expected="plain files and folders, each once, all inside the archive's folder",
                remedy="Do not unpack it by other means, and check its origin; nothing of it was written",
            )
        targets[target] = info
    return targets


def _objection(info: zipfile.ZipInfo) -> str | None:
    """The reason to refuse an entry, or None."""
    # The name as stored: zipfile cuts it at a zero byte and converts separators, depending on the system.
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
        "an encrypted entry": info.flag_bits & _ENCRYPTED,
    }
    return next((f"{reason}: {name!r}" for reason, applies in objections.items() if applies), None)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> Iterator[int]:
    """Write one entry; yields the number of bytes of each chunk."""
    with disk_errors(target):
        (target if info.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
        if info.is_dir():
            return
        with archive.open(info) as packed, target.open("xb") as file:
            while chunk := packed.read(_CHUNK_BYTES):
                file.write(chunk)
                yield len(chunk)


def _conflict(path: Path, found: str, origin: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected=f"nothing, or the content of {origin}",
        remedy="Move it and rerun the same command; it was not changed",
    )
