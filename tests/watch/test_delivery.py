"""Delivery of events: in order, at least once, whatever fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nearfar.watch import delivery as delivery_module
from nearfar.watch.alarm import Status
from nearfar.watch.delivery import Delivery, NamedSink
from nearfar.watch.events import Event, ScoredWindow
from nearfar.watch.memory import Memory


class Collecting:
    """Keeps what it is sent; fails while it is told to."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.windows: list[int] = []
        self.attempts = 0
        self.broken = False
        self.closed = threading.Event()

    def send(self, event: Event) -> None:
        self.attempts += 1
        if self.broken:
            raise OSError("the network is down")
        if isinstance(event, ScoredWindow):
            self.windows.append(event.window)
        else:
            self.received.append(event.number)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(delivery_module, "LONGEST_WAIT_S", 0.1)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def window(number: int) -> ScoredWindow:
    return ScoredWindow(
        time_s=0.0, machine="pump", window=number, begin_s=0.0, seconds=1.0, score=1.0, threshold=2.0, level=0.5,
        anomalous=False, checks=(), status=Status.NORMAL, late_s=0.0,
    )  # fmt: skip


def notes(memory: Memory, count: int) -> None:
    for index in range(count):
        memory.add_note("pump", f"note {index}", by="Ada")


def test_a_sink_that_is_gone_for_a_while_receives_all_in_order(memory: Memory) -> None:
    memory.register(["pump"])
    sink = Collecting()
    delivery = Delivery(memory, [NamedSink("mqtt", sink, False)])
    notes(memory, 3)
    wait_for(lambda: len(sink.received) == 3)
    sink.broken = True
    notes(memory, 4)
    attempts = sink.attempts
    wait_for(lambda: sink.attempts >= attempts + 3)
    sink.broken = False
    wait_for(lambda: len(sink.received) == 7)
    delivery.close()
    assert sink.received == [1, 2, 3, 4, 5, 6, 7]
    assert sink.closed.is_set()


def test_delivery_goes_on_where_it_was_after_a_restart(memory: Memory) -> None:
    memory.register(["pump"])
    first, second = Collecting(), Collecting()
    delivery = Delivery(memory, [NamedSink("mqtt", first, False)])
    notes(memory, 2)
    wait_for(lambda: len(first.received) == 2)
    first.broken = True
    notes(memory, 2)
    delivery.close()
    notes(memory, 1)  # while nothing delivers
    delivery = Delivery(memory, [NamedSink("mqtt", second, False)])
    wait_for(lambda: len(second.received) == 3)
    delivery.close()
    assert second.received == [3, 4, 5]


def test_a_new_sink_receives_what_happens_from_now_on(memory: Memory) -> None:
    memory.register(["pump"])
    notes(memory, 3)
    sink = Collecting()
    delivery = Delivery(memory, [NamedSink("new", sink, False)])
    notes(memory, 1)
    wait_for(lambda: sink.received == [4])
    delivery.close()


def test_one_broken_sink_does_not_hold_up_another(memory: Memory) -> None:
    memory.register(["pump"])
    broken, good = Collecting(), Collecting()
    broken.broken = True
    delivery = Delivery(memory, [NamedSink("broken", broken, False), NamedSink("good", good, False)])
    notes(memory, 2)
    wait_for(lambda: good.received == [1, 2])
    delivery.close(0.5)


def test_windows_go_to_the_sinks_that_take_them_and_wait_in_bounds(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "MOST_WINDOWS", 10)
    taking, other = Collecting(), Collecting()
    delivery = Delivery(memory, [NamedSink("takes", taking, True), NamedSink("other", other, False)])
    delivery.windows([window(1)])
    wait_for(lambda: taking.windows == [1])
    taking.broken = True
    delivery.windows([window(number) for number in range(100)])
    wait_for(lambda: taking.attempts > 2)
    taking.broken = False
    wait_for(lambda: taking.windows[-1] == 99)
    delivery.close()
    assert len(taking.windows) <= 12
    assert other.windows == []


def test_events_of_another_process_are_delivered(memory: Memory, tmp_path: Path) -> None:
    memory.register(["pump"])
    sink = Collecting()
    delivery = Delivery(memory, [NamedSink("mqtt", sink, False)])
    other = Memory.open(tmp_path / "memory.sqlite")
    notes(other, 2)
    wait_for(lambda: sink.received == [1, 2])
    other.close()
    delivery.close()
