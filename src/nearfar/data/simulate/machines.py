"""The machine types of the simulated factory: what makes their sound, what can fail, how they are operated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nearfar.data.clips import Domain
from nearfar.data.simulate.conditions import Fault, Operation, Trace
from nearfar.data.simulate.cyclic import slider, valve
from nearfar.data.simulate.rotating import bearing, fan, gearbox, pump
from nearfar.data.simulate.signals import Signal

Sound = Callable[[Operation, Fault | None, float, np.random.Generator, int], tuple[Signal, Trace | None]]


@dataclass(frozen=True, slots=True)
class MachineType:
    """One kind of machine. ``source`` and ``target`` are the points of operation of the two domains."""

    sound: Sound
    faults: tuple[str, ...]
    source: tuple[Operation, ...]
    target: tuple[Operation, ...]

    def operations(self, domain: Domain) -> tuple[Operation, ...]:
        """The points of operation of a domain."""
        return self.source if domain == "source" else self.target


def _speeds(rates: dict[str, float], load: float) -> tuple[Operation, ...]:
    return tuple(Operation(rate, load, (("spd", step),)) for step, rate in rates.items())


def _speeds_and_loads(rates: dict[str, float], loads: dict[str, float]) -> tuple[Operation, ...]:
    return tuple(
        Operation(rate, load, (("spd", rate_step), ("load", load_step)))
        for rate_step, rate in rates.items()
        for load_step, load in loads.items()
    )


def _unnoted(*points: tuple[float, float]) -> tuple[Operation, ...]:
    return tuple(Operation(rate, load) for rate, load in points)


MACHINES: dict[str, MachineType] = {
    "fan": MachineType(
        fan,
        faults=("imbalance", "broken_blade", "looseness"),
        source=_speeds({"1": 18.0, "2": 22.0, "3": 27.0}, load=0.4),
        target=_speeds({"4": 20.0, "5": 25.0}, load=0.6),
    ),
    "gearbox": MachineType(
        gearbox,
        faults=("chipped_tooth", "tooth_wear", "looseness"),
        source=_speeds_and_loads({"1": 14.0, "2": 19.0}, {"1": 0.3, "2": 0.8}),
        target=_speeds_and_loads({"3": 16.5, "4": 21.0}, {"3": 0.55}),
    ),
    "bearing": MachineType(
        bearing,
        faults=("outer_race", "inner_race", "dry"),
        source=_speeds_and_loads({"1": 25.0, "2": 30.0}, {"1": 0.2, "2": 0.7}),
        target=_speeds_and_loads({"3": 33.0}, {"1": 0.2, "3": 0.9}),
    ),
    "slider": MachineType(
        slider,
        faults=("looseness", "dry_rail", "worn_damper"),
        source=_speeds({"1": 1.1, "2": 1.5}, load=0.4),
        target=_speeds({"3": 1.3, "4": 1.7}, load=0.6),
    ),
    "valve": MachineType(
        valve,
        faults=("leak", "sticking", "loose_armature"),
        source=_unnoted((1.6, 0.4), (2.2, 0.4)),
        target=_unnoted((1.9, 0.6), (2.5, 0.6)),
    ),
    "pump": MachineType(
        pump,
        faults=("cavitation", "imbalance", "leak"),
        source=_unnoted((24.0, 0.3), (24.3, 0.6)),
        target=_unnoted((27.0, 0.5)),
    ),
}
"""The machine types by the name of their folder. Valve and pump note no attributes."""


def machine_types() -> tuple[str, ...]:
    """Names of the machine types that can be simulated."""
    return tuple(MACHINES)
