"""Webhooks against a real HTTP server: signatures, keys, refusals, redirects."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nearfar.errors import InputError
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow
from nearfar.watch.sinks.webhook import WebhookSettings, WebhookSink, secret_of, signature


class Receiver(ThreadingHTTPServer):
    """Keeps requests, and answers with the next of some status codes, and then with 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(({key.lower(): value for key, value in self.headers.items()}, body))
        code = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(code)
        if 300 <= code < 400:
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        raise AssertionError("a redirect was followed")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def make_sink(receiver: Receiver, memory: Any) -> Callable[..., WebhookSink]:
    def make(**settings: Any) -> WebhookSink:
        return WebhookSink(
            "hook", WebhookSettings(url=receiver.url, **settings), memory, clock=lambda: 1_800_000_007.9
        )

    return make


def test_an_event_arrives_signed(
    make_sink: Callable[..., WebhookSink], receiver: Receiver, tmp_path: Path, raised: AlarmTransition
) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    secret = tmp_path / "secret"
    secret.write_text("whsec_" + base64.b64encode(key).decode() + "\n", encoding="utf-8")
    make_sink(secret_file=secret).send(raised)
    ((headers, body),) = receiver.requests
    assert json.loads(body) == raised.to_json()
    assert json.loads(body)["kind"] == "alarm"
    assert headers["content-type"] == "application/json"
    assert headers["webhook-timestamp"] == "1800000007"
    assert headers["webhook-id"] == headers["idempotency-key"] == "hook-12-1800000000500"
    signed = b"hook-12-1800000000500.1800000007." + body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_that_of_the_published_example() -> None:
    """The example of the Standard Webhooks libraries (tests of standardwebhooks, Python)."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_plain_secret_is_its_text(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n", encoding="utf-8")
    assert secret_of(secret) == b"open sesame"
    secret.write_text("whsec_not base64!", encoding="utf-8")
    with pytest.raises(InputError, match="no base64"):
        secret_of(secret)


def test_without_a_secret_nothing_is_signed(
    make_sink: Callable[..., WebhookSink], receiver: Receiver, raised: AlarmTransition
) -> None:
    make_sink().send(raised)
    assert "webhook-signature" not in receiver.requests[0][0]


@pytest.mark.parametrize("code", [500, 503, 429, 401, 404, 302, 307])
def test_what_may_pass_is_tried_again_with_the_same_key(
    make_sink: Callable[..., WebhookSink], receiver: Receiver, raised: AlarmTransition, code: int
) -> None:
    receiver.answers = [code]
    sink = make_sink()
    with pytest.raises(ConnectionError, match=str(code)):
        sink.send(raised)
    sink.send(raised)
    first, second = (headers["idempotency-key"] for headers, _ in receiver.requests)
    assert first == second


@pytest.mark.parametrize("code", [400, 410, 413, 422])
def test_what_is_refused_for_good_is_dropped_and_logged(
    make_sink: Callable[..., WebhookSink],
    receiver: Receiver,
    raised: AlarmTransition,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    receiver.answers = [code]
    make_sink().send(raised)
    assert f"answers {code}" in caplog.text
    assert "event 12 is not sent again" in caplog.text


def test_nobody_there_is_tried_again(memory: Any, free_port: int, raised: AlarmTransition) -> None:
    sink = WebhookSink("hook", WebhookSettings(url=f"http://127.0.0.1:{free_port}/"), memory)
    with pytest.raises(ConnectionError):
        sink.send(raised)


def test_windows_and_sound_are_sent_only_if_asked_for(
    make_sink: Callable[..., WebhookSink],
    receiver: Receiver,
    raised: AlarmTransition,
    make_window: Callable[..., ScoredWindow],
    events: list[Event],
) -> None:
    quiet, full = make_sink(), make_sink(windows=True, sound=True)
    quiet.send(make_window())
    assert receiver.requests == []
    full.send(make_window())
    for event in events:
        quiet.send(event)
        full.send(event)
    trees = [json.loads(body) for _, body in receiver.requests]
    assert [tree["kind"] for tree in trees] == [
        "window",
        *(kind for kind in ("alarm", "health", "flood") for _ in "12"),
    ]
    assert ["sound" in tree for tree in trees] == [False, False, True, False, False, False, False]
    parts = [base64.b64decode(part["flac"]) for part in trees[2]["sound"]]
    assert parts == [b"fLaC first", b"fLaC second"]


@pytest.mark.parametrize("url", ["ftp://host/", "host/hook", "file:///etc/passwd", "http://"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        WebhookSettings(url=url)
