"""A memory with two machines and one alarm, and the events of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from nearfar.watch.alarm import AlarmCause, AlarmState, Status
from nearfar.watch.events import AlarmTransition, Event, FloodChange, HealthChange, ScoredWindow
from nearfar.watch.health import Finding, Health
from nearfar.watch.records import AudioPart, MachineNow

REASON = "0.6 to 1.1 s, 3.9 to 7.9 kHz: 4 dB louder than the nearest normal recordings, 57 % of the score."


def window(machine: str = "pump 7", level: float = 0.4, time_s: float = 1_800_000_000.0) -> ScoredWindow:
    return ScoredWindow(
        machine=machine,
        time_s=time_s,
        window=41,
        begin_s=time_s - 10.0,
        seconds=10.0,
        score=0.8 * level,
        threshold=0.8,
        level=level,
        anomalous=level > 1,
        checks=(),
        status=Status.NORMAL,
        late_s=0.25,
    )


class FakeMemory:
    """What sinks ask of the memory."""

    def __init__(self) -> None:
        self.states = {
            "pump 7": MachineNow("pump 7", None, AlarmState(), Health.GOOD, (), None, window(), 41, "abcd"),
            "fan/2": MachineNow("fan/2", None, AlarmState(), Health.GOOD, (), None, None, 0, ""),
        }

    def machines(self) -> list[MachineNow]:
        return list(self.states.values())

    def machine(self, name: str) -> MachineNow:
        return self.states[name]

    def audio(self, alarm: int) -> list[AudioPart]:
        assert alarm == 3
        first = AudioPart(window=41, level=0.9, begin_s=1_800_000_000.0, seconds=10.0, flac=b"fLaC first")
        return [first, replace(first, window=42, begin_s=1_800_000_010.0, flac=b"fLaC second")]

    def raise_alarm(self) -> None:
        state = AlarmState(status=Status.UNACKNOWLEDGED, active=True)
        last = window(level=1.7)
        self.states["pump 7"] = replace(self.states["pump 7"], alarm=3, state=state, last=last, windows=42)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def raised() -> AlarmTransition:
    return AlarmTransition(
        number=12,
        time_s=1_800_000_000.5,
        machine="pump 7",
        alarm=3,
        before=Status.NORMAL,
        after=Status.UNACKNOWLEDGED,
        cause=AlarmCause.RAISED,
        reason=REASON,
        level=1.7,
    )


@pytest.fixture
def health_change() -> HealthChange:
    found = (Finding("dead", "the near microphone records nothing but zeros: check its cable"),)
    return HealthChange(
        number=13,
        time_s=1_800_000_100.0,
        machine="fan/2",
        before=Health.GOOD,
        after=Health.FAILURE,
        findings=found,
    )


@pytest.fixture
def flood() -> FloodChange:
    return FloodChange(number=14, time_s=1_800_000_200.0, machine="", active=True, alarms=12, minutes=10.0)


@pytest.fixture
def make_window() -> Callable[..., ScoredWindow]:
    return window


@pytest.fixture
def events(raised: AlarmTransition, health_change: HealthChange, flood: FloodChange) -> list[Event]:
    return [raised, health_change, flood]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
