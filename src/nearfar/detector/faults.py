"""Known faults of a machine: a second bank, of their recordings, that anomalous recordings are compared with.

An anomalous recording is like a known fault where its most anomalous window departs from normal in the
direction of a window of a recording of that fault, and is at most twice as far from it as from the nearest
normal one. It need not be nearer: of a fault there are mostly few recordings, some stronger and some weaker,
and of normal running many, the nearest of which is near by chance. The distance is the one in which the back-
end compares clips, without what it makes of it (densities of normals, means over neighbours): features are
scaled by the normal ones, and the distance is the mean over parts and over the scored views. The direction is
that from the mean of the nearest normal windows. Faults have no effect on scores and thresholds.
docs/detector.md has measured rates of right and wrong names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Date
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.errors import InputError
from nearfar.scoring import BACKENDS
from nearfar.scoring.distances import Scaling, centred, mean_distance
from nearfar.settings import Settings

if TYPE_CHECKING:
    from nearfar.detector.machine import FittedMachine


NORMALS = 4
"""Directions are from the mean of so many nearest normal windows."""
SIMILAR = 0.55
"""Least cosine of two directions that are the same."""
FARTHEST = 2.0
"""Largest distance to a fault, relative to that to the nearest normal window."""


class FaultRecording(Settings):
    """A recording of a known fault; ``date`` is that of the fault, as 2026-05-03."""

    fault: str
    date: str
    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Like:
    """The known fault that an anomalous recording resembles.

    Attributes:
        fault: its name, and ``date`` its date, as 2026-05-03.
        distance: to a window of a recording of it, and ``normal_distance`` to the nearest normal window.
        similarity: cosine of the directions in which the two depart from normal, at most 1.
        recording: the name of that recording, and ``file`` its path when it was added.
    """

    fault: str
    date: str
    distance: float
    normal_distance: float
    similarity: float
    recording: str
    file: str

    @property
    def words(self) -> str:
        """``like bearing fault (3 May 2026)``."""
        day = Date.fromisoformat(self.date)
        return f"like {self.fault} ({day.day} {day:%B %Y})"


@dataclass(frozen=True, slots=True, eq=False)
class FaultBank:
    """Recordings of known faults of one machine and section.

    Attributes:
        recordings: in the order in which they were added.
        features: (windows, parts, dim) float32 of every scored view, of their anomalous windows.
        recording: (windows,) int64, the recording that each window is of.
    """

    recordings: tuple[FaultRecording, ...]
    features: dict[str, Tensor]
    recording: NDArray[np.int64]

    def first(self, count: int) -> FaultBank | None:
        """The first recordings; None for no recordings."""
        if not count:
            return None
        windows = int((self.recording < count).sum())
        features = {view: values[:windows].clone() for view, values in self.features.items()}
        return FaultBank(self.recordings[:count], features, self.recording[:windows].copy())

    def tensors(self) -> dict[str, Tensor]:
        """Features and numbers of recordings by name, for a safetensors file."""
        out = {f"features/{view}": values for view, values in self.features.items()}
        return out | {"recording": torch.from_numpy(self.recording)}


def with_recordings(
    bank: FaultBank | None,
    recordings: Iterable[FaultRecording],
    features: Mapping[str, Tensor],
    recording: NDArray[np.int64],
) -> FaultBank:
    """A bank with more recordings behind those that are there; arguments as the attributes of a bank."""
    if bank is None:
        return FaultBank(tuple(recordings), dict(features), recording)
    return FaultBank(
        (*bank.recordings, *recordings),
        {view: torch.cat([values, features[view]]) for view, values in bank.features.items()},
        np.concatenate([bank.recording, recording + len(bank.recordings)]),
    )


def likes(fitted: FittedMachine, features: Mapping[str, Tensor], windows: Sequence[int]) -> dict[int, Like]:
    """The known fault that each window resembles, of those that resemble one.

    Of several windows of faults, the one in the most similar direction counts.

    Args:
        fitted: the machine, with its normal windows and known faults.
        features: (windows, parts, dim) of every scored view.
        windows: numbers of the windows to compare.
    """
    faults = fitted.faults
    if faults is None or not len(windows):
        return {}
    chosen = torch.as_tensor(list(windows))
    bank = _Scaled(fitted)
    queries = bank.scaled({view: features[view][chosen] for view in fitted.features})
    known = bank.scaled(faults.features)
    distances, to_normals = bank.distance(queries, known), bank.distance(queries, bank.normals)
    normal = to_normals.min(dim=1).values
    cosines = bank.directions(queries, to_normals) @ bank.directions(known, bank.distance(known, bank.normals)).T
    best, which = cosines.masked_fill(distances > FARTHEST * normal[:, None], -torch.inf).max(dim=1)
    found = {}
    for row, window in enumerate(windows):
        if best[row] >= SIMILAR:
            index = int(which[row])
            entry = faults.recordings[int(faults.recording[index])]
            numbers = float(distances[row, index]), float(normal[row]), float(best[row])
            found[window] = Like(entry.fault, entry.date, *numbers, entry.name, entry.file)
    return found


class _Scaled:
    """Scaled features of one machine: (windows, parts, dim) of every scored view, in their order."""

    def __init__(self, fitted: FittedMachine) -> None:
        self._distance = BACKENDS[fitted.plan.backend].distance(fitted.plan.settings)
        self._scorers = fitted.scorer.scorers
        normals = self._compared(fitted.features)
        self._scalings = {view: Scaling(values, self._distance) for view, values in normals.items()}
        self.normals = self.scaled(fitted.features)

    def _compared(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features as the back-end compares them; as they are, if it does not transform them."""
        transforms = {view: getattr(self._scorers[view], "compared", None) for view in self._scorers}
        return {
            view: features[view] if transform is None else transform(features[view])
            for view, transform in transforms.items()
        }

    def scaled(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The features of every view, scaled by the normal ones."""
        compared = self._compared(features)
        return [scaling(compared[view]) for view, scaling in self._scalings.items()]

    def distance(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
        """(rows, columns) float64, the mean over parts and views."""
        found = []
        for row, column, normal in zip(rows, columns, self.normals, strict=True):
            centres = normal.mean(dim=0)
            points, others = (centred(clips, centres).by_part() for clips in (row, column))
            found.append(mean_distance(points, others, self._distance))
        return torch.stack(found).mean(dim=0)

    def directions(self, rows: Sequence[Tensor], to_normals: Tensor) -> Tensor:
        """(rows, dim) float64 of length one, of all views side by side: from the nearest normal windows' mean."""
        nearest = to_normals.topk(min(NORMALS, to_normals.shape[1]), dim=1, largest=False).indices
        parts = [
            (row - normal[nearest].mean(dim=1)).flatten(1).double()
            for row, normal in zip(rows, self.normals, strict=True)
        ]
        return torch.nn.functional.normalize(torch.cat(parts, dim=1))


def checked_date(date: str | Date | None, today: Date) -> str:
    """A date as 2026-05-03; today where there is none.

    Raises:
        InputError: if it is no date.
    """
    if date is None:
        return today.isoformat()
    try:
        return (Date.fromisoformat(date) if isinstance(date, str) else date).isoformat()
    except ValueError:
        raise InputError(
            "date", found=repr(date), expected="a date such as 2026-05-03", remedy="Correct it"
        ) from None
