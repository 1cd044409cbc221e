"""Simulated machines in fast time, for the demonstration and for tests: no microphone is needed.

A window of some seconds stands for every half hour or so of simulated time. Faults grow, machines are set to
another operating point, and microphones die at stated times. The simulated time is a function of the time alone,
so that all machines, the watch and its pages agree on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from nearfar.errors import InputError, one_of
from nearfar.settings import PositiveFloat, Settings
from nearfar.watch.sources.base import AudioBlock, TakenRecordings

if TYPE_CHECKING:
    from nearfar.data.clips import Label
    from nearfar.data.simulate.rooms import Room

HOUR_S = 3600.0


class SimulatedSettings(Settings):
    """Keys of ``source = "simulated"``; hours count from the first window."""

    machine_type: str = "fan"
    """A machine type of ``nearfar simulate``."""
    seed: Annotated[int, Field(ge=0)] = 0
    window_seconds: PositiveFloat = 4.0
    every_minutes: PositiveFloat = 30.0
    """From window to window, in simulated time."""
    begin_s: float = 0.0
    """Time of the first window, in seconds since 1970."""
    started_s: float = 0.0
    """When simulated time and the computer's clock were the same."""
    speed: PositiveFloat = HOUR_S
    """Simulated seconds in a second, from ``started_s`` on."""
    fault: str | None = None
    """A fault of the machine type, which grows from ``fault_hours`` to ``worst_hours``."""
    fault_hours: float = 0.0
    worst_hours: float = 48.0
    new_operation_hours: float | None = None
    """From then on the machine runs at other operating points."""
    silent_hours: float | None = None
    """From then on the near microphone records nothing."""


@dataclass(frozen=True, slots=True)
class SimulatedClock:
    """The simulated time: that of the computer at ``started_s``, and ``speed`` times as fast from then on."""

    started_s: float
    speed: float

    def __call__(self) -> float:
        """The simulated time now, in seconds since 1970."""
        return self.started_s + (time.time() - self.started_s) * self.speed

    def wait_s(self, time_s: float) -> float:
        """Seconds until a simulated time; 0 if it has passed."""
        return max(0.0, (time_s - self()) / self.speed)


class SimulatedSource:
    """Recordings of a simulated machine, each when its simulated time has come.

    Raises:
        InputError: if there is no such machine type or fault of it.
    """

    def __init__(self, settings: SimulatedSettings, base: Path) -> None:
        from nearfar.data.simulate.factory import FactoryPlan
        from nearfar.data.simulate.machines import MACHINES

        kind, self._settings = settings.machine_type, settings
        self._clock = SimulatedClock(settings.started_s, settings.speed)
        self.plan = FactoryPlan(
            machines=(kind,), clip_seconds=settings.window_seconds, snr_db=(12.0, 24.0), seed=settings.seed
        )
        faults = MACHINES[kind].faults
        if settings.fault is not None and settings.fault not in faults:
            expected = one_of(faults, settings.fault)
            raise InputError("fault", found=repr(settings.fault), expected=expected, remedy="Correct it")

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """A recording for every window, without end."""
        number = 0
        while not stop.is_set():
            begin_s = self._settings.begin_s + 60 * self._settings.every_minutes * number
            # A window is there when it has been recorded.
            if stop.wait(self._clock.wait_s(begin_s + self._settings.window_seconds)):
                return
            name = f"{self._settings.machine_type}-{self._settings.seed}-{number}"
            known = taken.find(name)
            if known is None or not known.finished:
                yield AudioBlock(self.samples(number), 16_000, name, 0, begin_s, name, ends=True)
            number += 1

    def samples(self, number: int) -> NDArray[np.float32]:
        """(2, samples) float32 of a window; the same for the same settings and number."""
        from nearfar.data.simulate.factory import ClipPlan, draw_condition, simulate_clip
        from nearfar.data.simulate.machines import Fault

        settings, machine = self._settings, self._settings.machine_type
        hours = number * settings.every_minutes / 60
        changed = settings.new_operation_hours is not None and hours >= settings.new_operation_hours
        condition = draw_condition(self.plan, machine, "test", "target" if changed else "source", number)
        severity = self.severity(hours)
        fault = Fault(settings.fault, severity) if settings.fault is not None and severity > 0 else None
        label: Label = "normal" if fault is None else "anomaly"
        clip = ClipPlan(machine, "test", "source", label, number, condition, fault)
        samples = np.asarray(simulate_clip(self.plan, clip, self._room)[0].T / 32768.0, dtype=np.float32)
        if settings.silent_hours is not None and hours >= settings.silent_hours:
            samples[0] = 0.0
        return samples

    def severity(self, hours: float) -> float:
        """Of the fault, from 0 to 1, some hours after the first window."""
        settings = self._settings
        if settings.fault is None or hours < settings.fault_hours:
            return 0.0
        return min(1.0, (hours - settings.fault_hours) / max(settings.worst_hours - settings.fault_hours, 1e-9))

    def write_normals(self, folder: Path, count: int) -> None:
        """Write recordings of normal operation that are none of the windows, to fit a detector on."""
        import soundfile

        from nearfar.data.simulate.factory import ClipPlan, draw_condition, simulate_clip

        machine = self._settings.machine_type
        folder.mkdir(parents=True)
        for number in range(count):
            condition = draw_condition(self.plan, machine, "train", "source", number)
            clip = ClipPlan(machine, "train", "source", "normal", number, condition, None)
            samples = simulate_clip(self.plan, clip, self._room)[0]
            soundfile.write(folder / f"{number:04d}.wav", samples, 16_000, subtype="PCM_16")

    @cached_property
    def _room(self) -> Room:
        from nearfar.data.simulate.rooms import build_room

        return build_room(self.plan.seed, self._settings.machine_type, "source")
