"""The watch from sound to alarms: scores as the detector gives them, alarms with their sound, health, changes."""

from __future__ import annotations

import io
import os
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.watch.sounds import RATE_HZ, machine_sound, write_sound

from nearfar import Detector
from nearfar.errors import InputError
from nearfar.watch import engine as engine_module
from nearfar.watch import feed as feed_module
from nearfar.watch.alarm import Acknowledge, Status
from nearfar.watch.config import WatchConfig, checked_config
from nearfar.watch.engine import Watch
from nearfar.watch.events import DetectorChanged, DriftChange, FloodChange, HealthChange, WindowsMissed
from nearfar.watch.feedback import Feedback
from nearfar.watch.health import Health
from nearfar.watch.memory import Memory, MemoryUnavailableError
from nearfar.watch.sources import AUDIO_SOURCES, AudioBlock, SourceError, SourceKind

RULE = {"count": 2, "of": 3, "clear_count": 2, "raise_level": 1.0, "clear_level": 0.9}
KEEP = {"before_seconds": 2, "after_seconds": 1}


def config(detector: Path, **tables: Any) -> WatchConfig:
    machine = {"detector": str(detector), "folder": "rec", "once": True, **tables.pop("machine", {})}
    return checked_config({"machines": {"mill 3": machine}, "alarm": RULE, "keep": KEEP, **tables}, "test")


def write_recordings(folder: Path, kinds: str, *, seed: int = 100) -> list[Path]:
    """A recording of a second for each letter, F with a fault; ten seconds apart and in order."""
    paths = []
    now_s = time.time() - 10.0 * len(kinds) - 10.0
    for number, kind in enumerate(kinds):
        sound = machine_sound(seed + number, fault=kind == "F")
        path = write_sound(folder / f"{seed}-{number:03d}.wav", sound)
        os.utime(path, (now_s + 10.0 * number, now_s + 10.0 * number))
        paths.append(path)
    return paths


def watch(given: WatchConfig, base: Path, memory: Memory) -> Watch:
    watching = Watch(given, base, memory)
    watching.run(threading.Event())
    return watching


def test_scores_are_those_of_the_detector(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    paths = write_recordings(tmp_path / "rec", "NNFNN")
    long = write_sound(tmp_path / "rec" / "long.wav", machine_sound(7, seconds=3.4))
    windows = []
    watching = Watch(config(detector_folder), tmp_path, memory)
    watching.run(threading.Event(), on_windows=windows.extend)
    detector = Detector.load(detector_folder)
    scores = list(detector.score_many(paths))
    assert [window.score for window in windows[:5]] == pytest.approx([score.score for score in scores])
    assert [window.threshold for window in windows[:5]] == [score.threshold for score in scores]
    assert [window.anomalous for window in windows[:5]] == [score.anomalous for score in scores]
    of_long = detector.score(long).windows
    assert [window.score for window in windows[5:]] == pytest.approx([window.score for window in of_long])
    assert [window.window for window in windows] == list(range(1, 10))
    begins = [window.begin_s - windows[5].begin_s for window in windows[5:]]
    assert begins == pytest.approx([window.begin_s for window in of_long])


def test_levels_are_0_at_the_median_of_normal_recordings_and_1_at_the_threshold(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    write_recordings(tmp_path / "rec", "N")
    windows = []
    Watch(config(detector_folder), tmp_path, memory).run(threading.Event(), on_windows=windows.extend)
    detector = Detector.load(detector_folder)
    median = float(np.median([entry.score for entry in detector.calibrations[0].recordings]))
    (window,) = windows
    assert window.score is not None
    assert window.threshold is not None
    assert window.level == pytest.approx((window.score - median) / (window.threshold - median))


def test_a_fault_raises_one_alarm_with_its_reason_and_sound(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    paths = write_recordings(tmp_path / "rec", "NNNNFFFNN")
    watch(config(detector_folder), tmp_path, memory)
    (alarm,) = memory.alarms()
    assert alarm.machine == "mill 3"
    assert alarm.status is Status.RETURNED
    score = Detector.load(detector_folder).score(paths[5])
    assert score.departure is not None
    assert alarm.reason == score.departure.sentence
    assert alarm.score["nearest"] == score.nearest
    assert alarm.level >= 1
    assert alarm.highest_level >= alarm.level
    assert [entry.cause for entry in memory.alarm(alarm.number).transitions] == ["raised", "cleared"]
    # Raised by the second fault, window 6: two before it, and one after it.
    parts = memory.audio(alarm.number)
    assert [part.window for part in parts] == [4, 5, 6, 7]
    assert [(part.level or 0) >= 1 for part in parts] == [False, True, True, True]
    for part, path in zip(parts, paths[3:7], strict=True):
        kept, rate = soundfile.read(io.BytesIO(part.flac), dtype="float32")
        np.testing.assert_array_equal(kept, soundfile.read(path, dtype="float32")[0])
        assert rate == RATE_HZ
    assert alarm.audio_s == 4.0


def test_one_anomalous_window_is_no_alarm(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    write_recordings(tmp_path / "rec", "NNFNNNFNN")
    watch(config(detector_folder), tmp_path, memory)
    assert memory.alarms() == []
    assert sum(point.anomalous for point in memory.trend("mill 3", 0, time.time())) == 2


def test_nothing_is_scored_again_by_a_second_watch(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    write_recordings(tmp_path / "rec", "NFF")
    watch(config(detector_folder), tmp_path, memory)
    before = memory.machines(), memory.events()
    watch(config(detector_folder), tmp_path, memory)
    assert (memory.machines(), memory.events()) == before
    write_recordings(tmp_path / "rec", "NN", seed=200)
    watch(config(detector_folder), tmp_path, memory)
    assert memory.machine("mill 3").windows == 5


def test_an_operator_acts_between_windows(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    given = config(detector_folder)
    write_recordings(tmp_path / "rec", "FF")
    watch(given, tmp_path, memory)
    memory.act("mill 3", Acknowledge(), given.rule("mill 3"), by="Ada")
    write_recordings(tmp_path / "rec", "NN", seed=200)
    watch(given, tmp_path, memory)
    (alarm,) = memory.alarms()
    assert (alarm.status, alarm.acknowledged_by) == (Status.NORMAL, "Ada")


def test_a_machine_that_is_off_raises_no_alarm_and_has_healthy_microphones(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    for number in range(6):
        write_sound(tmp_path / "rec" / f"{number}.wav", machine_sound(number, gain=0.002))
    watch(config(detector_folder, alarm={**RULE, "off_below_db": -50.0}), tmp_path, memory)
    now = memory.machine("mill 3")
    assert now.status is Status.SUPPRESSED
    assert now.health is Health.GOOD
    assert memory.alarms() == []


def test_a_dead_microphone_is_no_alarm_but_a_failure(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    for number in range(6):
        sound = machine_sound(number, fault=True)
        sound[0] = 0.0
        write_sound(tmp_path / "rec" / f"{number}.wav", sound)
    watch(config(detector_folder), tmp_path, memory)
    now = memory.machine("mill 3")
    assert now.health is Health.FAILURE
    assert [finding.check for finding in now.findings] == ["unusable"]
    assert memory.alarms() == []
    (change,) = [event for event in memory.events() if isinstance(event, HealthChange)]
    assert (change.before, change.after) == (Health.GOOD, Health.FAILURE)


def test_a_file_that_cannot_be_read_is_reported_once(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    path = write_sound(tmp_path / "rec" / "cut.wav", machine_sound(0))
    path.write_bytes(path.read_bytes()[:20_001])
    os.utime(path, (1e9, 1e9))
    write_recordings(tmp_path / "rec", "NN")
    for _ in range(2):
        watch(config(detector_folder), tmp_path, memory)
    (missed,) = [event for event in memory.events() if isinstance(event, WindowsMissed)]
    assert "cut.wav" in missed.reason
    assert memory.machine("mill 3").windows == 2


def test_drift_is_reported_when_all_windows_score_high_alike(
    detector_folder: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "DRIFT_EVERY_S", 0.0)
    write_recordings(tmp_path / "rec", "N" * 12)
    watch(config(detector_folder), tmp_path, memory)
    assert memory.machine("mill 3").drift is None
    write_recordings(tmp_path / "rec", "F" * 20, seed=300)
    watch(config(detector_folder), tmp_path, memory)
    assert "has changed since the detector was fitted" in (memory.machine("mill 3").drift or "")
    assert [event.changed for event in memory.events(limit=999) if isinstance(event, DriftChange)] == [True]


def test_many_alarms_at_once_are_a_flood(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    write_recordings(tmp_path / "rec", "FF")
    table = {"detector": str(detector_folder), "folder": "rec", "once": True}
    given = {f"mill {number}": table for number in range(5)}
    flood = {"alarms": 3, "minutes": 10}
    watch(checked_config({"machines": given, "alarm": RULE, "flood": flood}, "test"), tmp_path, memory)
    alarms = [event for event in memory.events(limit=999) if event.kind == "alarm"]
    assert len(memory.alarms()) == 5  # none is lost
    assert [event.in_flood for event in alarms] == [False, False, True, True, True]  # type: ignore[attr-defined]
    (begun,) = [event for event in memory.events(limit=999) if isinstance(event, FloodChange)]
    assert (begun.active, begun.alarms) == (True, 3)
    watching = Watch(checked_config({"machines": given, "alarm": RULE, "flood": flood}, "test"), tmp_path, memory,
                     clock=lambda: time.time() + 1200)  # fmt: skip
    watching.run(threading.Event())
    assert [e.active for e in memory.events(limit=999) if isinstance(e, FloodChange)] == [True, False]


def test_feedback_changes_the_detector_of_a_running_watch(
    detector_folder: Path, tmp_path: Path, memory: Memory
) -> None:
    folder = tmp_path / "own.detector"
    shutil.copytree(detector_folder, folder)
    given = config(folder, machine={"once": False, "settle_seconds": 0.1})
    write_recordings(tmp_path / "rec", "FFFF")
    stop = threading.Event()
    watching = Watch(given, tmp_path, memory)
    thread = threading.Thread(target=watching.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: memory.machine("mill 3").windows == 4)
        feedback = Feedback(memory, "mill 3", folder, tmp_path / "feedback")
        (alarm,) = memory.alarms()
        effect = feedback.preview(alarm.number, None)
        assert (effect.windows, effect.alarms_before) == (3, 3)  # raised by the second; a second after it
        assert Detector.load(folder).history == ()  # a preview changes nothing
        feedback.apply(alarm.number, None, by="Ada", note="new belt")
        assert memory.alarm(alarm.number).feedback == "normal"
        assert [note.text for note in memory.notes("mill 3")] == ["this is normal: new belt"]
        write_recordings(tmp_path / "rec", "N", seed=400)
        wait_for(lambda: memory.machine("mill 3").windows == 5)
        first, second = memory.detector_versions("mill 3")
        assert first.version != second.version
        assert memory.machine("mill 3").version == first.version
        feedback.undo(by="Ada")
        write_recordings(tmp_path / "rec", "N", seed=500)
        wait_for(lambda: memory.machine("mill 3").windows == 6)
        assert memory.detector_versions("mill 3")[0].text.startswith("undone")
    finally:
        stop.set()
        watching.stop_soon()
        thread.join(20)
    assert next(event for event in memory.events() if isinstance(event, DetectorChanged)).text == "as fitted"


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


# --- live sources ---


class Live:
    """A source whose blocks a test puts; an exception is raised by it."""

    def __init__(self) -> None:
        self.blocks_to_come: queue.Queue[Any] = queue.Queue()
        self.opened = 0

    def blocks(self, taken: Any, stop: threading.Event) -> Iterator[AudioBlock]:
        self.opened += 1
        begin_s, done = 0.0, 0
        while not stop.is_set():
            try:
                given = self.blocks_to_come.get(timeout=0.05)
            except queue.Empty:
                continue
            if given is None:
                return
            if isinstance(given, Exception):
                raise given
            begin_s = begin_s or time.time()
            yield AudioBlock(given, RATE_HZ, f"live {begin_s}", done, begin_s, "live")
            done += given.shape[1]

    def play(self, sound: np.ndarray) -> None:
        for block in np.array_split(sound, max(1, sound.shape[1] // 1600), axis=1):
            self.blocks_to_come.put(block)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Live:
    given = Live()
    monkeypatch.setitem(
        AUDIO_SOURCES, "live", SourceKind(build=lambda s, base: given, live=True, description="test")
    )
    monkeypatch.setattr(feed_module, "FIRST_WAIT_S", 0.1)
    return given


@pytest.fixture
def running(live: Live, detector_folder: Path, tmp_path: Path, memory: Memory) -> Iterator[Watch]:
    table = {"detector": str(detector_folder), "source": "live"}
    keep = {**KEEP, "waiting_seconds": 5}
    given = checked_config({"machines": {"mill 3": table}, "alarm": RULE, "keep": keep}, "test")
    stop, watching = threading.Event(), Watch(given, tmp_path, memory)
    thread = threading.Thread(target=watching.run, args=(stop,))
    thread.start()
    yield watching
    stop.set()
    watching.stop_soon()
    thread.join(30)
    assert not thread.is_alive()


def test_live_sound_is_cut_without_gaps(live: Live, running: Watch, memory: Memory) -> None:
    live.play(machine_sound(0, seconds=5.5))
    wait_for(lambda: memory.machine("mill 3").windows == 5)
    points = memory.trend("mill 3", time.time() - 100, time.time() + 100)
    assert np.diff([point.begin_s for point in points]) == pytest.approx([1.0] * 4)


def test_a_source_that_fails_is_health_and_is_opened_again(live: Live, running: Watch, memory: Memory) -> None:
    live.play(machine_sound(0, seconds=1.0))
    wait_for(lambda: memory.machine("mill 3").windows == 1)
    live.blocks_to_come.put(SourceError("the cable is out."))
    wait_for(lambda: memory.machine("mill 3").health is Health.FAILURE)
    assert memory.machine("mill 3").findings[0].message == "the cable is out."
    time.sleep(1.2)
    live.play(machine_sound(1, seconds=1.0))
    wait_for(lambda: memory.machine("mill 3").windows == 2)
    wait_for(lambda: memory.machine("mill 3").health is Health.GOOD)
    assert live.opened == 2
    (gap,) = [event for event in memory.events() if isinstance(event, WindowsMissed)]
    assert gap.seconds > 0.1


def test_late_sound_is_missed_with_a_count_and_the_rest_is_scored(
    live: Live, running: Watch, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = engine_module.WatchedMachine.scores
    gate = threading.Event()

    def slow(self: Any, windows: Any, *, explain: bool) -> Any:
        gate.wait(30)
        return score(self, windows, explain=explain)

    monkeypatch.setattr(engine_module.WatchedMachine, "scores", slow)
    live.play(machine_sound(0, seconds=20.0))
    time.sleep(1.0)
    gate.set()
    wait_for(lambda: any(isinstance(event, WindowsMissed) for event in memory.events()))
    wait_for(lambda: running._feeds["mill 3"].waiting_s == 0)
    time.sleep(0.5)
    missed = sum(event.seconds for event in memory.events() if isinstance(event, WindowsMissed))
    assert memory.machine("mill 3").windows + missed == pytest.approx(20)
    assert missed >= 10  # 5 s may wait


def test_a_source_that_ends_ends_the_watch(live: Live, running: Watch, memory: Memory) -> None:
    live.play(machine_sound(0, seconds=2.0))
    live.blocks_to_come.put(None)
    wait_for(lambda: running._feeds["mill 3"].finished)
    wait_for(lambda: memory.machine("mill 3").windows == 2)


def test_a_database_that_is_gone_for_a_while_loses_nothing(
    live: Live, running: Watch, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, failures = memory.writing, [MemoryUnavailableError("disk full")] * 3

    def unreliable() -> Any:
        if failures:
            raise failures.pop()
        return writing()

    monkeypatch.setattr(memory, "writing", unreliable)
    live.play(machine_sound(0, fault=True, seconds=4.0))
    wait_for(lambda: memory.machine("mill 3").windows == 4)
    (alarm,) = memory.alarms()
    assert [part.window for part in memory.audio(alarm.number)] == [1, 2, 3]


# --- what cannot be watched ---


def test_what_cannot_be_watched_is_refused_at_once(detector_folder: Path, tmp_path: Path, memory: Memory) -> None:
    with pytest.raises(InputError, match=r"nowhere"):
        Watch(config(tmp_path / "nowhere"), tmp_path, memory)
    with pytest.raises(InputError, match=r"detector of mill, and no 'fan'"):
        Watch(config(detector_folder, machine={"machine": "fan"}), tmp_path, memory)
