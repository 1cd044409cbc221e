"""What the memory answers: machines as they are now, trends, alarms, notes, detectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nearfar.watch.alarm import AlarmState, Status
from nearfar.watch.events import AlarmTransition, ScoredWindow
from nearfar.watch.health import Finding, Health


@dataclass(frozen=True, slots=True)
class MachineNow:
    """A machine as it is now.

    Attributes:
        machine: its name in the configuration.
        alarm: the number of the open or shelved alarm; None without.
        state: of the alarm.
        health, findings: of its instrument.
        drift: the message of drift; None where nothing has changed.
        last: the last window; None before the first.
        windows: how many windows have been scored.
        version: of the detector; empty before the first window.
    """

    machine: str
    alarm: int | None
    state: AlarmState
    health: Health
    findings: tuple[Finding, ...]
    drift: str | None
    last: ScoredWindow | None
    windows: int
    version: str

    @property
    def status(self) -> Status:
        """Of the alarm."""
        return self.state.status


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """The levels of one or several successive windows.

    Attributes:
        begin_s, end_s: from the begin of the first window to the end of the last, in seconds since 1970.
        windows: how many; ``compared`` is how many of them have a level, ``anomalous`` how many are anomalous.
        lowest, mean, highest: levels (the threshold is 1); None where no window could be compared.
    """

    begin_s: float
    end_s: float
    windows: int
    compared: int
    anomalous: int
    lowest: float | None
    mean: float | None
    highest: float | None


@dataclass(frozen=True, slots=True)
class AlarmRecord:
    """An alarm from its being raised on.

    Attributes:
        number: counted from 1 over all machines.
        machine: its name in the configuration.
        status: what became of it: :data:`~nearfar.watch.alarm.OPEN` or shelved, or ``normal`` once it is closed.
        raised_s, closed_s: when it was raised and closed, in seconds since 1970.
        acknowledged_s, acknowledged_by: the first time that it was acknowledged.
        reason: where the sound departs from normal, in a sentence.
        score: :meth:`nearfar.Score.to_json` of the window that raised it, with the nearest normal recording and
            the known fault that it is like.
        level, highest_level: of that window, and of the most anomalous one since.
        version: of the detector that raised it.
        audio_s: seconds of its sound that are kept; 0 without.
        feedback: what an operator said about it: ``normal``, the name of a fault, or None.
        transitions: all, in order.
    """

    number: int
    machine: str
    status: Status
    raised_s: float
    closed_s: float | None
    acknowledged_s: float | None
    acknowledged_by: str
    reason: str
    score: dict[str, Any]
    level: float
    highest_level: float
    version: str
    audio_s: float
    feedback: str | None
    transitions: tuple[AlarmTransition, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class AudioPart:
    """A window in the sound of an alarm.

    Attributes:
        window: its number among those of the machine.
        level: of the window; the threshold is 1. None where it could not be compared.
        begin_s: when it begins, in seconds since 1970.
        seconds: its length.
        flac: a FLAC file of all channels, near first and then far where there are two.
    """

    window: int
    level: float | None
    begin_s: float
    seconds: float
    flac: bytes


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """A note that a person wrote."""

    number: int
    time_s: float
    machine: str
    alarm: int | None
    by: str
    text: str


@dataclass(frozen=True, slots=True)
class DetectorVersion:
    """A version of a machine's detector, and since when it is used."""

    machine: str
    version: str
    since_s: float
    text: str
    by: str
