"""Where events go: MQTT, webhooks, mail. A new kind of sink is one file and one line in :data:`SINKS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nearfar.registry import Entry, Registry
from nearfar.settings import Settings
from nearfar.watch.events import Event


class Sink(Protocol):
    """Receives events, in order, in a thread of its own."""

    def send(self, event: Event) -> None:
        """Deliver an event; any exception means that it was not delivered.

        Kept events (``event.number`` above 0) are then sent again, with back-off, until they are delivered, also
        after a restart: at least once, in order. A scored window that cannot be delivered is left out.
        """
        ...

    def close(self) -> None:
        """Free connections; called once, when the watch stops."""
        ...


@dataclass(frozen=True, kw_only=True)
class SinkKind(Entry):
    """A kind of sink.

    Attributes:
        build: a sink of the name ``[sinks.NAME]``, from its settings.
        takes_windows: whether it receives scored windows as well.
    """

    build: Callable[[str, Any], Sink]
    settings: type[Settings] = Settings
    takes_windows: bool = False


SINKS: Registry[SinkKind] = Registry("kind of sink")
