"""What a simulated factory is to contain, checked before anything is made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nearfar.data.simulate.machines import machine_types
from nearfar.errors import InputError

LARGEST_COUNT = 10_000
"""The index in a file name has four digits."""


@dataclass(frozen=True, slots=True)
class FactoryPlan:
    """Everything that decides what a simulated factory sounds like.

    Attributes:
        machines: machine types, each once; see :func:`nearfar.data.simulate.machine_types`.
        train_source, train_target: normal training clips of each domain and machine.
        test_per_group: test clips of each machine in each of source/target × normal/anomaly.
        clip_seconds: length of a clip, 1 to 60 s.
        snr_db: range of the machine-to-noise ratio at the near microphone in decibels, drawn uniformly.
        severity: range of the faults' severity, drawn uniformly; above 0, and at 1 hard to miss.
        seed: the same seed gives the same files, bit for bit.

    Raises:
        InputError: if an option is outside its range.
    """

    machines: tuple[str, ...] = ("fan", "gearbox", "bearing", "slider", "valve")
    train_source: int = 60
    train_target: int = 10
    test_per_group: int = 15
    clip_seconds: float = 4.0
    snr_db: tuple[float, float] = (8.0, 18.0)
    severity: tuple[float, float] = (0.4, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_machines()
        for name in ("train_source", "train_target", "test_per_group"):
            count = getattr(self, name)
            if not 1 <= count <= LARGEST_COUNT:
                raise _bad(name, count, f"a number of clips from 1 to {LARGEST_COUNT}")
        if not 1 <= self.clip_seconds <= 60:
            raise _bad("clip_seconds", self.clip_seconds, "a length from 1 to 60 s")
        if not (all(map(math.isfinite, self.snr_db)) and -40 <= self.snr_db[0] <= self.snr_db[1] <= 60):
            raise _bad("snr_db", self.snr_db, "a lower and an upper ratio from -40 to 60 dB")
        if not 0 < self.severity[0] <= self.severity[1] <= 1:
            raise _bad("severity", self.severity, "a lower and an upper severity above 0 and up to 1")
        if self.seed < 0:
            raise _bad("seed", self.seed, "a whole number from 0 up")

    @property
    def clips(self) -> int:
        """Number of clips in all."""
        return len(self.machines) * (self.train_source + self.train_target + 4 * self.test_per_group)

    def _check_machines(self) -> None:
        unknown = [machine for machine in self.machines if machine not in machine_types()]
        if unknown:
            raise _bad("machines", ", ".join(unknown), f"machine types out of {', '.join(machine_types())}")
        if not self.machines or len(set(self.machines)) != len(self.machines):
            raise _bad("machines", ", ".join(self.machines) or "none", "one or more machine types, each once")


def _bad(option: str, found: object, expected: str) -> InputError:
    return InputError(f"simulate {option}", found=str(found), expected=expected, remedy=f"Change {option}")
