"""Download of one file over HTTP, with range requests and retries, and checks of the disk it is written to."""

from __future__ import annotations

import errno
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast

from nearfar.errors import InputError, NearfarError
from nearfar.progress import StepProgress

_log = logging.getLogger(__name__)

OnSize = Callable[[int], None] | None
CHUNK_BYTES = 1 << 18
STEADY_BYTES = 1 << 20
"""A connection that received this much before it dropped resets the count of failures."""
SPARE_BYTES = 100_000_000
"""Left free on the disk beyond what is needed."""
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which a request is repeated; all other errors are final."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number and timing of repeated requests.

    Args:
        attempts: successive failures, without receiving more of the file, before giving up.
        timeout_seconds: without data on a connection.
        longest_retry_after_seconds: a server that asks for a longer wait is treated as a refusal.
    """

    attempts: int = 6
    timeout_seconds: float = 30.0
    longest_retry_after_seconds: float = 900.0
    sleep: Callable[[float], object] = time.sleep

    def wait_seconds(self, failures: int, retry_after: float | None) -> float:
        """The wait after a number of successive failures: the server's, else 1 s, doubled up to 60 s."""
        return min(2.0 ** (failures - 1), 60.0) if retry_after is None else retry_after


class TransferError(NearfarError):
    """A download failed. ``answered`` is False if there was no answer from the server."""

    def __init__(self, url: str, reason: str, *, answered: bool) -> None:
        self.url, self.reason, self.answered = url, reason, answered
        super().__init__(f"{url}: {reason}.")


class _AttemptError(Exception):
    """An attempt failed; another one may succeed."""

    def __init__(self, reason: str, *, answered: bool = True, retry_after: float | None = None) -> None:
        self.reason, self.answered, self.retry_after = reason, answered, retry_after
        super().__init__(reason)


def fetch(
    url: str,
    path: Path,
    *,
    size_bytes: int | None = None,
    retry: RetryPolicy | None = None,
    on_size: OnSize = None,
    progress: StepProgress | None = None,
) -> None:
    """Download a file over HTTP, resuming after the bytes that ``path`` already holds.

    The file is downloaded from its start if the server ignores ranges. The content is not verified: compare a
    checksum afterwards.

    Args:
        path: the partial file; complete on return, kept after an error.
        size_bytes: of the whole file, if known; an answer of another size is refused before it is written.
        on_size: called with the size of the whole file once it is known, before the first byte is written.
        progress: called with bytes done and in all (0 if not known).

    Raises:
        TransferError: if the server refuses, or all attempts failed.
        InputError: if the file cannot be written.
    """
    retry = retry or RetryPolicy()
    failures, furthest = 0, _size(path)
    while True:
        try:
            return _attempt(url, path, size_bytes, retry, on_size, progress)
        except _AttemptError as failure:
            # Measured from the furthest point ever reached, so that a server which drops and ignores ranges
            # does not cause an endless loop.
            failures = 1 if _size(path) - furthest >= STEADY_BYTES else failures + 1
            furthest = max(furthest, _size(path))
            wait = retry.wait_seconds(failures, failure.retry_after)
            reason = failure.reason
            if wait > retry.longest_retry_after_seconds:
                reason += f", and asks to retry after {wait / 60:.0f} minutes"
            elif failures < retry.attempts:
                _log.warning("%s: %s; retrying in %.0f s", url, reason, wait)
                retry.sleep(wait)
                continue
            elif failures > 1:
                reason += f" ({failures} times in a row)"
            raise TransferError(url, reason, answered=failure.answered) from None


def retry_after_seconds(value: str | None) -> float | None:
    """The wait that a Retry-After header gives in seconds or as an HTTP date; None if it is neither."""
    text = (value or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Require ``needed_bytes`` and :data:`SPARE_BYTES` free on the disk of a folder, which need not exist yet.

    Raises:
        InputError: if less is free; it states the ``purpose``.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes + SPARE_BYTES:
        raise InputError(
            folder,
            found=f"{free / 1e9:.2f} GB free",
            expected=f"{(needed_bytes + SPARE_BYTES) / 1e9:.2f} GB for {purpose}",
            remedy="Free some space or give a folder on another disk; finished downloads are kept",
        )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing to ``path`` into an InputError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            path,
            found="no space left on the disk" if full else str(error),
            expected="a writable path",
            remedy=("Free some space" if full else "Check the folder and its permissions")
            + " and rerun the same command to resume",
        ) from None


def _attempt(
    url: str, path: Path, size: int | None, retry: RetryPolicy, on_size: OnSize, progress: StepProgress | None
) -> None:
    if size is not None and _size(path) > size:
        path.unlink()
    offset = _size(path)
    if offset == size or (response := _request(url, path, retry)) is None:
        return
    with response:
        done, total = _range_of(response, offset, size)
        if on_size is not None and total is not None:
            on_size(total)
        with disk_errors(path), path.open("ab" if done else "wb") as file:
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


def _request(url: str, path: Path, retry: RetryPolicy) -> HTTPResponse | None:
    """The response with the bytes after those in ``path``; None if there are no more."""
    offset = _size(path)
    headers = {"User-Agent": "nearfar", **({"Range": f"bytes={offset}-"} if offset else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        return cast(HTTPResponse, urllib.request.urlopen(request, timeout=retry.timeout_seconds))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and offset:
                if error.headers.get("Content-Range", "").strip() == f"bytes */{offset}":
                    return None
                path.unlink()
                raise _AttemptError("the partial file does not match the server's") from None
            reason = f"the server answers {error.code} {error.reason}"
            if error.code not in RETRY_STATUSES:
                raise TransferError(url, reason, answered=True) from None
            wait = retry_after_seconds(error.headers.get("Retry-After"))
            raise _AttemptError(reason, retry_after=wait) from None
    except (OSError, HTTPException) as error:
        raise _AttemptError(_reason(error), answered=False) from None


def _range_of(response: HTTPResponse, offset: int, size_bytes: int | None) -> tuple[int, int | None]:
    """The first byte of the response, and the size of the whole file if known."""
    if response.status == 206:
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if stated is None or int(stated[1]) != offset:
            raise _AttemptError("the server sends another range than requested")
        start, total = offset, None if stated[2] == "*" else int(stated[2])
    else:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdecimal() else None
    if total is not None and size_bytes is not None and total != size_bytes:
        raise _AttemptError(f"the server offers {total} bytes where {size_bytes} are expected")
    return start, size_bytes if total is None else total


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """The chunks of the body. Errors of the network are separated from those of the disk here."""
    try:
        # read1 returns the available bytes: read would lose a part of a chunk when the connection drops.
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _AttemptError(f"the connection broke: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
