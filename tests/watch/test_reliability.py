"""Nothing is lost and nothing counts twice: killed processes, full disks, clocks set back, a month in fast time.

python -m pytest -m slow tests/watch/test_reliability.py
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from tests.watch.killed import tables, write_recordings

from nearfar import Detector
from nearfar.data.quality import Problem
from nearfar.errors import InputError
from nearfar.scores import Score
from nearfar.watch import engine as engine_module
from nearfar.watch.alarm import (
    ALLOWED,
    Acknowledge,
    AlarmRule,
    AlarmState,
    Shelve,
    Status,
    WindowInput,
    step,
)
from nearfar.watch.config import checked_config
from nearfar.watch.detectors import WatchedMachine
from nearfar.watch.engine import Watch
from nearfar.watch.events import AlarmTransition
from nearfar.watch.memory import Memory
from nearfar.watch.sources import AUDIO_SOURCES, AudioBlock, SourceKind

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
KILLS = 200
RULE = {"raise_level": 1.0, "count": 3, "of": 5, "clear_count": 5, "re_alarm_minutes": 2}


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


def test_a_watch_that_is_killed_200_times_ends_as_one_that_is_not(detector_folder: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    begin_s = time.time() - 40.0 * KILLS - 100.0
    arguments = [detector_folder, killed, str(KILLS), "1", str(begin_s)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.watch.killed", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, windows = map(int, done.stdout.split())
    assert count >= KILLS // 2
    assert windows >= KILLS  # they were killed while they worked
    write_recordings(whole / "rec", 0, 4 * KILLS, begin_s)
    memory = Memory.open(whole / "memory.sqlite")
    Watch(checked_config(tables(detector_folder), "whole"), whole, memory).run(threading.Event())  # type: ignore[arg-type]
    memory.close()

    query = "SELECT number, stream, begin, anomalous, checks FROM windows ORDER BY number"
    found, expected = (rows(folder / "memory.sqlite", query) for folder in (killed, whole))
    assert [row[0] for row in found] == list(range(1, len(expected) + 1))
    assert found == expected
    query = "SELECT score FROM windows ORDER BY number"
    found, expected = (rows(folder / "memory.sqlite", query) for folder in (killed, whole))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    query = "SELECT machine, status, raised_s, closed_s, reason FROM alarms ORDER BY number"
    found, expected = (rows(folder / "memory.sqlite", query) for folder in (killed, whole))
    assert found == expected
    query = "SELECT time_s, alarm, json_extract(body, '$.after') FROM events WHERE kind = 'alarm' ORDER BY number"
    found, expected = (rows(folder / "memory.sqlite", query) for folder in (killed, whole))
    assert len(expected) > 50
    assert found == expected
    query = "SELECT count(*) FROM alarms WHERE number NOT IN (SELECT alarm FROM audio)"
    assert rows(killed / "memory.sqlite", query) == [(0,)]
    # Every event was delivered, in order; the one that was on its way when the watch was killed perhaps twice.
    delivered = [int(line) for line in (killed / "delivered.txt").read_text().split()]
    numbers = [row[0] for row in rows(killed / "memory.sqlite", "SELECT number FROM events ORDER BY number")]
    assert sorted(set(delivered)) == numbers
    assert delivered == sorted(delivered)


class Played:
    """A live source: the levels of windows, as the value of their samples."""

    def __init__(self, levels: np.ndarray, begin_s: float, clock: list[float] | None = None) -> None:
        self._levels, self._begin_s, self._clock = levels, begin_s, clock

    def blocks(self, taken: Any, stop: threading.Event) -> Iterator[AudioBlock]:
        for number, level in enumerate(self._levels):
            if stop.is_set():
                return
            samples = np.full((2, 10), level, np.float32)
            if self._clock is not None:
                self._clock[0] = self._begin_s + 10.0 * (number + 1)
            yield AudioBlock(samples, 1, f"played {self._begin_s}", 10 * number, self._begin_s, "played")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, detector_folder: Path) -> Any:
    """Watches machines whose windows of ten seconds have given levels, without computing any."""
    example = Detector.load(detector_folder).score(detector_folder.parent / "mill" / "00.wav")

    def scores(self: WatchedMachine, windows: Any, *, explain: bool) -> list[Score]:
        levels = [float(window.samples[0, 0]) for window in windows]
        return [
            replace(example, score=level, threshold=1.0, anomalous=level > 1, quality=() if level > -50 else BAD)
            for level in levels
        ]

    monkeypatch.setattr(WatchedMachine, "scores", scores)
    monkeypatch.setattr(WatchedMachine, "level", lambda self, score: None if score.quality else score.score)
    monkeypatch.setattr(WatchedMachine, "window_s", property(lambda self: 10.0))
    monkeypatch.setattr(WatchedMachine, "hop_s", property(lambda self: 10.0))

    def build(levels: np.ndarray, memory: Memory, clock: list[float], begin_s: float, **more: Any) -> Watch:
        source = Played(levels, begin_s, clock)
        # Not live: a simulated month must not be late.
        kind = SourceKind(build=lambda settings, base: source, description="played")
        monkeypatch.setitem(AUDIO_SOURCES, "played", kind)
        table = {"detector": str(detector_folder), "source": "played"}
        given = checked_config({"machines": {"mill": table}, "keep": {"waiting_seconds": 400}, **more}, "test")
        return Watch(given, Path(), memory, clock=lambda: clock[0])

    return build


BAD = (Problem("quiet", "quiet"),)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_month_in_fast_time(play: Any, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, begin_s = 30 * 8640, 1e9
    random = np.random.default_rng(5)
    levels = np.repeat(random.normal(0.3, 0.35, count // 30), 30) + random.normal(0, 0.2, count)
    levels[random.random(count) < 0.01] = -99.0  # not comparable
    levels = levels.astype(np.float32)
    clock = [begin_s]
    monkeypatch.setattr(engine_module, "THIN_S", 2.0)
    monkeypatch.setattr(engine_module, "DRIFT_EVERY_S", 6 * 3600.0)
    rule = {"raise_level": 1.0, "count": 3, "of": 5, "clear_count": 5, "clear_level": 0.7}
    watching = play(levels, memory, clock, begin_s, alarm=rule)
    sizes: list[int] = []

    def measure(windows: Any) -> None:
        if windows[-1].window % 8640 < len(windows):
            sizes.append(resident_bytes())

    watching.run(threading.Event(), on_windows=measure)

    now = memory.machine("mill")
    assert now.windows == count
    points = memory.trend("mill", begin_s - 1, begin_s + 31 * 86_400, points=10**9)
    assert sum(point.windows for point in points) == count
    compared = levels[levels > -50]
    assert sum(point.compared for point in points) == compared.size
    assert max(point.highest for point in points if point.highest is not None) == compared.max()
    # The alarms are those of the rule alone, window by window.
    state, expected = AlarmState(), []
    for number, level in enumerate(levels):
        given = WindowInput(None if level < -50 else float(level), -20.0)
        state, made = step(state, given, begin_s + 10.0 * (number + 1), AlarmRule(**rule))
        expected += [(entry.before, entry.after, begin_s + 10.0 * (number + 1)) for entry in made]
    events = [entry for entry in memory.events(limit=10**9) if isinstance(entry, AlarmTransition)]
    assert [(entry.before, entry.after, entry.time_s) for entry in events] == expected
    assert len(expected) > 100
    for entry in events:
        assert entry.after in ALLOWED[entry.cause][entry.before]
    assert len(rows(tmp_path / "memory.sqlite", "SELECT 1 FROM windows")) < 9 * 8640  # thinned
    assert sizes[-1] - sizes[5] < 20_000_000, sizes


def test_a_clock_that_is_set_back_loses_no_window_and_ends_no_shelving_early(play: Any, memory: Memory) -> None:
    levels = np.full(200, 0.2, np.float32)
    clock, begin_s = [1e9], 1e9
    keep = {"waiting_seconds": 20}  # the clock of the source is at most two windows ahead
    watching = play(levels[:100], memory, clock, begin_s, keep=keep)
    memory.act("mill", Shelve(1.0), AlarmRule(), by="Ada", time_s=begin_s)
    watching.run(threading.Event())
    assert memory.machine("mill").windows == 100
    left_s = memory.machine("mill").state.shelved_left_s
    assert left_s == pytest.approx(3600 - 1000, abs=20)
    clock[0] = begin_s - 7200.0  # two hours back
    play(levels, memory, clock, clock[0], keep=keep).run(threading.Event())
    now = memory.machine("mill")
    assert now.windows == 300
    assert now.state.shelved_left_s == pytest.approx(3600 - 1000 - 2000, abs=40)
    assert len(memory.trend("mill", 0, 2e9, points=10**9)) > 0


def test_a_full_disk_loses_nothing(
    play: Any, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = np.where(np.arange(1500) % 100 < 8, 3.0, 0.1).astype(np.float32)
    clock = [1e9]
    limit = {"pages": rows(tmp_path / "memory.sqlite", "PRAGMA page_count")[0][0] + 30}
    refused: list[str] = []

    @event.listens_for(memory._database._engine, "begin")
    def shrink(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limit['pages']}")

    monkeypatch.setattr(engine_module, "WAIT_S", 0.05)

    def warned(text: str, *values: object) -> None:
        refused.append(str(values))
        threading.Timer(1.0, lambda: limit.update(pages=10**9)).start()  # somebody frees space

    monkeypatch.setattr(engine_module.logger, "warning", warned)
    play(levels, memory, clock, 1e9, alarm=RULE).run(threading.Event())
    assert any("full" in text for text in refused)
    assert memory.machine("mill").windows == 1500
    assert len(memory.alarms(limit=10**6)) == 1  # nobody acknowledged it: raised again, and the same alarm
    raised = [e for e in memory.events(limit=10**6) if isinstance(e, AlarmTransition) and e.cause == "raised"]
    assert len(raised) == 15


def test_operators_and_windows_at_the_same_time_make_only_allowed_transitions(play: Any, memory: Memory) -> None:
    random = np.random.default_rng(3)
    levels = np.repeat(random.choice([0.1, 3.0], 150), 10).astype(np.float32)
    clock = [1e9]
    watching = play(levels, memory, clock, 1e9, alarm=RULE)
    ended = threading.Event()

    def operate() -> None:
        while not ended.is_set():
            action = Acknowledge() if random.random() < 0.7 else Shelve(0.02)
            with suppress(InputError):  # it does not fit the status
                memory.act("mill", action, AlarmRule.model_validate(RULE), by="Ada", time_s=clock[0])
            time.sleep(0.005)

    operator = threading.Thread(target=operate)
    operator.start()
    try:
        watching.run(threading.Event())
    finally:
        ended.set()
        operator.join()
    events = [entry for entry in memory.events(limit=10**6) if isinstance(entry, AlarmTransition)]
    status = Status.NORMAL
    for entry in events:
        assert entry.before is status
        assert entry.after in ALLOWED[entry.cause][entry.before]
        status = entry.after
    assert memory.machine("mill").status is status
    assert {entry.by for entry in events} == {"", "Ada"}
    assert memory.machine("mill").windows == 1500
