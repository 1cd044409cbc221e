"""The memory of a watch: one SQLite file, or a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from nearfar.watch.alarm import Action, AlarmRule
from nearfar.watch.events import AlarmTransition, Event
from nearfar.watch.records import AlarmRecord, AudioPart, DetectorVersion, MachineNow, NoteRecord, TrendPoint


class Memory:
    """Scores, alarms with every transition, notes, detectors and the sound of alarms. Safe to use from threads."""

    @classmethod
    def open(cls, url: str) -> Self:
        """Open or make the memory: a path of an SQLite file, or ``postgresql://...``."""
        raise NotImplementedError

    def close(self) -> None:
        """Close connections."""
        raise NotImplementedError

    # what pages ask

    def machines(self) -> list[MachineNow]:
        """All machines as they are now, by name."""
        raise NotImplementedError

    def machine(self, name: str) -> MachineNow:
        """One machine; raises an InputError if there is none of that name."""
        raise NotImplementedError

    def trend(self, machine: str, begin_s: float, end_s: float, points: int = 500) -> list[TrendPoint]:
        """Levels between two times, thinned to at most about that many points, oldest first."""
        raise NotImplementedError

    def alarms(
        self,
        machine: str | None = None,
        *,
        open_only: bool = False,
        begin_s: float | None = None,
        end_s: float | None = None,
        limit: int = 100,
    ) -> list[AlarmRecord]:
        """Alarms raised between two times, the newest first, without their transitions."""
        raise NotImplementedError

    def alarm(self, number: int) -> AlarmRecord:
        """One alarm with its transitions; raises an InputError if there is none of that number."""
        raise NotImplementedError

    def audio(self, alarm: int) -> list[AudioPart]:
        """The sound of an alarm that is kept, in order; empty if the ring has overwritten it."""
        raise NotImplementedError

    def notes(self, machine: str | None = None, alarm: int | None = None, limit: int = 100) -> list[NoteRecord]:
        """Notes, the newest first."""
        raise NotImplementedError

    def detector_versions(self, machine: str) -> list[DetectorVersion]:
        """The versions of a machine's detector, the newest first."""
        raise NotImplementedError

    def events(self, after: int = 0, limit: int = 100) -> Sequence[Event]:
        """Kept events with numbers above ``after``, in order (all kinds but scored windows)."""
        raise NotImplementedError

    # what operators do

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
        """Apply an operator's action to a machine's alarm; raises an InputError if it does not fit the status."""
        raise NotImplementedError

    def add_note(
        self, machine: str, text: str, *, by: str, alarm: int | None = None, time_s: float | None = None
    ) -> NoteRecord:
        """Write a note on a machine, or on an alarm of it."""
        raise NotImplementedError
