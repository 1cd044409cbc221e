"""What a simulated machine is asked to do, what is wrong with it, and where in the clip that can be heard."""

from __future__ import annotations

from dataclasses import dataclass

from nearfar.data.clips import Attributes


@dataclass(frozen=True, slots=True)
class Operation:
    """A point of operation.

    ``speed`` is in revolutions (or strokes) per second, ``load`` runs from 0 to 1, ``attributes`` are what the
    file name tells of them; empty where nobody noted it.
    """

    speed: float
    load: float
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """A defect by name, with a severity from 0 (just begun) to 1 (a maintainer hears it at once)."""

    name: str
    severity: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a fault shows: the band in Hz and intervals in seconds; no intervals means all through the clip."""

    low_hz: float
    high_hz: float
    intervals_s: tuple[tuple[float, float], ...] = ()


def severity(fault: Fault | None, name: str) -> float:
    """How far the fault of this name has gone; 0 where the machine is healthy or ails from something else."""
    return fault.severity if fault is not None and fault.name == name else 0.0
