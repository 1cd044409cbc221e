"""What happens while machines are watched: the events that are kept and that sinks receive."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from nearfar.watch.alarm import AlarmCause, Status
from nearfar.watch.health import Finding, Health


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        number: of the event in this memory, counted from 1; a sink that receives a number again has received that
            event before. 0 for scored windows, which are not delivered again.
        time_s: when it happened, in seconds since 1970.
        machine: its name in the configuration; empty for events of the whole site.
    """

    kind: ClassVar[str]
    number: int = 0
    time_s: float
    machine: str

    def to_json(self) -> dict[str, Any]:
        """The same as dictionaries, lists, text, numbers and None, with the ``kind``."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredWindow(Event):
    """A window has been scored.

    Attributes:
        window: its number among those of the machine, from 1, without gaps.
        begin_s, seconds: when it began, in seconds since 1970, and how long it is.
        score: higher is more anomalous; None where the window could not be scored. ``threshold`` as the detector
            gives it.
        level: ``score`` relative to the threshold: 0 is the median of normal recordings, 1 the threshold.
        anomalous: as :attr:`nearfar.Score.anomalous`.
        checks: problems of the recording, as :attr:`nearfar.data.quality.Problem.check`.
        status: of the alarm after this window.
        late_s: from the end of the window to its being scored.
    """

    kind = "window"
    window: int
    begin_s: float
    seconds: float
    score: float | None
    threshold: float | None
    level: float | None
    anomalous: bool | None
    checks: tuple[str, ...]
    status: Status
    late_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmTransition(Event):
    """The status of a machine's alarm has changed.

    Attributes:
        alarm: the number of the alarm, or None where no alarm is open (a normal machine is shelved).
        before, after, cause: see :mod:`nearfar.watch.alarm`.
        by: who did it; empty for the program.
        comment: of who did it.
        reason: where the sound departs from normal, in a sentence, of the alarm.
        level: the level of the window that raised the alarm.
        in_flood: whether many alarms were raised at about this time (see :class:`FloodChange`): sinks that call
            people may leave this one out.
    """

    kind = "alarm"
    alarm: int | None
    before: Status
    after: Status
    cause: AlarmCause
    by: str = ""
    comment: str = ""
    reason: str = ""
    level: float | None = None
    in_flood: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodChange(Event):
    """More alarms were raised in a short time than anybody can act on, or that has ended.

    Attributes:
        active: whether it has begun.
        alarms: how many alarms were raised within ``minutes``.
    """

    kind = "flood"
    active: bool
    alarms: int
    minutes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthChange(Event):
    """The health of a machine's instrument has changed.

    Attributes:
        before, after: the gravest of the findings, before and now.
        findings: all that is wrong now.
    """

    kind = "health"
    before: Health
    after: Health
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftChange(Event):
    """Most windows have come to score high alike, or no longer do: "changed since it was fitted"."""

    kind = "drift"
    changed: bool
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteAdded(Event):
    """A person has written a note on a machine, or on an alarm of it."""

    kind = "note"
    alarm: int | None
    by: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorChanged(Event):
    """A machine is compared by another version of its detector from now on.

    Attributes:
        version: sixteen digits of a hash of the detector.
        text: what changed, such as ``added 3 normal recordings``.
        by: who changed it; empty if it was changed outside the watch.
    """

    kind = "detector"
    version: str
    text: str
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsMissed(Event):
    """Sound of a machine that could not be scored: the source stopped, or processing was too late.

    Attributes:
        begin_s, seconds: when it began, and how long it is.
        reason: why.
    """

    kind = "missed"
    begin_s: float
    seconds: float
    reason: str


EVENTS: dict[str, type[Event]] = {
    event.kind: event
    for event in (
        ScoredWindow,
        AlarmTransition,
        FloodChange,
        HealthChange,
        DriftChange,
        NoteAdded,
        DetectorChanged,
        WindowsMissed,
    )
}
"""All kinds of events, by name."""
