"""Metrics, messages and lines."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from nearfar.errors import InputError
from nearfar.settings import Settings
from nearfar.watch.config import SinkTable, checked_config
from nearfar.watch.delivery import build_sinks
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow, WindowsMissed
from nearfar.watch.sinks import SINKS, SinkKind
from nearfar.watch.sinks.lines import LineSettings, LineSink
from nearfar.watch.sinks.messages import MessageSettings, MessageSink
from nearfar.watch.sinks.prometheus import PrometheusSettings, PrometheusSink
from nearfar.watch.sinks.text import TextSettings, TextSink


@pytest.fixture
def metrics(memory: Any, free_port: int) -> Iterator[PrometheusSink]:
    sink = PrometheusSink("metrics", PrometheusSettings(port=free_port), memory)
    yield sink
    sink.close()


def scraped(port: int) -> dict[str, float]:
    """Value by name and labels, read by Prometheus's own parser."""
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        sample.name + "/".join(["", *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_those_of_the_memory_and_of_events(
    metrics: PrometheusSink,
    free_port: int,
    memory: Any,
    raised: AlarmTransition,
    make_window: Callable[..., ScoredWindow],
) -> None:
    before = scraped(free_port)
    assert before["nearfar_level/pump 7"] == 0.4
    assert "nearfar_level/fan/2" not in before, "no window yet"
    assert before["nearfar_alarm_status/pump 7/normal"] == 1
    memory.raise_alarm()
    for event in (raised, raised, make_window()):  # the same event, delivered twice
        metrics.send(event)
    lost = WindowsMissed(number=20, time_s=0.0, machine="fan/2", begin_s=0.0, seconds=25.0, reason="no data")
    metrics.send(lost)
    after = scraped(free_port)
    assert after["nearfar_level/pump 7"] == 1.7
    assert after["nearfar_alarm_status/pump 7/normal"] == 0
    assert after["nearfar_alarm_status/pump 7/unacknowledged"] == 1
    assert after["nearfar_health/good/fan/2"] == 1
    assert after["nearfar_windows_total/pump 7"] == 42
    assert after["nearfar_alarms_raised_total/pump 7"] == 1
    assert after["nearfar_late_seconds/pump 7"] == 0.25
    assert after["nearfar_missed_seconds_total/fan/2"] == 25


def test_a_port_that_is_taken_is_an_input_error(metrics: PrometheusSink, free_port: int, memory: Any) -> None:
    with pytest.raises(InputError, match=r"sinks\.second\.port: found 127\.0\.0\.1:\d+ cannot be used"):
        PrometheusSink("second", PrometheusSettings(port=free_port), memory)


class Notified:
    """Stands in for Apprise's sending: keeps messages, and fails at some addresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from apprise.plugins.custom_json import NotifyJSON

        self.sent: list[tuple[str, str, str, int]] = []
        self.failing: set[str] = set()

        def send(address: Any, body: str, title: str = "", attach: Any = None, **_: Any) -> bool:
            if address.host in self.failing:
                return False
            contents = [] if attach is None else [Path(entry.path).read_bytes() for entry in attach]
            assert all(content.startswith(b"fLaC") for content in contents)
            self.sent.append((address.host, title, body, len(contents)))
            return True

        monkeypatch.setattr(NotifyJSON, "send", send)


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch) -> Notified:
    return Notified(monkeypatch)


@pytest.fixture
def addresses(tmp_path: Path) -> Path:
    path = tmp_path / "addresses"
    path.write_text("# the shift\njson://one.example\n\njson://two.example\n", encoding="utf-8")
    return path


def test_a_message_says_what_and_where(
    notified: Notified, addresses: Path, memory: Any, events: list[Event], make_window: Callable[..., ScoredWindow]
) -> None:
    sink = MessageSink("mail", MessageSettings(urls_file=addresses, page="https://box.example/"), memory)
    sink.send(make_window(level=2.0))
    for event in events:
        sink.send(event)
    assert [(host, title) for host, title, _, _ in notified.sent if host == "one.example"] == [
        ("one.example", "pump 7: alarm raised"),
        ("one.example", "fan/2: microphones: failure"),
        ("one.example", "All machines: many alarms at once"),
    ]
    assert len(notified.sent) == 6
    alarm = notified.sent[0][2]
    assert "57 % of the score." in alarm
    assert "https://box.example/alarms/3" in alarm
    assert "check its cable." in notified.sent[2][2]
    assert all(count == 0 for *_, count in notified.sent), "sound stays here unless it is asked for"


def test_sound_is_attached_if_asked_for(
    notified: Notified, addresses: Path, memory: Any, raised: AlarmTransition
) -> None:
    MessageSink("mail", MessageSettings(urls_file=addresses, sound=True), memory).send(raised)
    assert [count for *_, count in notified.sent] == [2, 2]


def test_an_address_that_was_reached_is_not_sent_to_again(
    notified: Notified, addresses: Path, memory: Any, raised: AlarmTransition
) -> None:
    sink = MessageSink("mail", MessageSettings(urls_file=addresses), memory)
    notified.failing = {"two.example"}
    with pytest.raises(ConnectionError, match="by json"):
        sink.send(raised)
    notified.failing = set()
    sink.send(raised)
    assert [host for host, *_ in notified.sent] == ["one.example", "two.example"]


def test_an_alarm_in_a_flood_gives_no_message_of_its_own(
    notified: Notified, addresses: Path, memory: Any, raised: AlarmTransition
) -> None:
    from dataclasses import replace

    MessageSink("mail", MessageSettings(urls_file=addresses), memory).send(replace(raised, in_flood=True))
    assert notified.sent == []


def test_an_address_that_cannot_be_used_is_named_without_its_password(tmp_path: Path, memory: Any) -> None:
    path = tmp_path / "addresses"
    path.write_text("nonsense://ada:s3cret@host\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"nonsense:\.\.\., which Apprise cannot use") as caught:
        MessageSink("mail", MessageSettings(urls_file=path), memory)
    assert "s3cret" not in str(caught.value)


def test_every_event_is_a_line(memory: Any, events: list[Event], make_window: Callable[..., ScoredWindow]) -> None:
    stream = io.StringIO()
    sink = LineSink("lines", LineSettings(), memory, stream)
    for event in (*events, make_window()):
        sink.send(event)
    trees = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [tree["kind"] for tree in trees] == ["alarm", "health", "flood", "window"]
    assert trees[1]["findings"][0]["check"] == "dead"
    assert trees[3]["status"] == "normal"
    short = io.StringIO()
    LineSink("lines", LineSettings(windows=False), memory, short).send(make_window())
    assert short.getvalue() == ""


@pytest.mark.parametrize("kind", sorted(SINKS))
def test_keys_of_a_kind_are_keys_of_its_table(kind: str, tmp_path: Path) -> None:
    required = {"webhook": {"url": "https://host/"}, "messages": {"urls_file": tmp_path}}.get(kind, {})
    table = SinkTable(kind=kind, **required)
    assert type(table.settings_of("kind")) is SINKS[kind].settings
    with pytest.raises(ValueError, match="prot"):
        SinkTable(kind=kind, prot=3, **required)


def test_a_new_kind_is_one_entry(
    memory: Any, events: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BellSettings(Settings):
        bell: Path
        times: int = 2

    class Bell:
        def __init__(self, name: str, settings: BellSettings, memory: Any) -> None:
            self.settings = settings

        def send(self, event: Event) -> None:
            with self.settings.bell.open("a", encoding="utf-8") as file:
                file.write(f"{event.kind} " * self.settings.times)

        def close(self) -> None: ...

    monkeypatch.setitem(SINKS, "bell", SinkKind(build=Bell, settings=BellSettings, description="a bell"))
    tree = {
        "machines": {"pump": {"detector": "d", "folder": "f"}},
        "sinks": {"hall": {"kind": "bell", "bell": "rung"}},
    }
    (named,) = build_sinks(checked_config(tree, "test").sinks, memory, tmp_path)
    assert (named.name, named.takes_windows) == ("hall", False)
    named.sink.send(events[0])
    assert (tmp_path / "rung").read_text(encoding="utf-8") == "alarm alarm "


def test_text_is_a_line_with_time_title_and_sentence(memory: Any, raised: AlarmTransition) -> None:
    stream = io.StringIO()
    sink = TextSink("terminal", TextSettings(), memory, stream)
    sink.send(raised)
    sink.close()
    (line,) = stream.getvalue().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d pump 7: alarm raised\. ", line)
    assert line.endswith(raised.reason)
