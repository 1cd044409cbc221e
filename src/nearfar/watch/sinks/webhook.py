"""A webhook: events as JSON by HTTP POST, signed by Standard Webhooks (https://www.standardwebhooks.com).

Headers of a request: ``webhook-id`` and ``idempotency-key``, the same where an event is delivered again;
``webhook-timestamp``, in seconds since 1970; and with a secret ``webhook-signature``, which is ``v1,`` and the
base64 of the HMAC-SHA256 of ``<id>.<timestamp>.<body>``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import field_validator

from nearfar import __version__
from nearfar.errors import InputError
from nearfar.settings import PositiveFloat, Settings
from nearfar.watch.alarm import AlarmCause
from nearfar.watch.events import AlarmTransition, Event, ScoredWindow
from nearfar.watch.secret_files import secret_in

if TYPE_CHECKING:
    from nearfar.watch.memory import Memory

logger = logging.getLogger(__name__)

REFUSED = (400, 410, 413, 415, 422)
"""Answers that mean that the receiver will never accept this request, so that it is not sent again."""
SECRET_PREFIX = "whsec_"


class WebhookSettings(Settings):
    """Keys of a sink with ``kind = "webhook"``."""

    url: str
    """That events are posted to."""
    secret_file: Path | None = None
    """File with the secret of the signature; one that begins with ``whsec_`` is base64 after that."""
    windows: bool = False
    """Whether every scored window is posted as well."""
    sound: bool = False
    """Whether an alarm that is raised is posted with its sound so far, as FLAC in base64."""
    timeout_seconds: PositiveFloat = 10.0

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address that begins with https:// or http://")
        return url


class WebhookSink:
    """Posts events to one address. ``clock`` gives seconds since 1970."""

    def __init__(
        self, name: str, settings: WebhookSettings, memory: Memory, clock: Callable[[], float] = time.time
    ) -> None:
        self._name, self._settings, self._memory, self._clock = name, settings, memory, clock
        self._secret = None if settings.secret_file is None else secret_of(settings.secret_file)
        self._opener = build_opener(_NoRedirects)

    def send(self, event: Event) -> None:
        """Post an event.

        Raises:
            ConnectionError: if it is not accepted, and may be later.
        """
        if isinstance(event, ScoredWindow) and not self._settings.windows:
            return
        tree = event.to_json()
        raised = isinstance(event, AlarmTransition) and event.cause in (AlarmCause.RAISED, AlarmCause.RE_ALARM)
        if raised and self._settings.sound:
            tree["sound"] = [
                {"begin_s": part.begin_s, "seconds": part.seconds, "flac": base64.b64encode(part.flac).decode()}
                for part in self._memory.audio(tree["alarm"])
            ]
        body = json.dumps(tree, ensure_ascii=False).encode()
        key = f"{self._name}-{event.number or 'window'}-{round(1000 * event.time_s)}"
        request = Request(self._settings.url, body, self._headers(key, body), method="POST")
        try:
            with self._opener.open(request, timeout=self._settings.timeout_seconds):
                return
        except HTTPError as error:
            error.close()
            if error.code not in REFUSED:
                raise ConnectionError(f"{self._settings.url} answers {error.code} {error.reason}") from None
            logger.error(
                "%s: %s answers %d %s; event %d is not sent again",
                *(self._name, self._settings.url, error.code, error.reason, event.number),
            )
        except (OSError, HTTPException) as error:
            raise ConnectionError(f"{self._settings.url}: {error}") from None

    def close(self) -> None:
        """Nothing is open between two events."""

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock()))
        headers = {
            "content-type": "application/json",
            "user-agent": f"nearfar/{__version__}",
            "idempotency-key": key,
            "webhook-id": key,
            "webhook-timestamp": timestamp,
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, key, timestamp, body)
        return headers


def signature(secret: bytes, key: str, timestamp: str, body: bytes) -> str:
    """The signature of a request by Standard Webhooks."""
    digest = hmac.new(secret, f"{key}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def secret_of(path: Path) -> bytes:
    """The key in a file: base64 after ``whsec_``, or any other text as it is.

    Raises:
        InputError: if there is none.
    """
    text = secret_in(path)
    if not text.startswith(SECRET_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise InputError(
            path,
            found=f"{SECRET_PREFIX} and no base64",
            expected="a secret as the receiver shows it",
            remedy="Copy it again",
        ) from None


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without the event."""

    def redirect_request(self, *_: Any) -> None:
        return None
