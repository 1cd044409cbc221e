"""The simulated source: its times, what happens when, and that it is the same every time."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from nearfar.errors import InputError
from nearfar.watch.sources import Taken
from nearfar.watch.sources.simulated import SimulatedClock, SimulatedSettings, SimulatedSource


class Nothing:
    def find(self, stream: str) -> Taken | None:
        return None

    def is_known(self, name: str, size: int, changed_ns: int) -> bool:
        return False


def source(**settings: Any) -> SimulatedSource:
    return SimulatedSource(SimulatedSettings(window_seconds=1.0, **settings), Path())


def test_past_windows_come_at_once_and_later_ones_in_their_time() -> None:
    now_s = time.time()
    made = source(begin_s=now_s - 3 * 1800.0, started_s=now_s, speed=3600.0)
    begin = time.monotonic()
    blocks = list(itertools.islice(made.blocks(Nothing(), threading.Event()), 5))
    assert time.monotonic() - begin >= 0.5, "the fifth is half an hour after the start"
    assert [round(block.begin_s - now_s) for block in blocks] == [-5400, -3600, -1800, 0, 1800]
    assert len({block.stream for block in blocks}) == 5
    assert all(block.ends and block.samples.shape == (2, 16_000) for block in blocks)


def test_it_stops_while_it_waits() -> None:
    stop = threading.Event()
    blocks = source(begin_s=time.time() + 1e6, started_s=time.time(), speed=1.0).blocks(Nothing(), stop)
    threading.Timer(0.1, stop.set).start()
    assert list(blocks) == []


def test_recordings_that_were_taken_are_not_given_again() -> None:
    class Known(Nothing):
        def find(self, stream: str) -> Taken | None:
            return Taken(next=16_000, finished=stream.endswith("-0"))

    made = source(begin_s=0.0, started_s=time.time(), speed=1.0)
    (block,) = itertools.islice(made.blocks(Known(), threading.Event()), 1)
    assert block.name == "fan-0-1"


def test_the_clock_runs_faster_from_the_start_on() -> None:
    clock = SimulatedClock(started_s=time.time() - 10.0, speed=60.0)
    before_s = time.time()
    found = clock()
    passed = [60.0 * (now_s - clock.started_s) for now_s in (before_s, time.time())]
    assert 600.0 <= passed[0] <= found - clock.started_s <= passed[1]
    assert 0.0 <= clock.wait_s(found + 120.0) <= 2.0
    assert clock.wait_s(clock() - 1.0) == 0.0


def test_a_window_is_the_same_every_time() -> None:
    np.testing.assert_array_equal(source(seed=3).samples(5), source(seed=3).samples(5))
    assert not np.array_equal(source(seed=3).samples(5), source(seed=4).samples(5))


def test_a_fault_grows() -> None:
    made = source(machine_type="bearing", fault="outer_race", fault_hours=10.0, worst_hours=20.0)
    assert [made.severity(hours) for hours in (0, 10, 15, 20, 30)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    healthy = source(machine_type="bearing")
    np.testing.assert_array_equal(made.samples(20), healthy.samples(20))  # hour 10
    assert not np.array_equal(made.samples(30), healthy.samples(30))


def test_a_microphone_dies_and_the_far_one_goes_on() -> None:
    made, whole = source(silent_hours=1.0), source()
    np.testing.assert_array_equal(made.samples(1), whole.samples(1))
    near, far = made.samples(2)
    assert not near.any()
    np.testing.assert_array_equal(far, whole.samples(2)[1])


def test_another_operating_point_sounds_different() -> None:
    made, same = source(new_operation_hours=1.0), source()
    np.testing.assert_array_equal(made.samples(1), same.samples(1))
    assert not np.array_equal(made.samples(2), same.samples(2))


def test_normal_recordings_are_none_of_the_windows(tmp_path: Path) -> None:
    made = source(seed=3)
    made.write_normals(tmp_path / "normal", 3)
    files = sorted((tmp_path / "normal").iterdir())
    assert [soundfile.info(file).channels for file in files] == [2, 2, 2]
    windows = [made.samples(number) for number in range(3)]
    recordings = [soundfile.read(file, dtype="float32")[0].T for file in files]
    assert not any(np.array_equal(one, other) for one in windows for other in recordings)


def test_an_unknown_machine_or_fault_is_an_input_error() -> None:
    with pytest.raises(InputError, match="rocket"):
        source(machine_type="rocket")
    with pytest.raises(InputError, match="did you mean 'outer_race'"):
        source(machine_type="bearing", fault="outer_rase")
