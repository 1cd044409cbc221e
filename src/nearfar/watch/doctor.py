"""Checks of a computer and a configuration before machines are watched: disk, clock, detectors, sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import NearfarError
from nearfar.watch.config import MachineTable, WatchConfig
from nearfar.watch.decision import channel_levels_db
from nearfar.watch.detectors import WatchedDetectors, WatchedMachine
from nearfar.watch.sources.base import AudioBlock, AudioSource, Taken

LEAST_FREE_BYTES = 1_000_000_000
"""Less free space is a warning, where the configuration says nothing about sound that is kept."""
SOUND_S, WAIT_S = 2.0, 8.0
"""How much sound of each source is measured, and how long to wait for it, in seconds."""
CLIPPED = 0.999
"""Peaks at or above this fraction of full scale are clipped."""
OUTSIDE_DB = 6.0
"""A level so far outside that of the normal recordings is a warning."""


class State(StrEnum):
    """The result of a check."""

    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        subject: what was checked.
        state: its result.
        text: what was found and, if that is not good, what to do.
    """

    subject: str
    state: State
    text: str


def examine(config: WatchConfig | None, base: Path) -> Iterator[Check]:
    """The checks of this computer and, with a configuration, of its machines.

    Args:
        config: None for this computer alone.
        base: the folder that paths of the configuration are relative to.
    """
    most_bytes = LEAST_FREE_BYTES if config is None else config.keep.audio_bytes
    memory = "watch.sqlite" if config is None else config.memory
    if "://" not in memory:
        yield check_disk((base / memory).absolute().parent, most_bytes)
    yield check_clock()
    yield check_devices()
    if config is None:
        return
    detectors = WatchedDetectors()
    for name, table in config.machines.items():
        try:
            watched = detectors.machine(base / table.detector, table.machine)
        except NearfarError as error:
            yield Check(f"{name}: detector", State.PROBLEM, str(error))
            continue
        yield Check(f"{name}: detector", State.GOOD, _described(watched))
        yield check_source(name, table, watched, base)


def check_disk(folder: Path, most_bytes: int) -> Check:
    """Whether a folder can be written and has room for so many bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nearfar-") as file:
            file.write(b"\0" * 65_536)
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        text = (
            f"{folder}: cannot be written ({error.strerror or error}). Change its permissions or free some space."
        )
        return Check("disk", State.PROBLEM, text)
    text = f"{folder}: {free / 1e9:.1f} GB free"
    if free < most_bytes:
        more = f"; keep.audio_bytes allows {most_bytes / 1e9:.1f} GB of sound. Free some space or allow less."
        return Check("disk", State.WARNING, text + more)
    return Check("disk", State.GOOD, text)


def check_clock() -> Check:
    """Whether the computer's clock runs, and is set by a time server where the system says so."""
    before_s, before = time.time(), time.monotonic()
    threading.Event().wait(0.05)
    drift_s = abs((time.time() - before_s) - (time.monotonic() - before))
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if drift_s > 0.5:
        return Check("clock", State.PROBLEM, f"{now}; it was set while it was read. Do not set it by hand.")
    if _is_synchronised() is False:
        text = f"{now}, not set by a time server. Enable one (timedatectl set-ntp true)."
        return Check("clock", State.WARNING, text)
    return Check("clock", State.GOOD, now)


def _is_synchronised() -> bool | None:
    """Whether a time server sets the clock; None where the system does not say."""
    try:
        found = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(found.stdout.strip())


def check_devices() -> Check:
    """The sound cards with two inputs or more."""
    try:
        import sounddevice
    except OSError as error:  # PortAudio is a library of the system
        text = f"none can be used ({error}). Install libportaudio2 if microphones are at this computer."
        return Check("sound cards", State.WARNING, text)
    found: Sequence[dict[str, Any]] = sounddevice.query_devices()
    inputs = [
        f"{number}: {device['name']} ({device['max_input_channels']} channels)"
        for number, device in enumerate(found)
        if device["max_input_channels"] >= 2
    ]
    none = "none with two inputs. Connect one if microphones are at this computer."
    return Check("sound cards", State.GOOD if inputs else State.WARNING, "; ".join(inputs) or none)


def check_source(name: str, table: MachineTable, watched: WatchedMachine, base: Path) -> Check:
    """Whether a source gives the channels that are needed, at levels like those of normal recordings."""
    subject = f"{name}: {table.source}"
    try:
        sound = _sound(table, base)
    except NearfarError as error:
        return Check(subject, State.PROBLEM, str(error))
    if sound is None:
        text = f"no sound within {WAIT_S:g} s. Check the recorder, or wait for its next recording."
        return Check(subject, State.WARNING, text)
    samples, rate = sound
    audio = watched.detector.recipe.audio
    near = audio.near_channel if table.near is None else table.near
    far = audio.far_channel if table.far is None else table.far
    needed = {"near": near, "far": far} if "far" in watched.normal_db else {"near": near}
    missing = [f"{key} = {number}" for key, number in needed.items() if number >= len(samples)]
    if missing:
        text = f"{len(samples)} channels, and no {', '.join(missing)}. Correct near and far, or the source."
        return Check(subject, State.PROBLEM, text)
    levels = channel_levels_db(samples, tuple(needed.values()))
    worse = [*_judged(samples, needed, levels, watched)]
    words = ", ".join(f"{key} {level:.0f} dB" for key, level in levels.items())
    text = f"{len(samples)} channels at {rate} Hz; {words} relative to full scale"
    state = max((state for state, _ in worse), key=list(State).index, default=State.GOOD)
    return Check(subject, state, ". ".join([text, *(words for _, words in worse)]))


def _judged(
    samples: NDArray[np.float32], channels: dict[str, int], levels: dict[str, float], watched: WatchedMachine
) -> Iterator[tuple[State, str]]:
    """What is wrong with the sound of channels."""
    for key, number in channels.items():
        if not np.ptp(samples[number]):
            yield State.PROBLEM, f"The {key} microphone gives no signal: check its cable and power"
            continue
        if np.abs(samples[number]).max() >= CLIPPED:
            yield State.WARNING, f"The {key} microphone is clipped: lower its gain"
        lowest, highest = watched.normal_db.get(key, (-np.inf, np.inf))
        if not lowest - OUTSIDE_DB <= levels[key] <= highest + OUTSIDE_DB:
            normal = f"{lowest:.0f} to {highest:.0f} dB"
            yield (
                State.WARNING,
                f"Normal recordings have {normal} at the {key} microphone: check gain and position",
            )


class _Nothing:
    """No recording was taken before."""

    def find(self, stream: str) -> Taken | None:
        return None

    def is_known(self, name: str, size: int, changed_ns: int) -> bool:
        return False


def _sound(table: MachineTable, base: Path) -> tuple[NDArray[np.float32], int] | None:
    """Some seconds of sound of a source and its sample rate in hertz; None if there is none within some time."""
    source: AudioSource = table.entry("source").build(table.settings_of("source"), base)
    stop = threading.Event()
    timer = threading.Timer(WAIT_S, stop.set)
    timer.start()
    blocks: list[AudioBlock] = []
    try:
        for block in source.blocks(_Nothing(), stop):
            if block.error is not None:
                raise NearfarError(block.error)
            if blocks and block.stream != blocks[0].stream:
                break
            blocks.append(block)
            if sum(entry.samples.shape[1] for entry in blocks) >= SOUND_S * block.sample_rate_hz:
                break
    finally:
        stop.set()
        timer.cancel()
    if not blocks:
        return None
    rate = blocks[0].sample_rate_hz
    return np.concatenate([entry.samples for entry in blocks], axis=1)[:, -round(SOUND_S * rate) :], rate


def _described(watched: WatchedMachine) -> str:
    recipe, count = watched.detector.recipe.name, watched.detector.calibrations[watched.number].scores().size
    return f"{recipe}, {count} normal scores, windows of {watched.window_s:g} s; {watched.text}"
