"""Known faults of a machine: a second bank, of their recordings, that anomalous recordings are compared with.

An anomalous recording is like a known fault where its most anomalous window is nearer to a window of a recording
of that fault than to any normal one. The distance is the one in which the back-end compares clips, without what it
makes of it (densities of normals, means over neighbours): features are scaled by the normal ones, and the distance
is the mean over parts and over the scored views. Faults have no effect on scores and thresholds.
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
        distance: to the nearest window of a recording of it, and ``normal_distance`` to the nearest normal window,
            which is larger.
        recording: the name of that recording.
    """

    fault: str
    date: str
    distance: float
    normal_distance: float
    recording: str

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
    """The known fault that each window resembles, where it is nearer to one than to normal.

    Args:
        fitted: the machine, with its normal windows and known faults.
        features: (windows, parts, dim) of every scored view.
        windows: numbers of the windows to compare.
    """
    faults = fitted.faults
    if faults is None or not len(windows):
        return {}
    plan, chosen = fitted.plan, torch.as_tensor(list(windows))
    distance = BACKENDS[plan.backend].distance(plan.settings)
    to_faults, to_normals = [], []
    for view, normals in fitted.features.items():
        scaling = Scaling(normals, distance)
        scaled = scaling(normals)
        bank, queries, known = (
            centred(values, scaled.mean(dim=0))
            for values in (scaled, scaling(features[view][chosen]), scaling(faults.features[view]))
        )
        to_faults.append(mean_distance(queries, known, distance))
        to_normals.append(mean_distance(queries, bank, distance))
    nearest, which = torch.stack(to_faults).mean(dim=0).min(dim=1)
    normal = torch.stack(to_normals).mean(dim=0).min(dim=1).values
    found = {}
    for row, window in enumerate(windows):
        if nearest[row] < normal[row]:
            entry = faults.recordings[int(faults.recording[int(which[row])])]
            found[window] = Like(entry.fault, entry.date, float(nearest[row]), float(normal[row]), entry.name)
    return found


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
