"""The demonstration: a simulated factory in fast time, with faults that a maintainer deals with on the pages.

Two days have passed at the start. Within the first minute a bearing becomes worse, a gearbox is set to another
operating point, and a microphone of a fan dies; a valve stays in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nearfar.detector.detector import Detector
from nearfar.progress import Progress, silent
from nearfar.watch.config import WatchConfig, checked_config
from nearfar.watch.sources.simulated import SimulatedClock, SimulatedSettings, SimulatedSource

NOTE = "Everything here is simulated. Ten minutes pass in a second."
SPEED = 600.0
"""Simulated seconds in a second."""
PAST_HOURS = 48.0
"""Simulated time before the start."""
NORMALS = 40
"""Normal recordings that each detector is fitted on."""

MACHINES: dict[str, dict[str, Any]] = {
    "conveyor bearing": {
        "machine_type": "bearing",
        "fault": "outer_race",
        "fault_hours": 24.0,
        "worst_hours": 72.0,
        "seed": 11,
    },
    "mill gearbox": {"machine_type": "gearbox", "new_operation_hours": 51.0, "seed": 11},
    "hall fan": {"machine_type": "fan", "silent_hours": 54.0, "seed": 11},
    "filler valve": {"machine_type": "valve", "seed": 11},
}
"""Machines of the demonstration, and the settings of their simulated sources."""


def prepare_demo(folder: Path, port: int, progress: Progress = silent) -> Callable[[], WatchConfig]:
    """Simulate normal recordings and fit detectors in a folder.

    Returns:
        a function that gives the configuration of a demonstration that begins when it is called.
    """
    for number, (name, settings) in enumerate(MACHINES.items()):
        progress("fitting detectors on simulated recordings", number, len(MACHINES))
        recordings = folder / "recordings" / name
        SimulatedSource(SimulatedSettings(**settings), folder).write_normals(recordings, NORMALS)
        Detector.fit(recordings, machine=name).save(folder / "detectors" / name)
    progress("fitting detectors on simulated recordings", len(MACHINES), len(MACHINES))
    return lambda: demo_config(folder, port, time.time())


def demo_config(folder: Path, port: int, started_s: float) -> WatchConfig:
    """The configuration of a demonstration that begins at a time, in seconds since 1970."""
    begin_s = started_s - 3600 * PAST_HOURS
    clock = {"begin_s": begin_s, "started_s": started_s, "speed": SPEED}
    machines = {
        name: {"detector": str(folder / "detectors" / name), "source": "simulated", **settings, **clock}
        for name, settings in MACHINES.items()
    }
    alarm = {"raise_level": 1.0, "count": 3, "of": 5, "clear_count": 5}  # windows are ten minutes apart
    tree = {"name": "demonstration", "machines": machines, "page": {"port": port}, "alarm": alarm}
    return checked_config({**tree, "memory": str(folder / "watch.sqlite")}, "the demonstration")


def demo_clock(config: WatchConfig) -> SimulatedClock:
    """The simulated time of a demonstration."""
    settings = next(iter(config.machines.values())).settings_of("source")
    return SimulatedClock(settings.started_s, settings.speed)
