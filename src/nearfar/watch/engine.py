"""The watch itself: takes windows of all machines, scores them, writes the results, and notifies the sinks."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nearfar.errors import NearfarError
from nearfar.scores import Failure, Score
from nearfar.thresholds.drift import FEWEST, find_drift
from nearfar.watch.config import MachineTable, WatchConfig
from nearfar.watch.cutting import CutWindow
from nearfar.watch.decision import Decisions, EndedStream, MachineContext, Scored, add_missed
from nearfar.watch.detectors import WatchedDetectors, WatchedMachine
from nearfar.watch.events import DriftChange, ScoredWindow
from nearfar.watch.feed import MISSING_WINDOWS, Cutting, Feed, StreamEnd, most_waiting
from nearfar.watch.health import Finding
from nearfar.watch.memory import Ages, Memory, MemoryUnavailableError
from nearfar.watch.memory.rows import MachineRow

logger = logging.getLogger(__name__)

BATCH = 32
"""Windows that are scored and written together, at most."""

TICK_S, THIN_S = 1.0, 3600.0
"""From check to check of timers and sources, and from thinning to thinning, in seconds."""

DRIFT_EVERY_S, DRIFT_OVER_S, DRIFT_WINDOWS = 3600.0, 86_400.0, 500
"""Drift is looked for every hour of sound, over a day, in at most so many windows."""

LATE_S = 30.0
"""A live machine is late if its windows are scored so long after their end."""

WAIT_S, LONGEST_WAIT_S = 0.5, 10.0
"""How long to wait for a database that cannot be written: twice as long each time."""

Windows = Callable[[Sequence[ScoredWindow]], None]


def _nothing(windows: Sequence[ScoredWindow]) -> None:
    """Take no notice of windows."""


class Watch:
    """Watches machines until it is stopped or their sources end.

    Args:
        config: of the machines.
        base: the folder that its paths are relative to.
        memory: where everything is kept.
        clock: the time in seconds since 1970.

    Raises:
        InputError: if a detector or source cannot be used.
    """

    def __init__(
        self,
        config: WatchConfig,
        base: Path,
        memory: Memory,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._base, self._memory = config, base, memory
        self._on_windows: Windows = _nothing
        self._clock = clock
        self._decisions = Decisions(config.keep, config.flood)
        self._detectors = WatchedDetectors()
        self._wake = threading.Event()
        self._contexts: dict[str, MachineContext] = {}
        self._feeds: dict[str, Feed] = {}
        self._active: dict[str, bool] = {}
        self._late_s: dict[str, float] = {}
        self._drift_due: dict[str, float] = {}
        self._unavailable = False
        for name, table in config.machines.items():
            self._add_machine(name, table)
        memory.register(config.machines)

    def run(self, stop: threading.Event, on_windows: Windows = _nothing) -> None:
        """Watch until ``stop`` is set, or all sources have ended and their sound is scored.

        What waits to be scored when it is set is still scored.

        Args:
            stop: may be set from a signal handler or another thread; :meth:`stop_soon` makes it seen at once.
            on_windows: called with scored windows once they are kept; all else is read from the memory.
        """
        self._on_windows = on_windows
        for feed in self._feeds.values():
            feed.start()
        next_tick = next_thin = time.monotonic()
        try:
            while not stop.is_set():
                worked = self._step(stop)
                if all(feed.finished for feed in self._feeds.values()):
                    break
                if time.monotonic() >= next_tick:
                    self._tick()
                    next_tick = time.monotonic() + TICK_S
                if time.monotonic() >= next_thin:
                    self._thin()
                    next_thin = time.monotonic() + THIN_S
                if not worked:
                    self._wake.wait(TICK_S / 2)
                    self._wake.clear()
        finally:
            for feed in self._feeds.values():
                feed.stop()
        for feed in self._feeds.values():
            feed.join(1.0)
        while self._step(None):
            pass
        self._tick()

    def stop_soon(self) -> None:
        """Interrupt the waiting of the watch, so that it stops."""
        self._wake.set()

    # --- setting up ---

    def _add_machine(self, name: str, table: MachineTable) -> None:
        watched = self._detectors.machine(self._base / table.detector, table.machine)
        kind = table.entry("source")
        audio = watched.detector.recipe.audio
        places = {"near": audio.near_channel, "far": audio.far_channel}
        given = {
            "near": places["near"] if table.near is None else table.near,
            "far": places["far"] if table.far is None else table.far,
        }
        used = ("near", "far") if "far" in watched.normal_db or table.far is not None else ("near",)
        missing_s = MISSING_WINDOWS * watched.window_s if kind.live else None
        if table.expect_every_minutes is not None:
            missing_s = 60 * table.expect_every_minutes
        cutting = Cutting(
            window_s=watched.window_s,
            hop_s=watched.hop_s,
            channels=tuple(given[channel] for channel in used),
            places=tuple(places[channel] for channel in used),
            live=kind.live,
            most_waiting=most_waiting(self._config.keep.waiting_seconds, watched.hop_s),
            missing_after_s=missing_s,
        )
        source = kind.build(table.settings_of("source"), self._base)
        self._feeds[name] = Feed(name, source, cutting, self._memory, self._wake.set)
        self._contexts[name] = MachineContext(name, watched, self._config.rule(name), cutting.places, cutting.live)

    # --- scoring ---

    def _step(self, stop: threading.Event | None) -> bool:
        """Score and write some of what waits; returns whether there was any."""
        taken = self._take()
        if not taken:
            return False
        scored: list[Scored | EndedStream] = []
        for context, items in taken:
            self._reload(context)
            scored += self._score(context, items)
        self._write(scored, stop)
        return True

    def _take(self) -> list[tuple[MachineContext, list[CutWindow | StreamEnd]]]:
        """Some of what waits, of every machine alike."""
        waiting = [(self._contexts[name], feed) for name, feed in self._feeds.items()]
        share = max(1, BATCH // max(1, sum(feed.waiting_s > 0 for _, feed in waiting)))
        taken = ((context, feed.take(share)) for context, feed in waiting)
        return [(context, items) for context, items in taken if items]

    def _score(
        self, context: MachineContext, items: Sequence[CutWindow | StreamEnd]
    ) -> list[Scored | EndedStream]:
        windows = [item for item in items if isinstance(item, CutWindow)]
        scores = dict(zip(map(id, windows), self._scores(context, windows), strict=True)) if windows else {}
        return [
            Scored(context, item, scores[id(item)]) if isinstance(item, CutWindow) else EndedStream(context, item)
            for item in items
        ]

    def _scores(self, context: MachineContext, windows: Sequence[CutWindow]) -> list[Score | Failure]:
        """The scores of windows; those that may raise an alarm are explained."""
        watched = context.watched
        scores = watched.scores(windows, explain=False)
        if self._active.get(context.name, False):
            return scores
        for index, score in enumerate(scores):
            if isinstance(score, Score) and (watched.level(score) or 0.0) >= context.rule.raise_level:
                scores[index] = watched.scores([windows[index]], explain=True)[0]
        return scores

    def _reload(self, context: MachineContext) -> None:
        """Use the detector of a machine as it is now, if its folder has changed."""
        table = self._config.machines[context.name]
        folder = self._base / table.detector
        if self._detectors.has_changed(folder) or context.watched.detector is not self._detectors.of(folder):
            try:
                context.watched = self._detectors.machine(folder, table.machine)
            except NearfarError as error:
                logger.warning("%s The earlier detector is used.", error)

    # --- writing ---

    def _write(self, scored: Sequence[Scored | EndedStream], stop: threading.Event | None) -> None:
        """Write in one transaction; wait where the database cannot be written, as nothing may be lost."""
        contexts = {entry.machine.name: entry.machine for entry in scored}
        recent = {name: deque(context.recent) for name, context in contexts.items()}
        wait_s = WAIT_S
        while True:
            try:
                now_s = self._clock()
                with self._memory.writing() as writer:
                    windows, rows = self._decisions.add(writer, scored, now_s)
                break
            except MemoryUnavailableError as error:
                for name, context in contexts.items():
                    context.recent = deque(recent[name])
                if not self._unavailable:
                    logger.warning("%s", error)
                self._unavailable = True
                if stop is None or stop.wait(wait_s):
                    raise
                wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
        self._unavailable = False
        for name, row in rows.items():
            self._active[name] = row.state.active
            if row.last is not None:
                self._late_s[name] = row.last.late_s
        self._on_windows(windows)
        try:
            self._look_for_drift(rows)
        except MemoryUnavailableError as error:
            logger.warning("%s", error)

    def _look_for_drift(self, rows: Mapping[str, MachineRow]) -> None:
        for name, known in rows.items():
            last = known.last
            if last is None or last.begin_s < self._drift_due.get(name, 0.0):
                continue
            self._drift_due[name] = last.begin_s + DRIFT_EVERY_S
            message = self._drift(self._contexts[name].watched, name, last.begin_s)
            with self._memory.writing() as writer:
                row = writer.machine(name)
                if (row.drift is None) != (message is None):
                    text = message or "windows no longer score high alike"
                    change = DriftChange(
                        time_s=last.begin_s, machine=name, changed=message is not None, message=text
                    )
                    writer.add_event(change)
                row.drift = message
                writer.save(row)

    def _drift(self, watched: WatchedMachine, name: str, now_s: float) -> str | None:
        found = self._memory.levels(name, now_s - DRIFT_OVER_S, DRIFT_WINDOWS)
        threshold = next((threshold for _, threshold in reversed(found) if threshold is not None), None)
        if len(found) < FEWEST:
            return None
        calibration = watched.detector.calibrations[watched.number]
        drift = find_drift(name, calibration, [score for score, _ in found], threshold)
        return drift.message if drift is not None and drift.changed else None

    # --- the passing of time ---

    def _tick(self) -> None:
        """Timers, health of sources, missed sound, and floods."""
        now_s = self._clock()
        try:
            for now in self._memory.machines():
                context = self._contexts.get(now.machine)
                if context is None:
                    continue
                before = context.findings
                context.findings = self._findings(context)
                missed = self._feeds[now.machine].missed()
                timed = now.state.shelved_left_s is not None or now.state.re_alarm_left_s is not None
                if not missed and not timed and _checks(before) == _checks(context.findings):
                    continue
                with self._memory.writing() as writer:
                    row = writer.machine(now.machine)
                    for entry in missed:
                        add_missed(writer, context, entry, now_s)
                    self._decisions.tick(writer, row, context, now_s)
                    writer.save(row)
            with self._memory.writing() as writer:
                self._decisions.end_flood(writer, now_s)
        except MemoryUnavailableError as error:
            logger.warning("%s", error)

    def _findings(self, context: MachineContext) -> tuple[Finding, ...]:
        feed = self._feeds[context.name]
        findings = feed.findings()
        late_s = max(self._late_s.get(context.name, 0.0), feed.waiting_s)
        if context.live and late_s > LATE_S + feed.cutting.window_s:
            message = f"{late_s:.0f} s late: this computer is too slow for all its machines"
            findings += (Finding("late", message),)
        return findings

    def _thin(self) -> None:
        keep = self._config.keep
        ages = Ages(keep.windows_days, keep.ten_minutes_days, keep.hours_days)
        try:
            self._memory.thin(self._clock(), ages)
        except MemoryUnavailableError as error:
            logger.warning("%s", error)


def _checks(findings: Sequence[Finding]) -> set[str]:
    return {finding.check for finding in findings}
