"""Rows of the database as records, and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import RowMapping

from nearfar.watch.alarm import AlarmCause, AlarmState, Status
from nearfar.watch.events import EVENTS, AlarmTransition, Event, NoteAdded, ScoredWindow
from nearfar.watch.health import Finding, Health
from nearfar.watch.records import AlarmRecord, AudioPart, MachineNow, NoteRecord


def state_of(tree: dict[str, Any]) -> AlarmState:
    """The state of an alarm from its JSON."""
    return AlarmState(**{**tree, "status": Status(tree["status"]), "recent": tuple(tree["recent"])})


def findings_of(trees: list[dict[str, Any]]) -> tuple[Finding, ...]:
    """Findings from their JSON."""
    return tuple(Finding(**tree) for tree in trees)


_READ: dict[str, Any] = {
    "status": Status,
    "cause": AlarmCause,
    "checks": tuple,
    "findings": findings_of,
}
"""How fields of events are made of their JSON; those of ``before`` and ``after`` depend on the kind."""


def event_of(kind: str, tree: dict[str, Any]) -> Event:
    """An event from the JSON of its fields."""
    read = dict(_READ)
    if kind in ("alarm", "health"):
        read["before"] = read["after"] = Status if kind == AlarmTransition.kind else Health
    return EVENTS[kind](**{key: read[key](value) if key in read else value for key, value in tree.items()})


def event_values(event: Event) -> dict[str, Any]:
    """The columns of an event that has no number yet."""
    body = {key: value for key, value in asdict(event).items() if key not in ("number", "time_s", "machine")}
    return {
        "kind": event.kind,
        "time_s": event.time_s,
        "machine": event.machine,
        "alarm": getattr(event, "alarm", None),
        "body": body,
    }


def event_of_row(row: RowMapping) -> Event:
    """An event with its number."""
    own = {"number": row["number"], "time_s": row["time_s"], "machine": row["machine"]}
    return event_of(row["kind"], {**row["body"], **own})


@dataclass(slots=True)
class MachineRow:
    """All that the next window of a machine depends on; the columns of its row.

    Attributes:
        machine: its name in the configuration.
        alarm: the number of the open or shelved alarm.
        state: of the alarm.
        evidence: of the window that made the condition active: ``score``, ``level``, ``reason``, ``version``.
        health, findings, health_state: of the instrument; see :mod:`nearfar.watch.health`.
        drift: the message of drift.
        last: the last window.
        windows: how many have been scored.
        version: of the detector.
    """

    machine: str
    alarm: int | None
    state: AlarmState
    evidence: dict[str, Any] | None
    health: Health
    findings: tuple[Finding, ...]
    health_state: dict[str, Any]
    drift: str | None
    last: ScoredWindow | None
    windows: int
    version: str

    @classmethod
    def new(cls, machine: str) -> MachineRow:
        """A machine before its first window."""
        return cls(machine, None, AlarmState(), None, Health.GOOD, (), {}, None, None, 0, "")

    @classmethod
    def of(cls, row: RowMapping) -> MachineRow:
        """From a row of the table."""
        last = row["last"]
        return cls(
            **{
                **row,
                "state": state_of(row["state"]),
                "health": Health(row["health"]),
                "findings": findings_of(row["findings"]),
                "last": None if last is None else _window(last),
            }
        )

    def values(self) -> dict[str, Any]:
        """The columns."""
        tree = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **tree,
            "state": asdict(self.state),
            "health": self.health.value,
            "findings": [asdict(finding) for finding in self.findings],
            "last": None if self.last is None else asdict(self.last),
        }

    def record(self) -> MachineNow:
        """What pages show."""
        return MachineNow(
            machine=self.machine,
            alarm=self.alarm,
            state=self.state,
            health=self.health,
            findings=self.findings,
            drift=self.drift,
            last=self.last,
            windows=self.windows,
            version=self.version,
        )


def _window(tree: dict[str, Any]) -> ScoredWindow:
    event = event_of(ScoredWindow.kind, tree)
    assert isinstance(event, ScoredWindow)
    return event


def alarm_of(row: RowMapping, transitions: tuple[AlarmTransition, ...] = ()) -> AlarmRecord:
    """An alarm from its row, with ``audio_s`` beside the columns of the table."""
    names = {field.name for field in fields(AlarmRecord)} - {"transitions"}
    tree = {key: value for key, value in row.items() if key in names}
    return AlarmRecord(
        **{**tree, "status": Status(tree["status"]), "audio_s": tree["audio_s"] or 0.0}, transitions=transitions
    )


def audio_of(row: RowMapping) -> AudioPart:
    """A part of the sound of an alarm from its row."""
    return AudioPart(**{field.name: row[field.name] for field in fields(AudioPart)})


def note_of(row: RowMapping) -> NoteRecord:
    """A note from its event."""
    event = event_of_row(row)
    assert isinstance(event, NoteAdded)
    return NoteRecord(event.number, event.time_s, event.machine, event.alarm, event.by, event.text)
