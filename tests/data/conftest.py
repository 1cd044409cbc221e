"""A server on the loopback interface with faults on request, and small archives for it to serve."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nearfar.data.download.catalogue import Archive


class Loopback:
    """Serves ``files`` by path. Each request to a path takes the next fault of its ``script``, if any.

    A fault is a name handled in :class:`_Handler`, or ``(status, headers)``.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.script: dict[str, list] = {}
        self.requests: list[tuple[str, str | None]] = []
        """The path and the range of every request, in order."""
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.stalled = threading.Event()
        """Set when an answer stopped half-way and keeps the connection open."""
        self.go_on = threading.Event()

    def ranges(self, path: str) -> list[str | None]:
        return [asked for requested, asked in self.requests if requested == path]


class _Handler(BaseHTTPRequestHandler):
    loopback: Loopback

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.loopback
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range")))
            steps = server.script.get(self.path, [])
            step = steps.pop(0) if steps else "well"
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            self.answer(step)
        finally:
            with server.lock:
                server.busy -= 1

    def answer(self, step) -> None:
        if isinstance(step, tuple):
            return self.refuse(*step)
        if step == "hang up":
            return self.reset()
        if step == "slow":
            time.sleep(0.05)
        if self.path not in self.loopback.files:
            return self.refuse(404)
        content = self.loopback.files[self.path]
        if step == "wrong bytes":
            content = bytes(255 - byte for byte in content)
        if step == "a page":
            content = b"<html>Please log in</html>"
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked and not step.startswith(("ignore range", "a page")) else 0
        if start and start >= len(content):
            return self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
        return self.send(step, content, start)

    def send(self, step: str, content: bytes, start: int) -> None:
        if start:
            shown = start + 1 if step == "another range" else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {shown}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[start:]
        if step != "no length":
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if step.endswith(("drop", "truncate", "truncate early", "stall")):
            self.wfile.write(rest[: len(rest) // (4 if step.endswith("early") else 2)])
            self.wfile.flush()
            if step == "stall":
                self.loopback.stalled.set()
                self.loopback.go_on.wait(20)
            if "drop" in step:
                self.reset()
            return
        with contextlib.suppress(ConnectionError):  # the client may have closed the connection
            self.wfile.write(rest)

    def refuse(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self) -> None:
        """Reset the connection; data that was sent may be lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True
        self.rfile.close()
        self.connection.close()


@pytest.fixture
def loopback(monkeypatch) -> Iterator[Loopback]:
    """A running server, reached without the proxies of the environment."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda request, client_address: None  # connections that are cut on purpose
    handler.loopback = Loopback(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler.loopback
    handler.loopback.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


CLIPS = {"train": "section_00_source_train_normal_000{}_noAttribute.wav", "test": "section_00_000{}.wav"}


@pytest.fixture
def serve(loopback, monkeypatch):
    """``serve(part, machine, files=None)``: an archive, by default of two clips per split."""
    catalogue: list[Archive] = []
    monkeypatch.setattr("nearfar.data.download.catalogue.ARCHIVES", catalogue)

    def served(part: str, machine: str, files: dict[str, bytes] | None = None, sized: bool = True) -> Archive:
        archive = Archive(part, machine, f"{part}_{machine}.zip", "")
        noise = random.Random(archive.filename)
        content = zip_bytes(
            files
            if files is not None
            else {
                f"{machine}/{split}/{CLIPS[split].format(index)}": noise.randbytes(20_000)
                for split in archive.splits
                for index in range(2)
            }
        )
        size = len(content) if sized else None
        archive = Archive(part, machine, archive.filename, hashlib.md5(content).hexdigest(), size)
        loopback.files[archive.url("")] = content
        catalogue.append(archive)
        return archive

    return served
