"""MQTT, with discovery by Home Assistant: the state of every machine retained, and events as they happen.

Below ``<prefix>`` (by default ``nearfar/watch``):

========================  ========  =====================================================================
topic                     retained  content
========================  ========  =====================================================================
``<machine>/state``       yes       the machine as it is now, as JSON
``<machine>/event``       no        an event, as JSON; ``number`` is the same where one is delivered again
``event``                 no        events of no single machine
``available``             yes       ``online``, or ``offline`` once the watch has stopped (the last will)
========================  ========  =====================================================================

All with QoS 1. After a reconnection everything retained is published again, as a broker may have lost it.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from nearfar import __version__
from nearfar.settings import NotNegative, PositiveFloat, Settings
from nearfar.watch.events import Event, ScoredWindow
from nearfar.watch.records import MachineNow
from nearfar.watch.secret_files import secret_in

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory

logger = logging.getLogger(__name__)

ACKNOWLEDGED_S = 10.0
"""How long to wait for the broker's acknowledgement of one message."""
RECONNECT_S = (1, 30)
"""Shortest and longest pause between attempts to connect."""


class MqttSettings(Settings):
    """Keys of a sink with ``kind = "mqtt"``."""

    host: str = "127.0.0.1"
    """Of the broker."""
    port: Annotated[int, Field(gt=0, lt=65536)] = 1883
    username: str | None = None
    password_file: Path | None = None
    """File with the password."""
    tls: bool = False
    """Encrypt, and check the broker's certificate."""
    ca_file: Path | None = None
    """Certificate of the authority that signed the broker's, where it is not one of the system's."""
    prefix: str = "nearfar/watch"
    """Begin of all topics."""
    discovery: str | None = "homeassistant"
    """Prefix of Home Assistant's discovery topics; an empty text for none."""
    state_seconds: NotNegative = 60.0
    """Least time between two states of a machine without an event, in seconds."""
    connect_seconds: PositiveFloat = 5.0
    """How long to wait for the broker at the start."""


class MqttSink:
    """Publishes to one broker; connects, and connects again, by itself."""

    def __init__(self, name: str, settings: MqttSettings, memory: Memory) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._name, self._settings, self._memory = name, settings, memory
        self._published_s: dict[str, float] = {}
        self._connected = threading.Event()
        # Random, as a broker ends the connection of an earlier client of the same name.
        self._client = Client(CallbackAPIVersion.VERSION2, client_id=f"nearfar-{secrets.token_hex(6)}")
        if settings.username is not None:
            password = None if settings.password_file is None else secret_in(settings.password_file)
            self._client.username_pw_set(settings.username, password)
        if settings.tls or settings.ca_file is not None:
            self._client.tls_set(None if settings.ca_file is None else str(settings.ca_file))
        self._client.will_set(self._topic("available"), "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(*RECONNECT_S)
        self._client.max_queued_messages_set(1000)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.connect_async(settings.host, settings.port, keepalive=20)
        self._client.loop_start()
        self._connected.wait(settings.connect_seconds)

    def send(self, event: Event) -> None:
        """Publish an event and the state of its machine, and wait until the broker has acknowledged both.

        Raises:
            ConnectionError: if the broker cannot be reached, or does not acknowledge.
        """
        if not self._connected.is_set():
            raise ConnectionError(f"no connection to {self._settings.host}:{self._settings.port}")
        sent = []
        if not isinstance(event, ScoredWindow):
            topic = f"{slug(event.machine)}/event" if event.machine else "event"
            sent.append(self._publish(topic, json.dumps(event.to_json(), ensure_ascii=False)))
        elif event.time_s - self._published_s.get(event.machine, -1e18) < self._settings.state_seconds:
            return
        if event.machine:
            sent.append(self._publish_state(self._memory.machine(event.machine)))
            self._published_s[event.machine] = event.time_s
        if not all(_acknowledged(message, ACKNOWLEDGED_S) for message in sent):
            raise ConnectionError(f"{self._settings.host} did not acknowledge a message")

    def close(self) -> None:
        """Say that the watch has stopped, and disconnect."""
        if self._connected.is_set():
            _acknowledged(self._publish("available", "offline", retain=True), 2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            logger.warning("%s: the broker refuses the connection: %s", self._name, reason)
            return
        self._publish("available", "online", retain=True)
        for now in self._memory.machines():
            for topic, entity in discovery(now.machine, self._settings).items():
                self._client.publish(topic, json.dumps(entity), qos=1, retain=True)
            self._publish_state(now)
        self._connected.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._connected.clear()
        if reason.is_failure:
            logger.warning("%s: lost the connection to the broker (%s), and connects again", self._name, reason)

    def _publish_state(self, now: MachineNow) -> Any:
        return self._publish(
            f"{slug(now.machine)}/state", json.dumps(state_of(now), ensure_ascii=False), retain=True
        )

    def _publish(self, topic: str, text: str, retain: bool = False) -> Any:
        return self._client.publish(self._topic(topic), text, qos=1, retain=retain)

    def _topic(self, topic: str) -> str:
        return f"{self._settings.prefix}/{topic}"


def _acknowledged(message: Any, within_s: float) -> bool:
    """Whether the broker acknowledges a message within some time."""
    try:
        message.wait_for_publish(within_s)
    except (RuntimeError, ValueError):  # the connection was lost meanwhile, or too many messages wait
        return False
    return bool(message.is_published())


def slug(machine: str) -> str:
    """A machine's name as one level of a topic: other characters than letters, digits, - and . become _."""
    return re.sub(r"[^\w.-]", "_", machine)


def state_of(now: MachineNow) -> dict[str, Any]:
    """The retained state of a machine."""
    last = now.last
    return {
        "machine": now.machine,
        "status": now.status.value,
        "active": now.state.active,
        "alarm": now.alarm,
        "level": None if last is None or last.level is None else round(last.level, 4),
        "health": now.health.value,
        "findings": [finding.message for finding in now.findings],
        "drift": now.drift,
        "windows": now.windows,
        "time_s": None if last is None else last.time_s,
    }


def discovery(machine: str, settings: MqttSettings) -> dict[str, dict[str, Any]]:
    """Home Assistant's configuration of a machine's entities, by topic."""
    if not settings.discovery:
        return {}
    node = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{settings.prefix}_{machine}")
    shared = {
        "state_topic": f"{settings.prefix}/{slug(machine)}/state",
        "json_attributes_topic": f"{settings.prefix}/{slug(machine)}/state",
        "availability_topic": f"{settings.prefix}/available",
        "device": {
            "identifiers": [node],
            "name": machine,
            "manufacturer": "nearfar",
            "model": "anomaly detection by sound",
            "sw_version": __version__,
        },
        "origin": {"name": "nearfar", "sw_version": __version__},
    }
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("binary_sensor", "alarm"): {
            "name": "Alarm",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.active else 'OFF' }}",
        },
        ("sensor", "status"): {"name": "Alarm status", "value_template": "{{ value_json.status }}"},
        ("sensor", "level"): {
            "name": "Anomaly level",
            "state_class": "measurement",
            "value_template": "{{ value_json.level }}",
        },
        ("sensor", "health"): {
            "name": "Microphones",
            "entity_category": "diagnostic",
            "value_template": "{{ value_json.health }}",
        },
    }
    return {
        f"{settings.discovery}/{component}/{node}/{key}/config": {**shared, **entity, "unique_id": f"{node}_{key}"}
        for (component, key), entity in entities.items()
    }
