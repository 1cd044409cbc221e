"""One file over HTTP, however often the connection drops: ranges, retries with back-off, bounded patience."""

from __future__ import annotations

import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast

from nearfar.data.download.space import disk_errors
from nearfar.errors import NearfarError

_log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
STEADY_BYTES = 1 << 20
"""A connection that got this much further before it dropped does not count against the server's patience."""

WORTH_WAITING = (408, 425, 429, 500, 502, 503, 504)
"""Answers that another attempt may change; any other refusal is final."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to keep asking a server.

    Args:
        attempts: failures in a row, without getting further, before giving up.
        timeout_seconds: of silence on a connection.
        first_wait_seconds: after the first failure; doubled after each further one.
        longest_wait_seconds: bound of that doubling.
        longest_retry_after_seconds: a server that asks to wait longer than this is taken to refuse.
        sleep: waits for so many seconds.
        now: seconds since the epoch, to which a date in Retry-After is compared.
    """

    attempts: int = 6
    timeout_seconds: float = 30.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 60.0
    longest_retry_after_seconds: float = 900.0
    sleep: Callable[[float], object] = time.sleep
    now: Callable[[], float] = time.time

    def wait_seconds(self, failures: int, retry_after: float | None) -> float:
        """The pause after so many failures in a row: what the server asked for, else the back-off."""
        if retry_after is not None:
            return retry_after
        return min(self.first_wait_seconds * 2.0 ** (failures - 1), self.longest_wait_seconds)


class TransferError(NearfarError):
    """A file cannot be had from a server. ``answered`` tells whether the server said anything at all."""

    def __init__(self, url: str, reason: str, *, answered: bool) -> None:
        self.url, self.reason, self.answered = url, reason, answered
        super().__init__(f"{url}: {reason}.")


class _AttemptError(Exception):
    """An attempt failed in a way that another one may not."""

    def __init__(self, reason: str, *, answered: bool = True, retry_after: float | None = None) -> None:
        self.reason, self.answered, self.retry_after = reason, answered, retry_after
        super().__init__(reason)


def fetch(
    url: str,
    path: Path,
    *,
    size_bytes: int | None = None,
    patience: Patience | None = None,
    announce: Callable[[int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Bring a file, continuing after the bytes that ``path`` already holds.

    A server that ignores the range starts the file anew. Nothing here tells whether the bytes are the right ones:
    compare a checksum afterwards.

    Args:
        url: http or https.
        path: the partial file; whole when this returns, kept when this raises.
        size_bytes: of the whole file, if known; an answer of another size is refused before it is written.
        patience: how long to keep asking.
        announce: is told the size of the whole file when it is known, before the first byte is written.
        progress: is told the bytes there are and the bytes there will be (0 if not known).

    Raises:
        TransferError: if the server refuses, or the patience is at its end.
        InputError: if the file cannot be written.
    """
    patience = patience or Patience()
    failures, furthest = 0, _size(path)
    while True:
        try:
            return _receive(url, path, size_bytes, patience, announce, progress)
        except _AttemptError as failure:
            # Measured from the furthest point ever reached, so that a server which drops and ignores ranges
            # cannot keep this going for ever.
            failures = 1 if _size(path) - furthest >= STEADY_BYTES else failures + 1
            furthest = max(furthest, _size(path))
            wait = patience.wait_seconds(failures, failure.retry_after)
            reason = failure.reason
            if wait > patience.longest_retry_after_seconds:
                reason += f", and asks to come back in {wait / 60:.0f} minutes"
            elif failures < patience.attempts:
                _log.warning("%s: %s; trying again in %.0f s", url, reason, wait)
                patience.sleep(wait)
                continue
            elif failures > 1:
                reason += f" ({failures} times in a row)"
            raise TransferError(url, reason, answered=failure.answered) from None


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """The pause that a Retry-After header asks for, in seconds or as an HTTP date; None if it says nothing.

    Args:
        value: of the header.
        now: seconds since the epoch.
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _receive(
    url: str,
    path: Path,
    size_bytes: int | None,
    patience: Patience,
    announce: Callable[[int], None] | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """One attempt."""
    if size_bytes is not None and _size(path) > size_bytes:
        path.unlink()
    held = _size(path)
    if held == size_bytes:
        return
    response = _ask(url, path, patience)
    if response is None:
        return
    with response:
        start, total = _agreed(response, held, size_bytes)
        if announce is not None and total is not None:
            announce(total)
        done = start
        with disk_errors(path), path.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total or 0)
    if total is not None and done < total:
        raise _AttemptError(f"the connection closed after {done} of {total} bytes")
    if total is not None and done > total:
        path.unlink()
        raise _AttemptError(f"the server sent more than {total} bytes")


def _ask(url: str, path: Path, patience: Patience) -> HTTPResponse | None:
    """The server's answer for the bytes after those that are there; None if there are none after those."""
    held = _size(path)
    headers = {"User-Agent": "nearfar", **({"Range": f"bytes={held}-"} if held else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        return cast(HTTPResponse, urllib.request.urlopen(request, timeout=patience.timeout_seconds))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and held:
                if error.headers.get("Content-Range", "").strip() == f"bytes */{held}":
                    return None
                path.unlink()
                raise _AttemptError("the partial file does not fit the server's") from None
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in WORTH_WAITING:
                raise TransferError(url, reason, answered=True) from None
            pause = retry_after_seconds(error.headers.get("Retry-After"), patience.now())
            raise _AttemptError(reason, retry_after=pause) from None
    except (OSError, HTTPException) as error:
        raise _AttemptError(_said(error), answered=False) from None


def _agreed(response: HTTPResponse, held: int, size_bytes: int | None) -> tuple[int, int | None]:
    """From which byte on the answer goes, and the size of the whole file if anyone knows it."""
    if response.status == 206:
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if stated is None or int(stated[1]) != held:
            raise _AttemptError("the server sends another range than the one asked for")
        start, total = held, None if stated[2] == "*" else int(stated[2])
    else:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdecimal() else None
    if total is not None and size_bytes is not None and total != size_bytes:
        raise _AttemptError(f"the server offers {total} bytes where {size_bytes} are expected")
    return start, size_bytes if total is None else total


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it comes. A failing network is told apart from a failing disk here."""
    while True:
        try:
            # read1 gives what is there: read would lose a part of a chunk when the connection drops.
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            raise _AttemptError(f"the connection broke: {_said(error)}") from None
        if not chunk:
            return
        yield chunk


def _said(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
