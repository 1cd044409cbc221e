"""Download from a server that drops, truncates, ignores ranges, refuses, or asks to wait."""

from __future__ import annotations

import random
from email.utils import formatdate
from pathlib import Path

import pytest

from nearfar.data.download.transfer import STEADY_BYTES, RetryPolicy, TransferError, fetch, retry_after_seconds
from nearfar.errors import InputError

NOW = 1_780_000_000.0
CONTENT = random.Random(0).randbytes(300_000)
HALF = f"bytes={len(CONTENT) // 2}-"


class Waits(list):
    """Records waits instead of sleeping."""

    def policy(self, **settings) -> RetryPolicy:
        return RetryPolicy(sleep=self.append, timeout_seconds=5, **settings)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def clock(monkeypatch) -> None:
    """The time is always NOW."""
    monkeypatch.setattr("time.time", lambda: NOW)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "file.part"


@pytest.fixture
def faulty(loopback):
    """Set the faults of the server, one per request; later requests succeed."""

    def set_script(*steps) -> str:
        loopback.files["/file"] = CONTENT
        loopback.script["/file"] = list(steps)
        return f"{loopback.url}/file"

    return set_script


def test_a_file_is_downloaded_with_its_size_and_progress(faulty, loopback, path, waits):
    sizes, steps = [], []
    fetch(
        faulty(),
        path,
        retry=waits.policy(),
        on_size=sizes.append,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert path.read_bytes() == CONTENT
    assert sizes == [len(CONTENT)]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert (loopback.ranges("/file"), waits) == ([None], [])


@pytest.mark.parametrize("fault", ["drop", "truncate"])
@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_broken_connection_is_resumed(faulty, loopback, path, waits, fault, size):
    fetch(faulty(fault, fault), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    first, *further = loopback.ranges("/file")
    assert first is None
    assert len(further) == 2
    assert all(asked is None or asked.startswith("bytes=") for asked in further)
    assert waits == [1.0, 2.0]
    if fault == "truncate":  # after a reset received data may be lost
        assert further == [HALF, f"bytes={len(CONTENT) * 3 // 4}-"]


def test_a_partial_file_is_resumed(faulty, loopback, path, waits):
    path.write_bytes(CONTENT[:1000])
    fetch(faulty(), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"]


def test_a_server_that_ignores_ranges_starts_from_the_beginning(faulty, loopback, path, waits):
    path.write_bytes(b"x" * 1000)
    fetch(faulty("ignore range"), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"]


def test_another_range_than_requested_is_retried(faulty, loopback, path, waits):
    path.write_bytes(CONTENT[:1000])
    fetch(faulty("another range"), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"] * 2


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_complete_partial_file_is_not_downloaded_again(faulty, loopback, path, waits, size):
    path.write_bytes(CONTENT)
    fetch(faulty(), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert len(loopback.requests) == (0 if size else 1)


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_partial_file_that_is_too_long_is_downloaded_again(faulty, path, waits, size):
    path.write_bytes(CONTENT + b"more")
    fetch(faulty(), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT


def test_a_file_without_stated_length_is_read_to_its_end(faulty, path, waits):
    sizes = []
    fetch(faulty("no length"), path, retry=waits.policy(), on_size=sizes.append)
    assert path.read_bytes() == CONTENT
    assert sizes == []


def test_a_web_page_instead_of_the_file_is_not_written(faulty, path, waits):
    path.write_bytes(CONTENT[:1000])
    url = faulty("a page", "a page")
    with pytest.raises(TransferError, match=r"offers 26 bytes where 300000 are expected \(2 times in a row\)"):
        fetch(url, path, size_bytes=len(CONTENT), retry=waits.policy(attempts=2))
    assert path.read_bytes() == CONTENT[:1000]
    fetch(url, path, size_bytes=len(CONTENT), retry=waits.policy())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(faulty, path, waits, clock, status):
    date = formatdate(NOW + 90, usegmt=True)
    url = faulty((status, {"Retry-After": "7"}), (status, {"Retry-After": date}), (status, {}), "hang up")
    fetch(url, path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert waits == [7.0, 90.0, 4.0, 8.0]


def test_the_back_off_is_bounded():
    policy = RetryPolicy()
    assert [policy.wait_seconds(failures, None) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_wait_that_is_too_long_is_a_refusal(faulty, path, waits):
    with pytest.raises(TransferError, match="429 Too Many Requests, and asks to retry after 60 minutes") as caught:
        fetch(faulty((429, {"Retry-After": "3600"})), path, retry=waits.policy())
    assert waits == []
    assert caught.value.answered


def test_attempts_are_bounded_and_the_partial_file_is_kept(faulty, loopback, path, waits):
    url = faulty("truncate", *[(503, {})] * 9)
    with pytest.raises(TransferError, match=r"503 Service Unavailable \(4 times in a row\)") as caught:
        fetch(url, path, retry=waits.policy(attempts=4))
    assert path.read_bytes() == CONTENT[: len(CONTENT) // 2]
    assert (waits, len(loopback.requests), caught.value.answered) == ([1, 2, 4], 4, True)


def test_progress_resets_the_count_of_attempts(loopback, path, waits):
    content = random.Random(1).randbytes(40 * STEADY_BYTES)
    loopback.files["/file"] = content
    loopback.script["/file"] = ["truncate"] * 4
    fetch(f"{loopback.url}/file", path, retry=waits.policy(attempts=2))
    assert path.read_bytes() == content
    assert waits == [1.0] * 4


def test_repeated_starts_from_the_beginning_are_bounded(faulty, loopback, path, waits):
    with pytest.raises(TransferError, match="3 times in a row"):
        fetch(faulty(*["ignore range, drop"] * 9), path, retry=waits.policy(attempts=3))
    assert len(loopback.requests) == 3


def test_alternating_lengths_are_no_progress(loopback, path, waits):
    loopback.files["/file"] = bytes(8 * STEADY_BYTES)
    loopback.script["/file"] = ["ignore range, truncate", "ignore range, truncate early"] * 9
    with pytest.raises(TransferError, match="3 times in a row"):
        fetch(f"{loopback.url}/file", path, retry=waits.policy(attempts=3))
    assert len(loopback.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_final_refusal_is_not_retried(faulty, loopback, path, waits, status):
    with pytest.raises(TransferError, match=f"answers {status}"):
        fetch(faulty((status, {})), path, retry=waits.policy())
    assert (len(loopback.requests), waits) == (1, [])


def test_no_server_at_all(path, waits):
    with pytest.raises(TransferError, match="Connection refused") as caught:
        fetch("http://127.0.0.1:9/file", path, retry=waits.policy(attempts=3))
    assert not caught.value.answered
    assert waits == [1.0, 2.0]


def test_a_stalled_connection_times_out(faulty, loopback, path, waits):
    policy = RetryPolicy(attempts=1, timeout_seconds=0.2, sleep=waits.append)
    with pytest.raises(TransferError, match="timed out"):
        fetch(faulty("stall"), path, retry=policy)
    assert path.read_bytes() == CONTENT[: len(CONTENT) // 2]


def test_an_error_of_the_disk_is_no_error_of_the_network(faulty, loopback, tmp_path, waits):
    with pytest.raises(InputError, match="expected a writable path"):
        fetch(faulty(), tmp_path / "missing" / "file.part", retry=waits.policy())
    assert (len(loopback.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        (formatdate(NOW + 30, usegmt=True), 30.0),
        (formatdate(NOW + 30), 30.0),  # -0000: no time zone
        (formatdate(NOW - 30, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds, clock):
    assert retry_after_seconds(value) == seconds
