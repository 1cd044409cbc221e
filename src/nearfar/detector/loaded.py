"""Loaded detectors in bounded memory: one process scores recordings of many more machines than fit into it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from nearfar.detector import store
from nearfar.detector.detector import Detector, Device
from nearfar.errors import InputError

DEFAULT_BYTES = 1_000_000_000
"""Default limit of the banks in memory."""

COPIES = 3
"""Memory of a loaded detector in sizes of its banks on disk; benchmarks/fleet.py measures it."""

_State = tuple[int, ...]
"""Sizes and times of change of the files of a detector."""


@dataclass(frozen=True)
class _Entry:
    detector: Detector
    state: _State
    nbytes: int


class LoadedDetectors:
    """Detectors by their folder; those that were used longest ago are dropped when all would take too much memory.

    A detector whose files have changed is loaded again. May be used by several threads.

    Args:
        most_bytes: limit of the memory of all banks together, in bytes. A single detector may exceed it.
        device: where networks run; by default the first GPU, if there is one. Frozen encoders are loaded once for
            all detectors that use them.

    Attributes:
        loads: number of times that a detector was read from its folder.
    """

    def __init__(self, most_bytes: int = DEFAULT_BYTES, *, device: Device = None) -> None:
        if most_bytes <= 0:
            raise InputError(
                "most_bytes", found=str(most_bytes), expected="more than 0 bytes", remedy="Choose another limit"
            )
        self.most_bytes, self.loads = most_bytes, 0
        self._device = device
        self._entries: OrderedDict[Path, _Entry] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Memory of the banks that are loaded, in bytes."""
        return sum(entry.nbytes for entry in self._entries.values())

    def get(self, folder: Path | str, *, encoder: str | None = None) -> Detector:
        """The detector of a folder.

        Args:
            folder: of the detector.
            encoder: as of :meth:`Detector.load`.

        Raises:
            InputError: as :meth:`Detector.load`.
        """
        path = Path(folder).resolve()
        with self._lock:
            state = _state(path)
            entry = self._entries.get(path)
            if entry is None or entry.state != state:
                self._entries.pop(path, None)
                nbytes = COPIES * _size(path / store.BANKS)
                self._make_room(nbytes)
                entry = _Entry(Detector.load(path, encoder=encoder, device=self._device), state, nbytes)
                self._entries[path] = entry
                self.loads += 1
            self._entries.move_to_end(path)
            return entry.detector

    def _make_room(self, nbytes: int) -> None:
        while self._entries and self.nbytes + nbytes > self.most_bytes:
            self._entries.popitem(last=False)


def _state(folder: Path) -> _State:
    found = []
    for name in (store.CARD, store.BANKS, store.CALIBRATION, "thresholds.json"):
        try:
            stat = (folder / name).stat()
        except OSError:  # loading says what is missing
            continue
        found += [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    return tuple(found)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
