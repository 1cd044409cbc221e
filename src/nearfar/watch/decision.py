"""From scored windows to what is kept: the state of the machine, its alarm, its health and the sound of alarms.

A window's position, score and effects are written in one transaction. A watch that is killed at any moment
continues behind the last window that was written: none is lost, and none counts twice.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from nearfar.scores import Failure, Score
from nearfar.watch.alarm import AlarmRule, Status, Tick, Transition, WindowInput, step
from nearfar.watch.config import FloodTable, KeepTable
from nearfar.watch.cutting import CutWindow
from nearfar.watch.detectors import WatchedMachine
from nearfar.watch.events import DetectorChanged, FloodChange, HealthChange, ScoredWindow, WindowsMissed
from nearfar.watch.feed import Missed, StreamEnd
from nearfar.watch.health import Finding, WindowHealth, overall
from nearfar.watch.memory import StreamRow, Writer
from nearfar.watch.memory.rows import MachineRow

UNUSABLE = "unusable"
"""The check of a window that cannot be scored at all."""

SILENT_DB = -150.0
"""The level of a channel without any sound."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptWindow:
    """A window whose sound may become that of an alarm."""

    number: int
    begin_s: float
    seconds: float
    level: float | None
    samples: NDArray[np.float32]
    sample_rate_hz: int


@dataclass(slots=True)
class MachineContext:
    """What decisions about a machine need and no database holds.

    Attributes:
        name: in the configuration.
        watched: by which detector.
        rule: of its alarm.
        channels: where near, and far if there is one, are in samples.
        live: whether sound arrives all the time, read or not.
        findings: about its source, now.
        recent: its last windows.
    """

    name: str
    watched: WatchedMachine
    rule: AlarmRule
    channels: tuple[int, ...]
    live: bool
    findings: tuple[Finding, ...] = ()
    recent: deque[KeptWindow] = field(default_factory=deque)


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A window and its score, or why it has none."""

    machine: MachineContext
    window: CutWindow
    score: Score | Failure


@dataclass(frozen=True, slots=True, eq=False)
class EndedStream:
    """The end of a stream of a machine."""

    machine: MachineContext
    end: StreamEnd


class Decisions:
    """Writes scored windows with all that follows from them.

    Args:
        keep: what is kept for how long.
        flood: when alarms are a flood.
    """

    def __init__(self, keep: KeepTable, flood: FloodTable) -> None:
        self._keep, self._flood = keep, flood

    def add(
        self, writer: Writer, scored: Sequence[Scored | EndedStream], now_s: float
    ) -> tuple[list[ScoredWindow], dict[str, MachineRow]]:
        """Write windows, and ends of streams, in order; returns the windows, and the machines after them."""
        rows: dict[str, MachineRow] = {}
        windows = []
        for entry in scored:
            context = entry.machine
            row = rows.get(context.name) or writer.machine(context.name)
            rows[context.name] = row
            if isinstance(entry, Scored):
                windows.append(self._add_window(writer, row, entry, now_s))
            else:
                _end_stream(writer, row, entry.end, now_s)
        for row in rows.values():
            writer.save(row)
        return windows, rows

    def _add_window(self, writer: Writer, row: MachineRow, scored: Scored, now_s: float) -> ScoredWindow:
        context, window, score = scored.machine, scored.window, scored.score
        _use_version(writer, row, context.watched, now_s)
        if context.live and window.begin == 0:
            _miss_gap(writer, row, window, now_s)
        level = context.watched.level(score) if isinstance(score, Score) else None
        levels_db = channel_levels_db(window.samples, context.channels)
        was_active = row.state.active
        row.state, transitions = step(row.state, WindowInput(level, levels_db["near"]), now_s, context.rule)
        row.windows += 1
        if row.state.active and not was_active:
            row.evidence = _evidence(score, level, context.watched)
        health = _window_health(row, scored, levels_db)
        event = _event(row, scored, level, now_s)
        writer.add_window(event, window.stream, window.begin)
        if not context.live:
            writer.save_stream(_stream_row(context.name, window, now_s))
        self._transitions(writer, row, transitions, window.end_s)
        set_health(writer, row, context, health, window.end_s)
        if not row.state.active and row.alarm is None:
            row.evidence = None
        row.last = replace(event, status=row.state.status)
        self._keep_sound(writer, row, context, scored, level)
        return row.last

    def _transitions(
        self, writer: Writer, row: MachineRow, transitions: Sequence[Transition], time_s: float
    ) -> None:
        for transition in transitions:
            in_flood = False
            opens = transition.after is Status.UNACKNOWLEDGED and row.alarm is None
            if opens:
                alarms = 1 + writer.alarms_since(time_s - 60 * self._flood.minutes)
                in_flood = writer.flood()
                if alarms >= self._flood.alarms and not in_flood:
                    writer.set_flood(self._flood_change(time_s, alarms, active=True))
                    in_flood = True
            writer.add_transitions(row, [transition], time_s, in_flood=in_flood)

    def tick(self, writer: Writer, row: MachineRow, context: MachineContext, now_s: float) -> None:
        """Write what follows from the passing of time, and the health of the source."""
        row.state, transitions = step(row.state, Tick(), now_s, context.rule)
        self._transitions(writer, row, transitions, now_s)
        health = WindowHealth.model_validate(row.health_state)
        set_health(writer, row, context, health, now_s)

    def end_flood(self, writer: Writer, now_s: float) -> None:
        """End a flood when fewer than half as many alarms were raised as began it."""
        alarms = writer.alarms_since(now_s - 60 * self._flood.minutes)
        if writer.flood() and 2 * alarms < self._flood.alarms:
            writer.set_flood(self._flood_change(now_s, alarms, active=False))

    def _flood_change(self, time_s: float, alarms: int, *, active: bool) -> FloodChange:
        return FloodChange(time_s=time_s, machine="", active=active, alarms=alarms, minutes=self._flood.minutes)

    def _keep_sound(
        self, writer: Writer, row: MachineRow, context: MachineContext, scored: Scored, level: float | None
    ) -> None:
        window, recent, keep = scored.window, context.recent, self._keep
        own = KeptWindow(row.windows, window.begin_s, window.seconds, level, window.samples, window.sample_rate_hz)
        recent.append(own)
        before = math.ceil(keep.before_seconds / window.seconds)
        while len(recent) > before + 1:
            recent.popleft()
        if row.alarm is None:
            return
        if level is not None:
            writer.raise_highest(row.alarm, level)
        until = writer.audio_until(row.alarm)
        kept = [own] if own.number <= until else []
        if until == 0:  # it has just been raised
            writer.keep_audio_until(row.alarm, own.number + math.ceil(keep.after_seconds / window.seconds))
            kept = list(recent)
        for entry in kept:
            there = [channel for channel in context.channels if channel < len(entry.samples)] or [0]
            flac = encoded(entry.samples[there], entry.sample_rate_hz)
            writer.add_audio(row.alarm, entry.number, entry.begin_s, entry.seconds, entry.level, flac)
        if kept:
            writer.limit_audio(keep.audio_bytes)


def set_health(
    writer: Writer, row: MachineRow, context: MachineContext, health: WindowHealth, time_s: float
) -> None:
    """Keep the health of a machine's instrument, with an event where findings come or go."""
    findings = (*context.findings, *health.findings())
    if row.state.status is Status.OUT_OF_SERVICE:
        findings += (Finding("service", "out of service"),)
    row.health_state = health.model_dump(mode="json")
    after = overall(findings)
    if {finding.check for finding in findings} != {finding.check for finding in row.findings}:
        writer.add_event(
            HealthChange(time_s=time_s, machine=row.machine, before=row.health, after=after, findings=findings)
        )
    row.health, row.findings = after, findings


def add_missed(writer: Writer, context: MachineContext, missed: Missed, now_s: float) -> None:
    """Keep that sound was not scored because processing was too late."""
    windows = "1 window" if missed.windows == 1 else f"{missed.windows} windows"
    reason = f"{windows} were not scored, as this computer is too slow for all its machines"
    writer.add_event(
        WindowsMissed(
            time_s=now_s,
            machine=context.name,
            begin_s=missed.begin_s,
            seconds=missed.seconds,
            reason=reason,
        )
    )


def channel_levels_db(samples: NDArray[np.float32], channels: Sequence[int]) -> dict[str, float]:
    """The level of near, and of far where there is one, of (channels, samples), relative to full scale."""
    names = dict(zip(("near", "far"), channels, strict=False))
    power = {
        name: float(np.var(samples[channel], dtype=np.float64)) if channel < len(samples) else 0.0
        for name, channel in names.items()
    }
    return {name: 10 * math.log10(value) if value > 1e-15 else SILENT_DB for name, value in power.items()}


def encoded(samples: NDArray[np.float32], sample_rate_hz: int) -> bytes:
    """A FLAC file of (channels, samples), 24 bits; of 16-bit recordings it holds every bit."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, sample_rate_hz, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def _use_version(writer: Writer, row: MachineRow, watched: WatchedMachine, now_s: float) -> None:
    if row.version != watched.version:
        row.version = watched.version
        writer.add_event(
            DetectorChanged(time_s=now_s, machine=row.machine, version=watched.version, text=watched.text)
        )


def _miss_gap(writer: Writer, row: MachineRow, window: CutWindow, now_s: float) -> None:
    """Keep that there was no sound between the last window and the first of another stream."""
    if row.last is None:
        return
    end_s = row.last.begin_s + row.last.seconds
    if window.begin_s - end_s > 1.0:
        writer.add_event(
            WindowsMissed(
                time_s=now_s,
                machine=row.machine,
                begin_s=end_s,
                seconds=window.begin_s - end_s,
                reason="the source or the watch was stopped",
            )
        )


def _end_stream(writer: Writer, row: MachineRow, end: StreamEnd, now_s: float) -> None:
    writer.save_stream(
        StreamRow(row.machine, end.stream, end.name, end.size, end.changed_ns, now_s, 0, finished=True)
    )
    if end.error is not None:
        writer.add_event(
            WindowsMissed(time_s=now_s, machine=row.machine, begin_s=end.end_s, seconds=0.0, reason=end.error)
        )


def _stream_row(machine: str, window: CutWindow, now_s: float) -> StreamRow:
    return StreamRow(
        machine=machine,
        stream=window.stream,
        name=window.name,
        size=window.size,
        changed_ns=window.changed_ns,
        taken_s=now_s,
        next=window.next,
        finished=window.last,
    )


def _evidence(score: Score | Failure, level: float | None, watched: WatchedMachine) -> dict[str, Any]:
    assert isinstance(score, Score), "a window without a score makes no condition active"
    reason = "" if score.departure is None else score.departure.sentence
    if score.like is not None:
        reason = ", ".join(filter(None, [reason, score.like.words]))
    return {"score": score.to_json(), "level": level, "reason": reason, "version": watched.version}


def _window_health(row: MachineRow, scored: Scored, levels_db: dict[str, float]) -> WindowHealth:
    health = WindowHealth.model_validate(row.health_state)
    if row.state.off:
        return health
    return health.after(
        dict(_problems(scored.score)), levels_db, scored.window.seconds, scored.machine.watched.normal_db
    )


def _problems(score: Score | Failure) -> Iterator[tuple[str, str]]:
    if isinstance(score, Failure):
        yield UNUSABLE, str(score.error)
    else:
        for problem in score.quality:
            yield problem.check, problem.message


def _event(row: MachineRow, scored: Scored, level: float | None, now_s: float) -> ScoredWindow:
    window = scored.window
    score = scored.score if isinstance(scored.score, Score) else None
    return ScoredWindow(
        time_s=window.end_s,
        machine=row.machine,
        window=row.windows,
        begin_s=window.begin_s,
        seconds=window.seconds,
        score=None if score is None else score.score,
        threshold=None if score is None else score.threshold,
        level=level,
        anomalous=None if score is None else score.anomalous,
        checks=tuple(check for check, _ in _problems(scored.score)),
        status=row.state.status,
        late_s=now_s - window.end_s,
    )
