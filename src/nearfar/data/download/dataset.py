"""From archives on a server, or put there by hand, to ``<out>/<machine>/{train,test}/*.wav``.

A hidden folder in ``out`` holds what is on its way, and a small record of each archive that has arrived. A command
that is killed leaves nothing that looks done and is not, and goes on when it is given again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from nearfar.data.download.arrivals import STORE, has_arrived
from nearfar.data.download.catalogue import ZENODO, Archive
from nearfar.data.download.delivery import (
    UNPACKED_PER_PACKED,
    Arrival,
    Delivery,
    Progress,
    StoppedError,
    deliver,
)
from nearfar.data.download.space import disk_errors, require_space
from nearfar.data.download.transfer import Patience, TransferError
from nearfar.errors import InputError, NearfarError

CONNECTIONS = 3
_Failures = dict[Archive, NearfarError | StoppedError]


def download(
    archives: Sequence[Archive],
    out: Path,
    *,
    base_url: str = ZENODO,
    connections: int = CONNECTIONS,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> tuple[Arrival, ...]:
    """Bring archives into a data folder; what has arrived is left alone, what has begun is continued.

    An archive of the right name in ``out`` itself is used instead of the network, and kept.

    Args:
        archives: which ones, see :func:`nearfar.data.download.catalogue.chosen`.
        out: the data folder; made if needed.
        base_url: what takes the place of ``https://zenodo.org``.
        connections: archives on their way at the same time.
        patience: with a server that drops connections or asks to wait.
        progress: is told of every archive's megabytes, arriving and unpacked.

    Returns:
        What became of each archive, in the order given.

    Raises:
        InputError: if the disk has no room or cannot be written to.
        NearfarError: if archives could not be had, or were not what they should be: what failed, and how to fetch
            it by hand. The other archives are in place by then.
    """
    if not base_url.startswith(("http://", "https://")):
        raise InputError("--base-url", found=base_url, expected="http://… or https://…", remedy="Correct it")
    with disk_errors(out):
        (out / STORE).mkdir(parents=True, exist_ok=True)
    with _alone(out):
        missing = [archive for archive in archives if not has_arrived(out, archive)]
        if missing:
            require_space(out, _space_bytes(missing, out, connections), f"{len(missing)} archives, unpacked")
        stop = threading.Event()
        patience = patience or Patience(sleep=lambda seconds: _pause(stop, seconds))
        delivery = Delivery(out, base_url, patience, progress or (lambda task, done, total: None), stop)
        arrived, failed = _deliver_all(delivery, missing, connections)
    if failed:
        raise NearfarError(_failure_text(failed, delivery, len(archives) - len(failed)))
    return tuple(arrived.get(archive, Arrival(archive, "already there")) for archive in archives)


def by_hand(archives: Sequence[Archive], base_url: str = ZENODO) -> str:
    """A line per archive: its address, its size where known, and its md5 sum."""
    lines = []
    for archive in archives:
        size = "" if archive.size_bytes is None else f"  {archive.size_bytes} bytes"
        lines.append(f"{archive.url(base_url)}{size}  md5 {archive.md5}")
    return "\n".join(lines)


def _deliver_all(
    delivery: Delivery, archives: Sequence[Archive], connections: int
) -> tuple[dict[Archive, Arrival], _Failures]:
    """Every archive's arrival, or why it did not arrive."""
    arrived: dict[Archive, Arrival] = {}
    failed: _Failures = {}
    offline = threading.Event()

    def attempt(archive: Archive) -> Arrival:
        if offline.is_set() and not (delivery.out / archive.filename).is_file():
            raise StoppedError  # no use in waiting for every archive in turn
        try:
            return deliver(delivery, archive)
        except TransferError as error:
            if not error.answered:
                offline.set()
            raise

    with ThreadPoolExecutor(max_workers=connections) as pool:
        futures = {pool.submit(attempt, archive): archive for archive in archives}
        try:
            for future in as_completed(futures):
                try:
                    arrived[futures[future]] = future.result()
                except (NearfarError, StoppedError) as error:
                    failed[futures[future]] = error
        except BaseException:  # interrupted by the person, or by a mistake of ours: end the other threads too
            delivery.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return arrived, failed


def _pause(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise StoppedError


def _space_bytes(missing: Sequence[Archive], out: Path, connections: int) -> int:
    """What everything takes unpacked, and the archives that are on the disk at the same time."""
    to_fetch = [archive for archive in missing if not (out / archive.filename).is_file()]
    at_once = sum(sorted((archive.about_bytes for archive in to_fetch), reverse=True)[:connections])
    held = sum(path.stat().st_size for pattern in ("*.zip", "*.part") for path in (out / STORE).glob(pattern))
    return round(sum(archive.about_bytes for archive in missing) * UNPACKED_PER_PACKED) + max(0, at_once - held)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second command out of the folder. The system frees the lock however this command ends."""
    try:
        import fcntl
    except ImportError:  # Windows: there a person has to see to it
        yield
        return
    path = out / STORE / "lock"
    with disk_errors(path):
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                out,
                found="another nearfar download at work in this folder",
                expected="one at a time",
                remedy="Wait for it, or stop it and give this command again",
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _failure_text(failed: _Failures, delivery: Delivery, in_place: int) -> str:
    """What is wrong with archives, what could not be fetched, and how to go on."""
    wrong = [str(error) for error in failed.values() if not isinstance(error, TransferError | StoppedError)]
    lost = [archive for archive, error in failed.items() if isinstance(error, TransferError | StoppedError)]
    if not lost:
        return "\n".join(wrong)
    reasons = dict.fromkeys(error.reason for error in failed.values() if isinstance(error, TransferError))
    in_place_text = f"; {in_place} are in place" if in_place else ""
    return "\n".join(
        [
            *wrong,
            f"could not fetch {len(lost)} of the archives ({'; '.join(reasons)}){in_place_text}.",
            "Give the same command again when the network is back: it goes on from what has arrived. Or fetch the "
            f"following by hand, put them as they are into {delivery.out}, and give the same command again, which "
            "checks and unpacks them:",
            by_hand(lost, delivery.base_url),
        ]
    )
