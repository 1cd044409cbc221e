"""Download of the challenge's archives into ``<out>/<machine>/{train,test}/*.wav``.

Each archive is downloaded (or found in ``out``), verified, unpacked beside the data, moved into the data folder
and recorded. The hidden folder ``<out>/.download`` holds partial files and one record per finished archive. An
interrupted download leaves no record of unfinished archives; the next run resumes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from nearfar.data.download.archive import merge, unpack
from nearfar.data.download.catalogue import ZENODO, Archive
from nearfar.data.download.transfer import RetryPolicy, TransferError, disk_errors, fetch, require_space
from nearfar.data.folders import audio_files
from nearfar.errors import InputError, NearfarError
from nearfar.files import flush_to_disk, whole_file
from nearfar.progress import Progress, silent

CONNECTIONS = 3
STORE = ".download"
"""Folder for partial archives and records; hidden, so that it is not read as data."""
UNPACKED_PER_PACKED = 1.4
"""Upper bound of bytes on the disk per byte of archive: 1200 clips of 16-bit stereo over the size of their archive
is 1.09 (fan) to 1.34 (valveEmu) in the development set."""


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """An archive whose clips are in the data folder, and where they came from."""

    archive: Archive
    how: Literal["downloaded", "local file", "already complete"]


class _StoppedError(Exception):
    """Another thread failed, or there is no network."""


_Failures = dict[Archive, NearfarError | _StoppedError]


@dataclass(frozen=True)
class _Job:
    """State shared by the threads of one download. ``progress`` gets megabytes."""

    out: Path
    base_url: str
    retry: RetryPolicy
    progress: Progress
    stop: threading.Event
    merging: threading.Lock = field(default_factory=threading.Lock)

    def report(self, task: str, done: int, total: int) -> None:
        """Report bytes as megabytes, and end the thread if the job was stopped."""
        if self.stop.is_set():
            raise _StoppedError
        self.progress(f"{task}, MB", -(-done // 1_000_000), max(1, -(-total // 1_000_000)))


def download(
    archives: Sequence[Archive],
    out: Path,
    *,
    base_url: str = ZENODO,
    connections: int = CONNECTIONS,
    retry: RetryPolicy | None = None,
    progress: Progress = silent,
) -> tuple[FetchedArchive, ...]:
    """Download archives into a data folder; finished ones are skipped and partial ones resumed.

    An archive of the right name in ``out`` is used instead of the network, and kept.

    Args:
        archives: see :func:`nearfar.data.download.catalogue.chosen`.
        out: the data folder; created if needed.
        base_url: replaces ``https://zenodo.org``.
        connections: number of archives downloaded at the same time.
        retry: see :class:`nearfar.data.download.transfer.RetryPolicy`.
        progress: called with the megabytes downloaded and unpacked of every archive, from several threads.

    Returns:
        an entry per archive, in order.

    Raises:
        InputError: if the disk is too small or cannot be written to.
        NearfarError: if archives could not be downloaded or are wrong, with instructions for downloading them by
            hand. The other archives are complete then.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InputError("base_url", found=base_url, expected="http://… or https://…", remedy="Correct it")
    with disk_errors(out):
        (out / STORE).mkdir(parents=True, exist_ok=True)
    with _lock(out):
        missing = [archive for archive in archives if not _is_complete(out, archive)]
        if missing:
            require_space(out, _space_bytes(missing, out, connections), f"{len(missing)} archives, unpacked")
        stop = threading.Event()

        def sleep(seconds: float) -> None:
            if stop.wait(seconds):
                raise _StoppedError

        job = _Job(out, base_url, retry or RetryPolicy(sleep=sleep), progress, stop)
        fetched, failed = _fetch_all(job, missing, connections)
    if failed:
        raise NearfarError(_failure_text(failed, job, len(archives) - len(failed)))
    return tuple(fetched.get(archive, FetchedArchive(archive, "already complete")) for archive in archives)


def address_list(archives: Sequence[Archive], base_url: str = ZENODO) -> str:
    """A line per archive: its address, its size where known, and its md5 sum."""
    lines = []
    for archive in archives:
        size = "" if archive.size_bytes is None else f"  {archive.size_bytes} bytes"
        lines.append(f"{archive.url(base_url)}{size}  md5 {archive.md5}")
    return "\n".join(lines)


# All archives


def _fetch_all(
    job: _Job, archives: Sequence[Archive], connections: int
) -> tuple[dict[Archive, FetchedArchive], _Failures]:
    fetched: dict[Archive, FetchedArchive] = {}
    failed: _Failures = {}
    offline = threading.Event()

    def attempt(archive: Archive) -> None:
        try:
            if offline.is_set() and not (job.out / archive.filename).is_file():
                raise _StoppedError  # without network, do not retry for every archive in turn
            fetched[archive] = _fetch_archive(job, archive)
        except (NearfarError, _StoppedError) as error:
            if isinstance(error, TransferError) and not error.answered:
                offline.set()
            failed[archive] = error

    with ThreadPoolExecutor(max_workers=connections) as pool:
        futures = [pool.submit(attempt, archive) for archive in archives]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # interrupted by the user, or a bug: end the other threads too
            job.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return fetched, failed


def _space_bytes(missing: Sequence[Archive], out: Path, connections: int) -> int:
    """The size of everything unpacked, and of the archives that are on the disk at the same time."""
    to_download = [archive for archive in missing if not (out / archive.filename).is_file()]
    at_once = sum(sorted((archive.about_bytes for archive in to_download), reverse=True)[:connections])
    held = sum(path.stat().st_size for pattern in ("*.zip", "*.part") for path in (out / STORE).glob(pattern))
    return round(sum(archive.about_bytes for archive in missing) * UNPACKED_PER_PACKED) + max(0, at_once - held)


def _lock(out: Path) -> AbstractContextManager[object]:
    """Exclude other downloads into the folder. The system releases the lock however this process ends."""
    try:
        return FileLock(out / STORE / "lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            out,
            found="another nearfar download running in this folder",
            expected="one at a time",
            remedy="Wait for it, or stop it and rerun this command",
        ) from None
    except (OSError, NotImplementedError):  # a file system without locks
        return nullcontext()


def _failure_text(failed: _Failures, job: _Job, complete: int) -> str:
    wrong = [str(error) for error in failed.values() if not isinstance(error, TransferError | _StoppedError)]
    missing = [archive for archive, error in failed.items() if isinstance(error, TransferError | _StoppedError)]
    if not missing:
        return "\n".join(wrong)
    reasons = dict.fromkeys(error.reason for error in failed.values() if isinstance(error, TransferError))
    complete_text = f"; {complete} are complete" if complete else ""
    return "\n".join(
        [
            *wrong,
            f"could not download {len(missing)} of the archives ({'; '.join(reasons)}){complete_text}.",
            "Rerun the same command to resume when the network is back. Or download the following by hand, copy "
            f"them as they are into {job.out}, and rerun the same command, which verifies and unpacks them:",
            address_list(missing, job.base_url),
        ]
    )


# One archive


def _fetch_archive(job: _Job, archive: Archive) -> FetchedArchive:
    """Move one archive's clips into ``<out>/<machine>/{train,test}``; an archive in ``out`` is used and kept."""
    local_path = job.out / archive.filename
    is_local = local_path.is_file()
    path = local_path if is_local else job.out / STORE / archive.filename
    if not is_local:
        _fetch_verified(job, archive, path)
    elif (md5 := _md5(path)) != archive.md5:
        raise InputError(
            path,
            found=f"md5 {md5} in {path.stat().st_size} bytes",
            expected=f"md5 {archive.md5}",
            remedy="Download it again, or remove the file so that nearfar downloads it; it was not changed",
        )
    size = path.stat().st_size
    _unpack(job, archive, path)
    with disk_errors(path):
        _write_record(job.out, archive, str(path) if is_local else archive.url(job.base_url), size)
        if not is_local:
            path.unlink()
    return FetchedArchive(archive, "local file" if is_local else "downloaded")


def _fetch_verified(job: _Job, archive: Archive, path: Path) -> None:
    """Download an archive to ``path``. Wrong content is removed and downloaded once more from the start."""
    if path.is_file() and _md5(path) == archive.md5:
        return  # a run was killed between here and the end of unpacking
    part = path.with_name(path.name + ".part")

    def require_space_to_finish(total: int) -> None:
        received = part.stat().st_size if part.exists() else 0
        needed = max(0, total - received) + round(total * UNPACKED_PER_PACKED)
        require_space(part.parent, needed, f"{archive.filename} and its content")

    for _ in range(2):
        fetch(
            archive.url(job.base_url),
            part,
            size_bytes=archive.size_bytes,
            retry=job.retry,
            on_size=require_space_to_finish,
            progress=partial(job.report, archive.filename),
        )
        md5 = _md5(part)
        if md5 == archive.md5:
            with disk_errors(path):
                part.replace(path)
            return
        part.unlink()
    raise InputError(
        archive.url(job.base_url),
        found=f"md5 {md5}, after a second download too; the file was removed",
        expected=f"md5 {archive.md5}",
        remedy="Try again later. If it fails again, the publisher has replaced the archive, or a proxy changes it",
    )


def _unpack(job: _Job, archive: Archive, path: Path) -> None:
    """Unpack an archive beside the data and move its content into the data folder."""
    unpacked = job.out / STORE / f"{path.stem}.unpacking"
    with disk_errors(unpacked):
        if unpacked.exists():
            shutil.rmtree(unpacked)  # of a run that was killed
    unpack(path, unpacked, partial(job.report, f"unpacking {archive.filename}"))
    with disk_errors(unpacked):  # remove files that macOS adds to archives
        shutil.rmtree(unpacked / "__MACOSX", ignore_errors=True)
        for hidden in (*unpacked.rglob(".DS_Store"), *unpacked.rglob("._*")):
            hidden.unlink()
    _require_layout(unpacked, archive, path)
    with job.merging, disk_errors(job.out):  # archives of one machine share its folder
        merge(unpacked, job.out, origin=path.stem)
        shutil.rmtree(unpacked)


def _require_layout(folder: Path, archive: Archive, path: Path) -> None:
    """Require that the archive holds its machine's folder, no other, and clips in each of its splits."""
    folders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    empty = [split for split in archive.splits if not _count_clips(folder / archive.machine / split)["files"]]
    if folders == [archive.machine] and not empty:
        return
    no_clips = f", no clips in {archive.machine}/{' and '.join(empty)}" if empty else ""
    raise InputError(
        path,
        found=f"the folders {', '.join(folders) or '(none)'}{no_clips}",
        expected=" and ".join(f"{archive.machine}/{split}/*.wav" for split in archive.splits),
        remedy="The archive is kept; unpack it by hand and arrange it as <machine>/{train,test}",
    )


def _md5(path: Path) -> str:
    with disk_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# Records of finished archives


def _write_record(out: Path, archive: Archive, address: str, size_bytes: int) -> None:
    """Write ``<out>/.download/<archive>.json`` atomically, after the clips are in the data folder."""
    record = {
        "archive": archive.filename,
        "md5": archive.md5,
        "size_bytes": size_bytes,
        "from": address,
        "licence": archive.record.licence,
        "machine": archive.machine,
        "clips": {split: _count_clips(out / archive.machine / split) for split in archive.splits},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with whole_file(_record_path(out, archive)) as path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        flush_to_disk(path)


def _is_complete(out: Path, archive: Archive) -> bool:
    """Whether the archive has a record, and its folders hold at least the recorded numbers of clips and bytes."""
    try:
        record: dict[str, Any] = json.loads(_record_path(out, archive).read_text(encoding="utf-8"))
        for split, recorded in dict(record["clips"]).items():
            existing = _count_clips(out / archive.machine / split)
            if any(existing[key] < int(recorded[key]) for key in ("files", "bytes")):
                return False
        return bool(record["md5"] == archive.md5) and set(record["clips"]) == set(archive.splits)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _count_clips(folder: Path) -> dict[str, int]:
    sizes = [path.stat().st_size for path in audio_files(folder)]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _record_path(out: Path, archive: Archive) -> Path:
    return out / STORE / f"{archive.filename}.json"
