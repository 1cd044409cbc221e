"""Checks of every request before the pages see it: host, origin and size; and the headers of every answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from nearfar.web.access import is_loopback

LARGEST_BODY = 64 * 1024
"""Bytes of a request's body: forms and JSON of actions, no recordings."""
TOO_LARGE = f"The request is larger than {LARGEST_BODY} bytes."

HEADERS = {
    "content-security-policy": (
        # Charts carry their line widths in style attributes; there are no scripts or style sheets in pages.
        "default-src 'none'; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; "
        "img-src 'self' data:; media-src 'self'; connect-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of every answer that does not set them itself."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _TooLargeError(Exception):
    pass


class Protection:
    """An ASGI application that refuses requests which no own page or client sends, and adds :data:`HEADERS`.

    Args:
        application: that answers the others.
        local_only: whether requests must name this computer as their host. A page of another site whose name leads
            to 127.0.0.1 (DNS rebinding) names that site.
    """

    def __init__(self, application: Application, local_only: bool) -> None:
        self._application, self._local_only = application, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        body = _Body(receive)
        refused = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal refused
            if body.too_large:  # the application answers that it cannot read it
                if not refused:
                    refused = True
                    await _refuse(send, 413, TOO_LARGE)
                return
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message["headers"])}
            await send(message)

        if self._local_only and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            await _refuse(sending, 421, "This address only answers to 127.0.0.1 and localhost.")
        elif scope["method"] not in SAFE_METHODS and not _from_own_page(headers, host):
            await _refuse(sending, 403, "The request comes from another site.")
        elif _declared_length(headers) > LARGEST_BODY:
            await _refuse(sending, 413, TOO_LARGE)
        else:
            await self._application(scope, body.receive, sending)


def _from_own_page(headers: MutableMapping[str, str], host: str) -> bool:
    """Whether a browser says that a page of this site sent the request; other clients say nothing."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == host


def _declared_length(headers: MutableMapping[str, str]) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else LARGEST_BODY + 1


class _Body:
    """The body of a request, of which no more than :data:`LARGEST_BODY` bytes are received."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._received = receive, 0
        self.too_large = False

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        if self._received > LARGEST_BODY:
            self.too_large = True
            raise _TooLargeError
        return message


def _with_headers(own: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    names = {name for name, _ in own}
    added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    return [*own, *(pair for pair in added if pair[0] not in names)]


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = f"{reason}\n".encode()
    own = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": _with_headers(own)})
    await send({"type": "http.response.body", "body": body})
