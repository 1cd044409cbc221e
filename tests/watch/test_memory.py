"""The memory: trends and thinning against naive sums, alarms, notes, sound, versions, one writer at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, text

from nearfar.errors import InputError
from nearfar.watch.alarm import Acknowledge, AlarmRule, Shelve, Status, WindowInput, step
from nearfar.watch.events import NoteAdded, ScoredWindow
from nearfar.watch.health import Health
from nearfar.watch.memory import Ages, Memory, MemoryUnavailableError, StreamRow
from nearfar.watch.memory import connection as connection_module
from nearfar.watch.memory.connection import Database
from nearfar.watch.memory.schema import STEPS, migrate


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Memory]:
    """A memory in SQLite, and in slow tests the same in PostgreSQL."""
    is_file = request.param == "sqlite"
    opened = Memory.open(tmp_path / "m.sqlite" if is_file else request.getfixturevalue("postgresql_database"))
    yield opened
    opened.close()


RULE = AlarmRule(raise_level=1.0, count=1, of=1, clear_count=1)
DAY_S = 86_400.0


def window(number: int, begin_s: float, level: float | None, machine: str = "pump", **more: Any) -> ScoredWindow:
    values = {"score": level, "threshold": 1.0, "anomalous": level is not None and level > 1, "checks": ()}
    return ScoredWindow(
        time_s=begin_s + 10, machine=machine, window=number, begin_s=begin_s, seconds=10.0, level=level,
        status=Status.NORMAL, late_s=0.0, **{**values, **more},
    )  # fmt: skip


def add_windows(memory: Memory, windows: list[ScoredWindow]) -> None:
    with memory.writing() as writer:
        for entry in windows:
            writer.add_window(entry, "stream", entry.window * 160_000)


def raised(memory: Memory, machine: str = "pump", time_s: float = 1000.0, level: float = 1.5) -> int:
    """An alarm that a window has raised."""
    with memory.writing() as writer:
        row = writer.machine(machine)
        row.state, transitions = step(row.state, WindowInput(level, -20.0), time_s, RULE)
        row.evidence = {"score": {"file": "a"}, "level": level, "reason": "a whistle", "version": "0123"}
        writer.add_transitions(row, transitions, time_s)
        writer.save(row)
        assert row.alarm is not None
        return row.alarm


def test_a_trend_of_windows_is_the_windows(memory: Memory) -> None:
    levels = [0.1, 0.5, None, 2.0]
    add_windows(memory, [window(n, 100.0 + 10 * n, level) for n, level in enumerate(levels)])
    points = memory.trend("pump", 0.0, 1000.0)
    assert [point.highest for point in points] == levels
    assert [(point.compared, point.anomalous) for point in points] == [(1, 0), (1, 0), (0, 0), (1, 1)]
    assert memory.trend("pump", 110.0, 120.0)[0].mean == 0.5
    assert memory.trend("fan", 0.0, 1000.0) == []


@pytest.mark.parametrize("age_days", [0.0, 8.0, 100.0])
def test_thinned_trends_keep_counts_and_extremes(memory: Memory, age_days: float) -> None:
    random = np.random.default_rng(0)
    begin_s = 100 * DAY_S
    times = begin_s + np.sort(random.uniform(0, 2 * DAY_S, 3000))
    levels = [None if random.random() < 0.1 else float(random.normal()) for _ in times]
    add_windows(
        memory, [window(n, float(t), level) for n, (t, level) in enumerate(zip(times, levels, strict=True))]
    )
    memory.thin(begin_s + age_days * DAY_S, Ages(7, 92, 1830))
    memory.thin(begin_s + age_days * DAY_S + 3600, Ages(7, 92, 1830))
    points = memory.trend("pump", begin_s - DAY_S, begin_s + 3 * DAY_S, points=40)
    known = [level for level in levels if level is not None]
    assert len(points) <= 40
    assert sum(point.windows for point in points) == 3000
    assert sum(point.compared for point in points) == len(known)
    assert sum(point.anomalous for point in points) == sum(level > 1 for level in known)
    assert max(point.highest for point in points if point.highest is not None) == max(known)
    assert min(point.lowest for point in points if point.lowest is not None) == min(known)
    mean = sum(point.mean * point.compared for point in points if point.mean is not None) / len(known)
    assert mean == pytest.approx(np.mean(known))
    begins = [point.begin_s for point in points]
    assert begins == sorted(set(begins))


def test_summaries_of_ten_minutes_are_those_of_a_naive_loop(memory: Memory) -> None:
    random = np.random.default_rng(1)
    times = 600.0 * 1000 + np.sort(random.uniform(0, 7200, 400))
    levels = random.normal(size=400)
    half = [window(n, float(t), float(v)) for n, (t, v) in enumerate(zip(times, levels, strict=True))]
    add_windows(memory, half[::2])
    memory.thin(times[-1] + 8 * DAY_S, Ages(7, 92, 1830))
    add_windows(memory, half[1::2])  # recordings that come late
    memory.thin(times[-1] + 8 * DAY_S, Ages(7, 92, 1830))
    points = memory.trend("pump", times[0] - DAY_S, times[-1] + DAY_S)
    for point in points:
        own = levels[(times >= point.begin_s) & (times < point.end_s)]
        assert point.windows == len(own)
        assert point.highest == own.max()
        assert point.mean == pytest.approx(own.mean())
    assert sum(point.windows for point in points) == 400


def test_old_summaries_go(memory: Memory) -> None:
    add_windows(memory, [window(n, 1000.0 + 10 * n, 0.5) for n in range(100)])
    for age in (8.0, 93.0, 1829.0):
        memory.thin(1000.0 + age * DAY_S, Ages(7, 92, 1830))
        assert sum(point.windows for point in memory.trend("pump", 0.0, DAY_S)) == 100
    memory.thin(1000.0 + 1831 * DAY_S, Ages(7, 92, 1830))
    assert memory.trend("pump", 0.0, DAY_S) == []


def test_a_window_counts_once(memory: Memory) -> None:
    add_windows(memory, [window(1, 0.0, 0.5)])
    with pytest.raises(InputError, match="one watch at a time"):
        add_windows(memory, [window(2, 50.0, 0.5, score=None), window(1, 0.0, 0.5)])
    assert len(memory.trend("pump", 0.0, 100.0)) == 1  # nothing of a failed transaction is kept


def test_an_alarm_from_raised_to_closed(memory: Memory) -> None:
    memory.register(["pump"])
    number = raised(memory)
    assert memory.machine("pump").alarm == number
    memory.act("pump", Acknowledge(), RULE, by="Ada", comment="on my way", time_s=1060.0)
    with memory.writing() as writer:
        row = writer.machine("pump")
        row.state, transitions = step(row.state, WindowInput(0.1, -20.0), 1100.0, RULE)
        writer.add_transitions(row, transitions, 1100.0)
        writer.save(row)
    alarm = memory.alarm(number)
    assert (alarm.status, alarm.raised_s, alarm.closed_s) == (Status.NORMAL, 1000.0, 1100.0)
    assert (alarm.acknowledged_s, alarm.acknowledged_by, alarm.reason) == (1060.0, "Ada", "a whistle")
    assert [entry.cause for entry in alarm.transitions] == ["raised", "acknowledged", "cleared"]
    assert alarm.transitions[1].comment == "on my way"
    assert alarm.score == {"file": "a"}
    assert memory.machine("pump").alarm is None
    assert memory.alarms(open_only=True) == []
    assert [entry.number for entry in memory.alarms("pump")] == [number]


def test_a_shelved_alarm_stays_open_and_is_the_same_when_it_returns(memory: Memory) -> None:
    memory.register(["pump"])
    number = raised(memory)
    memory.act("pump", Shelve(1.0), RULE, by="Ada", time_s=1010.0)
    assert [entry.status for entry in memory.alarms(open_only=True)] == [Status.SHELVED]
    (first, *_) = memory.act("pump", Shelve(1.0), RULE, by="Ada", time_s=1010.0 + 3600.0)
    assert first.alarm == number  # shelving ended, and it was shelved again
    assert len(memory.alarms()) == 1


def test_what_does_not_fit_is_refused_and_changes_nothing(memory: Memory) -> None:
    memory.register(["pump"])
    before = memory.machine("pump")
    with pytest.raises(InputError, match="'normal'"):
        memory.act("pump", Acknowledge(), RULE, by="Ada")
    with pytest.raises(InputError, match="'fan'"):
        memory.act("fan", Shelve(1.0), RULE, by="Ada")
    with pytest.raises(InputError, match="number of an alarm"):
        memory.add_note("pump", "text", by="Ada", alarm=9)
    with pytest.raises(InputError, match="no text"):
        memory.add_note("pump", " ", by="Ada")
    assert memory.machine("pump") == before
    assert memory.events() == []


def test_notes_are_found_by_machine_and_alarm(memory: Memory) -> None:
    memory.register(["pump", "fan"])
    number = raised(memory)
    memory.add_note("pump", "belt changed", by="Ada", time_s=5.0)
    memory.add_note("pump", "heard it", by="Bo", alarm=number)
    memory.add_note("fan", "cleaned", by="Ada")
    assert [note.text for note in memory.notes()] == ["cleaned", "heard it", "belt changed"]
    assert [note.text for note in memory.notes("pump")] == ["heard it", "belt changed"]
    assert [note.by for note in memory.notes(alarm=number)] == ["Bo"]
    assert memory.notes("pump", limit=1)[0].text == "heard it"


def test_sound_of_alarms_is_a_ring(memory: Memory) -> None:
    memory.register(["pump", "fan"])
    first, second = raised(memory), raised(memory, "fan")
    with memory.writing() as writer:
        for number in (first, second):
            for part in range(4):
                writer.add_audio(number, part, 10.0 * part, 10.0, 0.5, bytes(100))
                writer.add_audio(number, part, 10.0 * part, 10.0, 0.5, bytes(100))  # again: once is enough
        writer.limit_audio(600)
    assert [part.window for part in memory.audio(first)] == [2, 3]
    assert [part.window for part in memory.audio(second)] == [0, 1, 2, 3]
    assert [memory.alarm(number).audio_s for number in (first, second)] == [20.0, 40.0]


def test_events_have_numbers_in_order_and_are_heard(memory: Memory) -> None:
    memory.register(["pump"])
    heard: list[int] = []
    memory.listen(lambda events: heard.extend(event.number for event in events))
    for index in range(5):
        memory.add_note("pump", f"note {index}", by="Ada")
    assert heard == [1, 2, 3, 4, 5] == [event.number for event in memory.events()]
    assert [event.number for event in memory.events(after=3, limit=1)] == [4]
    assert memory.last_event() == 5
    assert memory.delivered("mqtt") is None
    memory.set_delivered("mqtt", 3)
    memory.set_delivered("mqtt", 4)
    assert memory.delivered("mqtt") == 4


def test_streams_are_kept(memory: Memory) -> None:
    with memory.writing() as writer:
        writer.save_stream(StreamRow("pump", "abc", "1.wav", 10, 20, 5.0, next=160))
        writer.save_stream(StreamRow("pump", "abc", "1.wav", 10, 20, 6.0, next=320, finished=True))
    found = memory.stream("pump", "abc")
    assert found == StreamRow("pump", "abc", "1.wav", 10, 20, 6.0, 320, True)
    assert memory.stream("fan", "abc") is None
    assert memory.is_known("pump", "1.wav", 10, 20)
    for other in (("fan", "1.wav", 10, 20), ("pump", "2.wav", 10, 20), ("pump", "1.wav", 11, 20)):
        assert not memory.is_known(*other)
    memory.thin(6.0 + 1829 * DAY_S, Ages(7, 92, 1830))
    assert memory.stream("pump", "abc") is not None
    memory.thin(7.0 + 1830 * DAY_S, Ages(7, 92, 1830))
    assert memory.stream("pump", "abc") is None


def test_operators_and_the_watch_write_one_after_the_other(memory: Memory) -> None:
    memory.register(["pump"])
    errors: list[BaseException] = []

    def add(name: str) -> None:
        try:
            for index in range(20):
                memory.add_note("pump", f"{name} {index}", by=name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(f"thread {index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    notes = [event for event in memory.events(limit=1000) if isinstance(event, NoteAdded)]
    assert [event.number for event in notes] == list(range(1, 81))
    for index in range(4):
        own = [note.text for note in notes if note.by == f"thread {index}"]
        assert own == [f"thread {index} {number}" for number in range(20)]


def test_a_memory_is_opened_again_as_it_was(tmp_path: Path) -> None:
    first = Memory.open(tmp_path / "m.sqlite")
    first.register(["pump"])
    raised(first)
    now = first.machines()
    first.close()
    second = Memory.open(tmp_path / "m.sqlite")
    assert second.machines() == now
    assert now[0].health is Health.GOOD
    second.close()


def test_versions_are_steps_and_each_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []

    def second(connection: Connection) -> None:
        made.append("second")
        connection.execute(text("ALTER TABLE alarms ADD COLUMN place VARCHAR"))

    path = tmp_path / "m.sqlite"
    memory = Memory.open(path)
    memory.register(["pump"])
    number = raised(memory)
    memory.close()
    database = Database(str(path))
    for _ in range(2):
        with database.writing() as connection:
            migrate(connection, "m.sqlite", (*STEPS, second))
    assert made == ["second"]
    with database.reading() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalars().all() == [2]
        assert connection.execute(text("SELECT number, place FROM alarms")).all() == [(number, None)]
    database.close()
    with pytest.raises(InputError, match="memory of version 2"):
        Memory.open(path)


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(text("ALTER TABLE alarms ADD COLUMN place VARCHAR"))
        raise RuntimeError("power cut")

    path = tmp_path / "m.sqlite"
    Memory.open(path).close()
    database = Database(str(path))
    with pytest.raises(RuntimeError), database.writing() as connection:
        migrate(connection, "m.sqlite", (*STEPS, broken))
    database.close()
    Memory.open(path).close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database\n" * 200, encoding="utf-8")
    with pytest.raises(InputError, match=r"notes\.txt: found a file that is no SQLite database"):
        Memory.open(path)
    assert path.read_text(encoding="utf-8").startswith("no database")


def test_a_kind_of_database_without_a_driver_is_refused() -> None:
    with pytest.raises(InputError, match="postgresql://user@host/database"):
        Memory.open("oracle://somewhere")


def test_a_locked_database_is_waited_for_and_then_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory.open(tmp_path / "locked.sqlite")
    memory.register(["pump"])
    other = sqlite3.connect(tmp_path / "locked.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    memory.add_note("pump", "after the lock", by="Ada")  # waits
    monkeypatch.setattr(connection_module, "BUSY_S", 0.1)
    impatient = Memory.open(tmp_path / "locked.sqlite")
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(MemoryUnavailableError, match="locked"):
        impatient.add_note("pump", "never", by="Ada")
    assert time.monotonic() - begun < 5
    assert [note.text for note in impatient.notes()] == ["after the lock"]  # reading goes on
    other.execute("COMMIT")
    other.close()
    impatient.close()
    memory.close()
