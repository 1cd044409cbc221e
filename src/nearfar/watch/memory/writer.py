"""What is written within one transaction: windows with the state that follows from them, alarms, events, sound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from nearfar.errors import InputError
from nearfar.watch.alarm import AlarmCause, Status, Transition
from nearfar.watch.events import AlarmTransition, Event, FloodChange, ScoredWindow
from nearfar.watch.memory.rows import MachineRow, event_values
from nearfar.watch.memory.schema import ALARMS, AUDIO, EVENTS, MACHINES, SITE, SLOT_S, STREAMS, WINDOWS

FLOOD = "flood"
"""The key of :data:`SITE` that says whether there is a flood of alarms."""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A recording or continuous sound, and how far it is scored.

    Attributes:
        machine: whose sound it is.
        stream: SHA-256 of the file, or a name of the continuous sound.
        name: to be shown, such as the file's.
        size, changed_ns: of the file; 0 without.
        taken_s: when it was taken, in seconds since 1970.
        next: the first sample of the next window.
        finished: whether there is no next window.
    """

    machine: str
    stream: str
    name: str
    size: int = 0
    changed_ns: int = 0
    taken_s: float = 0.0
    next: int = 0
    finished: bool = False


class Writer:
    """Writes within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.events: list[Event] = []
        """The events that were added, with their numbers."""

    # --- machines and windows ---

    def machine(self, name: str) -> MachineRow:
        """The row of a machine; raises an InputError if there is none."""
        row = self._connection.execute(select(MACHINES).where(MACHINES.c.machine == name)).mappings().first()
        if row is None:
            raise unknown_machine(name)
        return MachineRow.of(row)

    def register(self, name: str) -> None:
        """Make the row of a machine, if there is none."""
        if self._connection.execute(select(MACHINES.c.machine).where(MACHINES.c.machine == name)).first() is None:
            self._connection.execute(insert(MACHINES).values(MachineRow.new(name).values()))

    def save(self, row: MachineRow) -> None:
        """Replace the row of a machine."""
        self._connection.execute(update(MACHINES).where(MACHINES.c.machine == row.machine).values(row.values()))

    def add_window(self, window: ScoredWindow, stream: str, begin: int) -> None:
        """Add a window; ``begin`` is its first sample in the stream."""
        self._connection.execute(
            insert(WINDOWS).values(
                machine=window.machine,
                number=window.window,
                stream=stream,
                begin=begin,
                begin_s=window.begin_s,
                seconds=window.seconds,
                slot=int(window.begin_s // SLOT_S),
                score=window.score,
                threshold=window.threshold,
                level=window.level,
                anomalous=window.anomalous,
                checks=",".join(window.checks),
            )
        )

    def save_stream(self, row: StreamRow) -> None:
        """Add or replace the row of a stream."""
        values = {name: getattr(row, name) for name in StreamRow.__slots__}
        own = (STREAMS.c.machine == row.machine) & (STREAMS.c.stream == row.stream)
        if not self._connection.execute(update(STREAMS).where(own).values(values)).rowcount:
            self._connection.execute(insert(STREAMS).values(values))

    # --- events and alarms ---

    def add_event(self, event: Event) -> Event:
        """Add an event; returns it with its number."""
        result = self._connection.execute(insert(EVENTS).values(event_values(event)))
        assert result.inserted_primary_key is not None
        numbered = replace(event, number=result.inserted_primary_key[0])
        self.events.append(numbered)
        return numbered

    def add_transitions(
        self,
        row: MachineRow,
        transitions: Iterable[Transition],
        time_s: float,
        *,
        by: str = "",
        comment: str = "",
        in_flood: bool = False,
    ) -> tuple[AlarmTransition, ...]:
        """Keep transitions of a machine's alarm, and open, change and close the alarm accordingly.

        ``row.alarm`` is changed; the row is not saved.
        """
        return tuple(self._transition(row, entry, time_s, by, comment, in_flood) for entry in transitions)

    def _transition(
        self, row: MachineRow, transition: Transition, time_s: float, by: str, comment: str, in_flood: bool
    ) -> AlarmTransition:
        if transition.after is Status.UNACKNOWLEDGED and row.alarm is None:
            row.alarm = self._open_alarm(row, time_s)
        number = row.alarm
        if number is not None:
            closed = transition.after in (Status.NORMAL, Status.SUPPRESSED, Status.OUT_OF_SERVICE)
            changes: dict[str, Any] = {"status": transition.after.value}
            if closed:
                changes |= {"status": Status.NORMAL.value, "closed_s": time_s}
                row.alarm = None
            if transition.cause is AlarmCause.ACKNOWLEDGED:
                first = ALARMS.c.acknowledged_s
                changes |= {
                    "acknowledged_by": func.coalesce(func.nullif(ALARMS.c.acknowledged_by, ""), by),
                    "acknowledged_s": func.coalesce(first, time_s),
                }
            self._connection.execute(update(ALARMS).where(ALARMS.c.number == number).values(changes))
        evidence = row.evidence or {}
        event = self.add_event(
            AlarmTransition(
                time_s=time_s,
                machine=row.machine,
                alarm=number,
                before=transition.before,
                after=transition.after,
                cause=transition.cause,
                by=by,
                comment=comment,
                reason=evidence.get("reason", "") if number is not None else "",
                level=evidence.get("level") if number is not None else None,
                in_flood=in_flood,
            )
        )
        assert isinstance(event, AlarmTransition)
        return event

    def _open_alarm(self, row: MachineRow, time_s: float) -> int:
        evidence = row.evidence
        assert evidence is not None, "an active condition has the window that made it so"
        result = self._connection.execute(
            insert(ALARMS).values(
                machine=row.machine,
                status=Status.UNACKNOWLEDGED.value,
                raised_s=time_s,
                acknowledged_by="",
                reason=evidence["reason"],
                score=evidence["score"],
                level=evidence["level"],
                highest_level=evidence["level"],
                version=evidence["version"],
                audio_until=0,
            )
        )
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])

    def raise_highest(self, alarm: int, level: float) -> None:
        """Keep the level of an alarm's window, if it is the highest so far."""
        own = (ALARMS.c.number == alarm) & (ALARMS.c.highest_level < level)
        self._connection.execute(update(ALARMS).where(own).values(highest_level=level))

    def alarms_since(self, time_s: float) -> int:
        """How many alarms were raised since then."""
        query = select(func.count()).select_from(ALARMS).where(ALARMS.c.raised_s > time_s)
        return int(self._connection.execute(query).scalar_one())

    def set_feedback(self, alarm: int, feedback: str | None) -> None:
        """Keep what an operator said about an alarm."""
        self._connection.execute(update(ALARMS).where(ALARMS.c.number == alarm).values(feedback=feedback))

    # --- sound ---

    def keep_audio_until(self, alarm: int, window: int) -> None:
        """Keep the sound of an alarm up to a window."""
        own = ALARMS.c.number == alarm
        self._connection.execute(update(ALARMS).where(own).values(audio_until=window))

    def audio_until(self, alarm: int) -> int:
        """The number of the last window whose sound is kept of an alarm; 0 before any is."""
        query = select(ALARMS.c.audio_until).where(ALARMS.c.number == alarm)
        return int(self._connection.execute(query).scalar_one())

    def add_audio(
        self, alarm: int, window: int, begin_s: float, seconds: float, level: float | None, flac: bytes
    ) -> None:
        """Add a window to the sound of an alarm, if it is not there."""
        known = select(AUDIO.c.part).where(AUDIO.c.alarm == alarm, AUDIO.c.window == window)
        if self._connection.execute(known).first() is not None:
            return
        last = self._connection.execute(select(func.max(AUDIO.c.part)).where(AUDIO.c.alarm == alarm)).scalar()
        self._connection.execute(
            insert(AUDIO).values(
                alarm=alarm,
                part=0 if last is None else last + 1,
                window=window,
                begin_s=begin_s,
                seconds=seconds,
                level=level,
                size=len(flac),
                flac=flac,
            )
        )

    def limit_audio(self, most_bytes: int) -> None:
        """Remove the sound of the oldest alarms until the rest has at most so many bytes."""
        total = int(self._connection.execute(select(func.coalesce(func.sum(AUDIO.c.size), 0))).scalar_one())
        while total > most_bytes:
            oldest = (
                select(AUDIO.c.alarm, AUDIO.c.part, AUDIO.c.size).order_by(AUDIO.c.alarm, AUDIO.c.part).limit(1)
            )
            alarm, part, size = self._connection.execute(oldest).one()
            self._connection.execute(delete(AUDIO).where(AUDIO.c.alarm == alarm, AUDIO.c.part == part))
            total -= size

    # --- the site ---

    def flood(self) -> bool:
        """Whether there is a flood of alarms."""
        value = self._connection.execute(select(SITE.c.value).where(SITE.c.key == FLOOD)).scalar()
        return bool(value)

    def set_flood(self, change: FloodChange) -> None:
        """Begin or end a flood of alarms."""
        self._connection.execute(delete(SITE).where(SITE.c.key == FLOOD))
        self._connection.execute(insert(SITE).values(key=FLOOD, value=change.active))
        self.add_event(change)


def unknown_machine(name: str) -> InputError:
    """The error about a machine that is not in the memory."""
    return InputError(
        "machine",
        found=f"{name!r}",
        expected="a machine of the configuration that is watched",
        remedy="Correct the name",
    )
