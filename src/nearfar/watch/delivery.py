"""Delivery of events to sinks: each in a thread of its own, in order, again until it succeeds.

Events are kept in the memory, with the number of the last one that each sink has delivered: a sink that is gone
for an hour, or a watch that is killed, loses none. Scored windows are delivered once, if that succeeds.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nearfar.errors import NearfarError
from nearfar.watch.config import SinkTable
from nearfar.watch.events import Event, ScoredWindow
from nearfar.watch.memory import Memory
from nearfar.watch.sinks import Sink, SinkKind

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""How long to wait after a failure: twice as long each time."""

MOST_WINDOWS = 1000
"""Scored windows that wait for a sink; the oldest is left out."""

POLL_S = 1.0
"""From look to look for events that another process has kept, such as a page's."""


@dataclass(frozen=True, slots=True)
class NamedSink:
    """A sink of the configuration."""

    name: str
    sink: Sink
    takes_windows: bool


def build_sinks(tables: Mapping[str, SinkTable], memory: Memory, base: Path) -> list[NamedSink]:
    """The sinks of a configuration; ``base`` is the folder that its paths are relative to.

    Raises:
        InputError: if one cannot be used.
    """
    found = []
    for name, table in tables.items():
        kind: SinkKind = table.entry("kind")
        settings = table.settings_of("kind")
        paths = {key: base / value for key, value in settings if isinstance(value, Path)}
        sink = kind.build(name, settings.model_copy(update=paths), memory)
        found.append(NamedSink(name, sink, kind.takes_windows))
    return found


class Delivery:
    """Delivers events to sinks from threads.

    Args:
        memory: with the events.
        sinks: that receive them. A new sink receives what happens from now on.
    """

    def __init__(self, memory: Memory, sinks: Sequence[NamedSink]) -> None:
        self._deliveries = [_OneDelivery(memory, entry) for entry in sinks]
        memory.listen(self._wake)
        for delivery in self._deliveries:
            delivery.start()

    def windows(self, windows: Sequence[ScoredWindow]) -> None:
        """Deliver scored windows to the sinks that take them."""
        for delivery in self._deliveries:
            delivery.add_windows(windows)

    def close(self, timeout_s: float = 5.0) -> None:
        """Deliver what waits, for at most so long, and close the sinks."""
        for delivery in self._deliveries:
            delivery.stop()
        for delivery in self._deliveries:
            delivery.join(timeout_s)

    def _wake(self, events: Sequence[Event]) -> None:
        for delivery in self._deliveries:
            delivery.wake()


class _OneDelivery:
    def __init__(self, memory: Memory, named: NamedSink) -> None:
        self._memory, self._named = memory, named
        position = memory.delivered(named.name)
        if position is None:
            position = memory.last_event()
            memory.set_delivered(named.name, position)
        self._position = position
        self._windows: deque[ScoredWindow] = deque(maxlen=MOST_WINDOWS)
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {named.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def add_windows(self, windows: Sequence[ScoredWindow]) -> None:
        if self._named.takes_windows:
            self._windows.extend(windows)
            self.wake()

    def stop(self) -> None:
        self._stopped.set()
        self.wake()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        self._named.sink.close()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            stopping = self._stopped.is_set()
            self._woken.clear()
            try:
                self._deliver_events()
                self._deliver_windows()
                wait_s = FIRST_WAIT_S
            except Exception as error:  # whatever a library of a sink raises
                if stopping:
                    return
                log = logger.warning if isinstance(error, NearfarError | OSError) else logger.exception
                log("sink %s: %s. Trying again in %.0f s", self._named.name, error, wait_s)
                self._stopped.wait(wait_s)
                wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
                continue
            if stopping:
                return
            self._woken.wait(POLL_S)

    def _deliver_events(self) -> None:
        while events := self._memory.events(self._position):
            for event in events:
                self._named.sink.send(event)
                self._memory.set_delivered(self._named.name, event.number)
                self._position = event.number

    def _deliver_windows(self) -> None:
        while self._windows:
            self._named.sink.send(self._windows.popleft())
