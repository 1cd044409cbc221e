"""Scores, alarms with every transition, notes, detectors and the sound of alarms, in one database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Select, func, insert, select, update

from nearfar.errors import InputError
from nearfar.watch.alarm import OPEN, Action, AlarmRule, Status, step
from nearfar.watch.events import AlarmTransition, DetectorChanged, Event, NoteAdded
from nearfar.watch.memory.connection import Database
from nearfar.watch.memory.rows import MachineRow, alarm_of, audio_of, event_of_row, note_of
from nearfar.watch.memory.schema import (
    ALARMS,
    AUDIO,
    EVENTS,
    MACHINES,
    SINK_POSITIONS,
    SLOT_S,
    STREAMS,
    SUMMARIES,
    WINDOWS,
    migrate,
)
from nearfar.watch.memory.thinning import Ages, thin
from nearfar.watch.memory.writer import StreamRow, Writer, unknown_machine
from nearfar.watch.records import AlarmRecord, AudioPart, DetectorVersion, MachineNow, NoteRecord, TrendPoint

WHOLE_TREND_S = 86_400.0
"""Trends of a longer time are made of ten minutes each; of a shorter one, of windows."""

Listener = Callable[[Sequence[Event]], None]


class Memory:
    """Scores, alarms with every transition, notes, detectors and the sound of alarms. Safe to use from threads.

    Where the database cannot be used now, methods raise :class:`~nearfar.watch.memory.MemoryUnavailableError` and
    have changed nothing.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Listener] = []

    @classmethod
    def open(cls, url: str | Path) -> Self:
        """Open a memory, or make it: the path of an SQLite file, or ``postgresql://user@host/database``.

        Raises:
            InputError: if it is no memory, or a later nearfar made it.
        """
        database = Database(str(url))
        try:
            with database.writing() as connection:
                migrate(connection, database.where)
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # --- what pages ask ---

    def machines(self) -> list[MachineNow]:
        """All machines as they are now, by name."""
        rows = self._all(select(MACHINES).order_by(MACHINES.c.machine))
        return [MachineRow.of(row).record() for row in rows]

    def machine(self, name: str) -> MachineNow:
        """One machine as it is now.

        Raises:
            InputError: if there is none of that name.
        """
        rows = self._all(select(MACHINES).where(MACHINES.c.machine == name))
        if not rows:
            raise unknown_machine(name)
        return MachineRow.of(rows[0]).record()

    def trend(self, machine: str, begin_s: float, end_s: float, points: int = 500) -> list[TrendPoint]:
        """Levels between two times, oldest first; the threshold is 1.

        Args:
            machine: its name in the configuration.
            begin_s, end_s: in seconds since 1970.
            points: neighbouring windows are joined until there are at most so many points.
        """
        windows, summaries = WINDOWS.c, SUMMARIES.c
        begin, end = int(begin_s // SLOT_S), int(end_s // SLOT_S)
        of_summaries = select(SUMMARIES).where(
            summaries.machine == machine, summaries.slot > begin - summaries.slots, summaries.slot <= end
        )
        within = (windows.machine == machine, windows.begin_s >= begin_s, windows.begin_s < end_s)
        if end_s - begin_s <= WHOLE_TREND_S:
            own = select(windows.begin_s, windows.seconds, windows.level, windows.anomalous).where(*within)
            found = [_point_of_window(row) for row in self._all(own)]
        else:
            own = (
                select(
                    windows.slot,
                    func.count().label("windows"),
                    func.count(windows.level).label("compared"),
                    func.count().filter(windows.anomalous).label("anomalous"),
                    func.min(windows.level).label("lowest"),
                    func.sum(windows.level).label("total"),
                    func.max(windows.level).label("highest"),
                )
                .where(*within)
                .group_by(windows.slot)
            )
            found = [_point_of_summary(row, 1) for row in self._all(own)]
        found += [_point_of_summary(row, row["slots"]) for row in self._all(of_summaries)]
        return _joined(sorted(found, key=lambda point: point.begin_s), begin_s, end_s, points)

    def alarms(
        self,
        machine: str | None = None,
        *,
        open_only: bool = False,
        begin_s: float | None = None,
        end_s: float | None = None,
        limit: int = 100,
    ) -> list[AlarmRecord]:
        """Alarms, the newest first, without their transitions.

        Args:
            machine: None for all.
            open_only: only those that are not closed; shelved ones are not closed.
            begin_s, end_s: only those that were raised between, in seconds since 1970.
            limit: at most so many.
        """
        query = _with_audio(select(ALARMS)).order_by(ALARMS.c.number.desc()).limit(limit)
        if machine is not None:
            query = query.where(ALARMS.c.machine == machine)
        if open_only:
            query = query.where(ALARMS.c.status.in_([*OPEN, Status.SHELVED]))
        if begin_s is not None:
            query = query.where(ALARMS.c.raised_s >= begin_s)
        if end_s is not None:
            query = query.where(ALARMS.c.raised_s < end_s)
        return [alarm_of(row) for row in self._all(query)]

    def alarm(self, number: int) -> AlarmRecord:
        """One alarm with its transitions.

        Raises:
            InputError: if there is none of that number.
        """
        rows = self._all(_with_audio(select(ALARMS)).where(ALARMS.c.number == number))
        if not rows:
            raise unknown_alarm(number)
        query = select(EVENTS).where(EVENTS.c.alarm == number, EVENTS.c.kind == AlarmTransition.kind)
        events = [event_of_row(row) for row in self._all(query.order_by(EVENTS.c.number))]
        return alarm_of(rows[0], tuple(event for event in events if isinstance(event, AlarmTransition)))

    def audio(self, alarm: int) -> list[AudioPart]:
        """The sound of an alarm, in order; empty if none is kept any more."""
        query = select(AUDIO).where(AUDIO.c.alarm == alarm).order_by(AUDIO.c.window)
        return [audio_of(row) for row in self._all(query)]

    def notes(self, machine: str | None = None, alarm: int | None = None, limit: int = 100) -> list[NoteRecord]:
        """Notes, the newest first; of one machine or one alarm."""
        query = _events_of(NoteAdded.kind, machine).order_by(EVENTS.c.number.desc()).limit(limit)
        if alarm is not None:
            query = query.where(EVENTS.c.alarm == alarm)
        return [note_of(row) for row in self._all(query)]

    def detector_versions(self, machine: str) -> list[DetectorVersion]:
        """The versions of a machine's detector, the newest first."""
        rows = self._all(_events_of(DetectorChanged.kind, machine).order_by(EVENTS.c.number.desc()))
        events = [event for event in map(event_of_row, rows) if isinstance(event, DetectorChanged)]
        return [DetectorVersion(machine, event.version, event.time_s, event.text, event.by) for event in events]

    def events(self, after: int = 0, limit: int = 100, *, machine: str | None = None) -> list[Event]:
        """Kept events with numbers above ``after``, in order: all kinds but scored windows."""
        query = select(EVENTS).where(EVENTS.c.number > after).order_by(EVENTS.c.number).limit(limit)
        if machine is not None:
            query = query.where(EVENTS.c.machine == machine)
        return [event_of_row(row) for row in self._all(query)]

    def last_event(self) -> int:
        """The number of the last event; 0 before the first."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.coalesce(func.max(EVENTS.c.number), 0))).scalar_one())

    def levels(self, machine: str, since_s: float, most: int) -> list[tuple[float, float | None]]:
        """Score and threshold of windows since then that can be compared, evenly thinned to at most so many."""
        windows = WINDOWS.c
        own = (windows.machine == machine, windows.begin_s >= since_s, windows.level.is_not(None))
        with self._database.reading() as connection:
            count = connection.execute(select(func.count()).select_from(WINDOWS).where(*own)).scalar_one()
            stride = max(1, -(-count // most))
            query = select(windows.score, windows.threshold).where(*own, windows.number % stride == 0)
            return [(row.score, row.threshold) for row in connection.execute(query.order_by(windows.number))]

    # --- what operators do ---

    def act(
        self,
        machine: str,
        action: Action,
        rule: AlarmRule,
        *,
        by: str,
        comment: str = "",
        time_s: float | None = None,
    ) -> tuple[AlarmTransition, ...]:
        """Apply an operator's action, or a signal from outside, to a machine's alarm.

        Args:
            machine: its name in the configuration.
            action: what was done.
            rule: of the machine.
            by: who did it.
            comment: of theirs.
            time_s: when, in seconds since 1970; default now.

        Returns:
            the transitions that it made, and those of timers that ended before.

        Raises:
            InputError: if the action does not fit the status, or there is no such machine.
        """
        now_s = time.time() if time_s is None else time_s
        with self.writing() as writer:
            row = writer.machine(machine)
            row.state, transitions = step(row.state, action, now_s, rule)
            events = writer.add_transitions(row, transitions, now_s, by=by, comment=comment)
            writer.save(row)
        return events

    def add_note(
        self, machine: str, text: str, *, by: str, alarm: int | None = None, time_s: float | None = None
    ) -> NoteRecord:
        """Write a note on a machine, or on an alarm of it.

        Raises:
            InputError: if there is no such machine or alarm of it, or the text is empty.
        """
        if not text.strip():
            raise InputError("note", found="no text", expected="a note", remedy="Write it")
        with self.writing() as writer:
            writer.machine(machine)
            if alarm is not None and self.alarm(alarm).machine != machine:
                raise unknown_alarm(alarm)
            note = NoteAdded(
                time_s=time.time() if time_s is None else time_s, machine=machine, alarm=alarm, by=by, text=text
            )
            number = writer.add_event(note).number
        return NoteRecord(number, note.time_s, machine, alarm, by, text)

    # --- what the watch does ---

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """A transaction: all that is written in it is kept, or after an error nothing."""
        with self._database.writing() as connection:
            writer = Writer(connection)
            yield writer
        if writer.events:
            for listener in self._listeners:
                listener(writer.events)

    def listen(self, listener: Listener) -> None:
        """Call a function with the events of each transaction of this object, once they are kept."""
        self._listeners.append(listener)

    def register(self, machines: Iterable[str]) -> None:
        """Make rows for machines that have none."""
        with self.writing() as writer:
            for name in machines:
                writer.register(name)

    def stream(self, machine: str, stream: str) -> StreamRow | None:
        """A recording or continuous sound that was taken before; None if it was not."""
        rows = self._all(select(STREAMS).where(STREAMS.c.machine == machine, STREAMS.c.stream == stream))
        return StreamRow(**rows[0]) if rows else None

    def is_known(self, machine: str, name: str, size: int, changed_ns: int) -> bool:
        """Whether a file of that name, size and time was taken from a machine's source whole."""
        table = STREAMS.c
        own = (table.machine == machine, table.name == name, table.size == size, table.changed_ns == changed_ns)
        return bool(self._all(select(table.stream).where(*own, table.finished).limit(1)))

    def delivered(self, sink: str) -> int | None:
        """The number of the last event that a sink has delivered; None of a new sink."""
        rows = self._all(select(SINK_POSITIONS.c.delivered).where(SINK_POSITIONS.c.sink == sink))
        return rows[0]["delivered"] if rows else None

    def set_delivered(self, sink: str, number: int) -> None:
        """Keep the number of the last event that a sink has delivered."""
        with self._database.writing() as connection:
            own = SINK_POSITIONS.c.sink == sink
            if not connection.execute(update(SINK_POSITIONS).where(own).values(delivered=number)).rowcount:
                connection.execute(insert(SINK_POSITIONS).values(sink=sink, delivered=number))

    def thin(self, now_s: float, ages: Ages) -> None:
        """Replace old windows by summaries; see :mod:`nearfar.watch.memory.thinning`."""
        with self._database.writing() as connection:
            thin(connection, now_s, ages)

    def _all(self, query: Select[Any]) -> list[Any]:
        with self._database.reading() as connection:
            return list(connection.execute(query).mappings())


def unknown_alarm(number: int) -> InputError:
    """The error about an alarm that does not exist."""
    return InputError("alarm", found=str(number), expected="the number of an alarm", remedy="Correct it")


def _events_of(kind: str, machine: str | None) -> Select[Any]:
    query = select(EVENTS).where(EVENTS.c.kind == kind)
    return query if machine is None else query.where(EVENTS.c.machine == machine)


def _with_audio(query: Select[Any]) -> Select[Any]:
    """Alarms with the seconds of sound that are kept of each."""
    seconds = select(func.sum(AUDIO.c.seconds)).where(AUDIO.c.alarm == ALARMS.c.number).scalar_subquery()
    return query.add_columns(seconds.label("audio_s"))


def _point_of_window(row: Any) -> TrendPoint:
    level = row["level"]
    compared = int(level is not None)
    end_s = row["begin_s"] + row["seconds"]
    return TrendPoint(row["begin_s"], end_s, 1, compared, int(bool(row["anomalous"])), level, level, level)


def _point_of_summary(row: Any, slots: int) -> TrendPoint:
    begin_s, compared = float(row["slot"] * SLOT_S), row["compared"]
    mean = row["total"] / compared if compared else None
    counts = row["windows"], compared, row["anomalous"]
    return TrendPoint(begin_s, begin_s + slots * SLOT_S, *counts, row["lowest"], mean, row["highest"])


def _joined(found: Sequence[TrendPoint], begin_s: float, end_s: float, points: int) -> list[TrendPoint]:
    """Points in order, joined where more than one would lie in one of ``points`` equal intervals."""
    if len(found) <= points:
        return list(found)
    width = (end_s - begin_s) / points
    groups: dict[int, list[TrendPoint]] = {}
    for point in found:
        groups.setdefault(min(points - 1, max(0, int((point.begin_s - begin_s) / width))), []).append(point)
    return [_joined_point(group) for group in groups.values()]


def _joined_point(group: Sequence[TrendPoint]) -> TrendPoint:
    compared = sum(point.compared for point in group)
    total = sum(point.mean * point.compared for point in group if point.mean is not None)
    return TrendPoint(
        begin_s=group[0].begin_s,
        end_s=max(point.end_s for point in group),
        windows=sum(point.windows for point in group),
        compared=compared,
        anomalous=sum(point.anomalous for point in group),
        lowest=min((point.lowest for point in group if point.lowest is not None), default=None),
        mean=total / compared if compared else None,
        highest=max((point.highest for point in group if point.highest is not None), default=None),
    )
