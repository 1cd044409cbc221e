"""One archive: found in the folder or fetched, verified, unpacked beside the data, moved into place, recorded."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.data.download.archive import merge, unpack
from nearfar.data.download.arrivals import STORE, note_arrival
from nearfar.data.download.catalogue import Archive
from nearfar.data.download.space import disk_errors, require_space
from nearfar.data.download.transfer import Patience, fetch
from nearfar.errors import InputError

UNPACKED_PER_PACKED = 1.4
"""Bytes on the disk per byte of archive, from above: 1200 clips of 16-bit stereo over the size of their archive is
1.09 (fan) to 1.34 (valveEmu) in the development set."""

Progress = Callable[[str, int, int], None]
"""``(task, done, total)``, in megabytes; called from several threads."""


class StoppedError(Exception):
    """Another thread asked this one to stop, or made going on pointless."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How an archive's clips came to be in place."""

    archive: Archive
    how: Literal["downloaded", "put there by hand", "already there"]


@dataclass(frozen=True)
class Delivery:
    """Where archives come from and go to; shared by the threads of one command."""

    out: Path
    base_url: str
    patience: Patience
    progress: Progress
    stop: threading.Event
    merging: threading.Lock = field(default_factory=threading.Lock)

    def reporter(self, task: str) -> Callable[[int, int], None]:
        """Tells of bytes in megabytes; it is also where a thread notices that it has to stop."""

        def report(done: int, total: int) -> None:
            if self.stop.is_set():
                raise StoppedError
            self.progress(f"{task}, MB", -(-done // 1_000_000), max(1, -(-total // 1_000_000)))

        return report


def deliver(delivery: Delivery, archive: Archive) -> Arrival:
    """Put one archive's clips into ``<out>/<machine>/{train,test}``.

    An archive of its name in ``out`` itself was put there by hand: it is used, and stays as it is.

    Raises:
        TransferError: if it cannot be fetched.
        InputError: if it is not what it should be, or there is no room.
        StoppedError: if told to stop on the way.
    """
    given = delivery.out / archive.filename
    by_hand = given.is_file()
    path = given if by_hand else delivery.out / STORE / archive.filename
    if by_hand:
        _require_md5(given, archive)
    else:
        _fetch_verified(delivery, archive, path)
    size = path.stat().st_size
    _unpack_into_place(delivery, archive, path)
    with disk_errors(path):
        note_arrival(delivery.out, archive, str(path) if by_hand else archive.url(delivery.base_url), size)
        if not by_hand:
            path.unlink()
    return Arrival(archive, "put there by hand" if by_hand else "downloaded")


def _require_md5(given: Path, archive: Archive) -> None:
    found = _md5(given)
    if found != archive.md5:
        raise InputError(
            given,
            found=f"md5 {found} in {given.stat().st_size} bytes",
            expected=f"md5 {archive.md5}",
            remedy="Fetch the archive again, or remove the file and nearfar fetches it; it was left as it is",
        )


def _fetch_verified(delivery: Delivery, archive: Archive, path: Path) -> None:
    """Bring an archive to ``path``. Wrong content is removed and fetched once more from its first byte."""
    if path.is_file() and _md5(path) == archive.md5:
        return  # a run was killed between here and the end of unpacking
    partial = path.with_name(path.name + ".part")
    found = ""
    for _ in range(2):
        fetch(
            archive.url(delivery.base_url),
            partial,
            size_bytes=archive.size_bytes,
            patience=delivery.patience,
            announce=lambda total: _require_space_to_finish(partial, total, archive),
            progress=delivery.reporter(archive.filename),
        )
        found = _md5(partial)
        if found == archive.md5:
            with disk_errors(path):
                partial.replace(path)
            return
        partial.unlink()
    raise InputError(
        archive.url(delivery.base_url),
        found=f"md5 {found}, after a fresh download too; the file was removed",
        expected=f"md5 {archive.md5}",
        remedy="Try again later. If it stays so, the publisher has replaced the archive and nearfar does not know "
        "the new one, or something on the way changes it",
    )


def _require_space_to_finish(partial: Path, total: int, archive: Archive) -> None:
    held = partial.stat().st_size if partial.exists() else 0
    needed = max(0, total - held) + round(total * UNPACKED_PER_PACKED)
    require_space(partial.parent, needed, f"{archive.filename} and what is in it")


def _unpack_into_place(delivery: Delivery, archive: Archive, path: Path) -> None:
    aside = delivery.out / STORE / f"{path.stem}.unpacking"
    with disk_errors(aside):
        if aside.exists():
            shutil.rmtree(aside)  # of a run that was killed
    unpack(path, aside, delivery.reporter(f"unpacking {archive.filename}"))
    with disk_errors(aside):
        _remove_shadows(aside)
    _require_layout(aside, archive, path)
    with delivery.merging, disk_errors(delivery.out):  # train and test of a machine arrive in one folder
        merge(aside, delivery.out, origin=path.stem)
        shutil.rmtree(aside)


def _remove_shadows(folder: Path) -> None:
    """Remove what Macs leave in archives beside the files: nobody's data, and not to be read as clips."""
    shutil.rmtree(folder / "__MACOSX", ignore_errors=True)
    for shadow in (*folder.rglob(".DS_Store"), *folder.rglob("._*")):
        shadow.unlink()


def _require_layout(folder: Path, archive: Archive, path: Path) -> None:
    """The archive holds its machine's folder, no other one, and clips in each split that it is to bring."""
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    empty = [split for split in archive.splits if not _holds_clips(folder / archive.machine / split)]
    if folders == [archive.machine] and not empty:
        return
    found = f"the folders {', '.join(folders) or '(none)'}"
    if empty:
        found += f", no clips in {archive.machine}/{' and '.join(empty)}"
    raise InputError(
        path,
        found=found,
        expected=" and ".join(f"{archive.machine}/{split}/*.wav" for split in archive.splits),
        remedy="The archive is kept; unpack it by hand and lay it out as <machine>/{train,test}",
    )


def _holds_clips(folder: Path) -> bool:
    return any(entry.suffix.lower() in AUDIO_SUFFIXES for entry in folder.glob("*"))


def _md5(path: Path) -> str:
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
