"""Where events go: MQTT, webhooks, mail. A new kind of sink is one file and one line in :data:`SINKS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nearfar.registry import Entry, Registry
from nearfar.settings import Settings
from nearfar.watch.events import Event
from nearfar.watch.sinks.lines import LineSettings, LineSink
from nearfar.watch.sinks.messages import MessageSettings, MessageSink
from nearfar.watch.sinks.mqtt import MqttSettings, MqttSink
from nearfar.watch.sinks.prometheus import PrometheusSettings, PrometheusSink
from nearfar.watch.sinks.text import TextSettings, TextSink
from nearfar.watch.sinks.webhook import WebhookSettings, WebhookSink

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory


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
        build: a sink of the name ``[sinks.NAME]``, from its settings and the memory, in which it finds machines as
            they are now and the sound of alarms.
        takes_windows: whether it receives scored windows as well.
    """

    build: Callable[[str, Any, Memory], Sink]
    settings: type[Settings] = Settings
    takes_windows: bool = False


SINKS: Registry[SinkKind] = Registry("kind of sink")
SINKS["lines"] = SinkKind(build=LineSink, settings=LineSettings, takes_windows=True, description="lines of JSON")
SINKS["messages"] = SinkKind(build=MessageSink, settings=MessageSettings, description="e-mail and chat")
SINKS["mqtt"] = SinkKind(build=MqttSink, settings=MqttSettings, takes_windows=True, description="MQTT")
SINKS["prometheus"] = SinkKind(
    build=PrometheusSink, settings=PrometheusSettings, takes_windows=True, description="metrics for Prometheus"
)
SINKS["text"] = SinkKind(build=TextSink, settings=TextSettings, description="lines of text")
SINKS["webhook"] = SinkKind(
    build=WebhookSink, settings=WebhookSettings, takes_windows=True, description="a webhook"
)
