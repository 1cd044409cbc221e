"""MQTT against a real mosquitto: retained states, discovery, the last will, and a broker that goes away."""

from __future__ import annotations

import getpass
import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import InputError
from nearfar.watch.config import SinkTable
from nearfar.watch.delivery import Delivery, build_sinks
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow
from nearfar.watch.memory import Memory
from nearfar.watch.sinks.mqtt import MqttSettings, MqttSink, slug

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs Debian's mosquitto")
Received = tuple[str, bool, str]
"""Topic, whether it was retained, and text."""


class Broker:
    """A mosquitto on a free port, that keeps nothing when it stops."""

    def __init__(self, folder: Path, port: int, *lines: str) -> None:
        self.port = port
        self._config = folder / "mosquitto.conf"
        own = lines or ("allow_anonymous true",)
        # As root it would become another user, who cannot read files of the test.
        lines = (f"listener {port} 127.0.0.1", f"user {getpass.getuser()}", *own, "")
        self._config.write_text("\n".join(lines), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise AssertionError("mosquitto did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Subscriber:
    """Receives everything, over connections that are made again by themselves."""

    def __init__(self, port: int, **login: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.received: queue.Queue[Received] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2)
        if login:
            self._client.username_pw_set(**login)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = lambda client, data, message: self.received.put(
            (message.topic, message.retain, message.payload.decode())
        )
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(20), "no subscription"

    def wait_for(self, topic: str, condition: Callable[[str], bool] = lambda text: True) -> Received:
        """The next message on that topic which fulfils the condition."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            found = self.received.get(timeout=20)
            if found[0] == topic and condition(found[2]):
                return found
        raise AssertionError(f"nothing on {topic}")

    def all(self, quiet_s: float = 0.5) -> list[Received]:
        """Everything until nothing comes for some time."""
        found = []
        while True:
            try:
                found.append(self.received.get(timeout=quiet_s))
            except queue.Empty:
                return found

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path, free_port: int) -> Iterator[Broker]:
    made = Broker(tmp_path, free_port)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def make_sink(broker: Broker, memory: Any) -> Iterator[Callable[..., MqttSink]]:
    made: list[MqttSink] = []

    def make(**settings: Any) -> MqttSink:
        made.append(MqttSink("broker", MqttSettings(port=broker.port, **settings), memory))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    made = Subscriber(broker.port)
    yield made
    made.close()


def test_states_and_discovery_are_retained(make_sink: Callable[..., MqttSink], broker: Broker) -> None:
    make_sink()
    time.sleep(0.3)  # published before anybody subscribes
    late = Subscriber(broker.port)
    found = late.all()
    late.close()
    assert all(retained for _, retained, _ in found)
    topics = {topic: text for topic, _, text in found}
    assert topics["nearfar/watch/available"] == "online"
    state = json.loads(topics["nearfar/watch/pump_7/state"])
    assert (state["status"], state["active"], state["level"], state["windows"]) == ("normal", False, 0.4, 41)
    assert json.loads(topics["nearfar/watch/fan_2/state"])["level"] is None
    entities = [json.loads(text) for topic, text in topics.items() if topic.startswith("homeassistant/")]
    assert len(entities) == 8
    assert len({entity["unique_id"] for entity in entities}) == 8
    for entity in entities:
        assert entity["state_topic"] in topics
        assert topics[entity["availability_topic"]] == "online"
        assert entity["device"]["name"] in ("pump 7", "fan/2")
    alarm = json.loads(topics["homeassistant/binary_sensor/nearfar_watch_pump_7/alarm/config"])
    assert alarm["device_class"] == "problem"


def test_an_alarm_is_an_event_and_a_new_state(
    make_sink: Callable[..., MqttSink], subscriber: Subscriber, memory: Any, raised: AlarmTransition
) -> None:
    sink = make_sink(prefix="works/hall 3", discovery="")
    memory.raise_alarm()
    sink.send(raised)
    event = json.loads(subscriber.wait_for("works/hall 3/pump_7/event")[2])
    assert (event["number"], event["machine"], event["after"]) == (12, "pump 7", "unacknowledged")
    assert event["reason"] == raised.reason
    state = subscriber.wait_for("works/hall 3/pump_7/state", lambda text: '"active": true' in text)
    assert json.loads(state[2])["status"] == "unacknowledged"


def test_no_discovery_without_a_prefix(make_sink: Callable[..., MqttSink], subscriber: Subscriber) -> None:
    make_sink(discovery="")
    assert not [topic for topic, _, _ in subscriber.all() if topic.startswith("homeassistant")]


def test_events_of_the_site_have_a_topic_of_their_own(
    make_sink: Callable[..., MqttSink], subscriber: Subscriber, flood: Event
) -> None:
    make_sink().send(flood)
    assert json.loads(subscriber.wait_for("nearfar/watch/event")[2])["alarms"] == 12


def test_windows_give_a_state_now_and_then(
    make_sink: Callable[..., MqttSink], subscriber: Subscriber, make_window: Callable[..., ScoredWindow]
) -> None:
    sink = make_sink(state_seconds=60.0)
    subscriber.all()
    for number in range(13):
        sink.send(make_window(time_s=1_800_000_000.0 + 10 * number))
    topics = [topic for topic, _, _ in subscriber.all()]
    assert topics == ["nearfar/watch/pump_7/state"] * 3, "at 0, 60 and 120 s"


def test_a_watch_that_stops_and_one_that_dies_are_offline(
    make_sink: Callable[..., MqttSink], subscriber: Subscriber
) -> None:
    first = make_sink()
    subscriber.wait_for("nearfar/watch/available", lambda text: text == "online")
    first.close()
    subscriber.wait_for("nearfar/watch/available", lambda text: text == "offline")
    second = make_sink()
    subscriber.wait_for("nearfar/watch/available", lambda text: text == "online")
    second._client.socket().shutdown(socket.SHUT_RDWR)  # as if the power failed
    subscriber.wait_for("nearfar/watch/available", lambda text: text == "offline")


def test_nothing_is_lost_while_the_broker_is_gone(
    make_sink: Callable[..., MqttSink], broker: Broker, memory: Any, raised: AlarmTransition
) -> None:
    sink = make_sink()
    sink.send(raised)
    broker.stop()
    failures, waiting = 0, [replace(raised, number=number) for number in range(20, 30)]
    back = time.monotonic() + 2.0
    subscriber = None
    for event in waiting:
        while True:
            try:
                sink.send(event)
                break
            except ConnectionError:
                failures += 1
                time.sleep(0.1)
            if subscriber is None and time.monotonic() > back:
                broker.start()
                subscriber = Subscriber(broker.port)
    assert failures
    assert subscriber is not None
    found = subscriber.all(1.0)
    subscriber.close()
    numbers = [json.loads(text)["number"] for topic, _, text in found if topic == "nearfar/watch/pump_7/event"]
    assert list(dict.fromkeys(numbers)) == list(range(20, 30))
    topics = {topic for topic, _, _ in found}
    retained = {"nearfar/watch/available", "nearfar/watch/fan_2/state", "nearfar/watch/pump_7/state"}
    assert retained < topics, "the broker came back without them"


@pytest.mark.parametrize("gone_s", [3.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_watch_delivers_all_once_the_broker_is_back(broker: Broker, tmp_path: Path, gone_s: float) -> None:
    memory = Memory.open(tmp_path / "memory.sqlite")
    memory.register(["pump"])
    sinks = build_sinks({"broker": SinkTable(kind="mqtt", port=broker.port)}, memory, tmp_path)  # type: ignore[call-arg]
    delivery = Delivery(memory, sinks)
    try:
        expected = [memory.add_note("pump", f"before {number}", by="ada").number for number in range(3)]
        broker.stop()
        until = time.monotonic() + gone_s
        while time.monotonic() < until:
            expected.append(memory.add_note("pump", "meanwhile", by="ada").number)
            time.sleep(0.5)
        broker.start()
        subscriber = Subscriber(broker.port)
        expected.append(memory.add_note("pump", "after", by="ada").number)
        last = expected[-1]
        found = []
        while not found or found[-1] < last:  # retries pause for up to a minute
            message = subscriber.received.get(timeout=100)
            if message[0] == "nearfar/watch/pump/event":
                found.append(json.loads(message[2])["number"])
        subscriber.close()
        missing = set(expected) - set(found) - set(expected[:3])
        assert missing == set()
        assert found == sorted(found)
    finally:
        delivery.close()
        memory.close()


def test_a_password_is_read_from_its_file(tmp_path: Path, free_port: int, memory: Any, flood: Event) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "box", "s3cret"], check=True, capture_output=True)
    passwords.chmod(0o644)
    broker = Broker(tmp_path, free_port, "allow_anonymous false", f"password_file {passwords}")
    broker.start()
    try:
        secret = tmp_path / "secret"
        secret.write_text("s3cret\n", encoding="utf-8")
        sink = MqttSink("broker", MqttSettings(port=free_port, username="box", password_file=secret), memory)
        subscriber = Subscriber(free_port, username="box", password="s3cret")
        sink.send(flood)
        subscriber.wait_for("nearfar/watch/event")
        sink.close()
        subscriber.close()
        secret.write_text("wrong", encoding="utf-8")
        settings = MqttSettings(port=free_port, username="box", password_file=secret, connect_seconds=0.5)
        refused = MqttSink("broker", settings, memory)
        with pytest.raises(ConnectionError, match="no connection"):
            refused.send(flood)
        refused.close()
        with pytest.raises(InputError, match="expected a file with the secret"):
            MqttSink("broker", settings.model_copy(update={"password_file": tmp_path / "none"}), memory)
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("machine", "topic"), [("pump 7", "pump_7"), ("a/b+#", "a_b__"), ("Lüfter-1.2", "Lüfter-1.2")]
)
def test_names_become_one_level_of_a_topic(machine: str, topic: str) -> None:
    assert slug(machine) == topic
