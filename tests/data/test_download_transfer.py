"""A file arrives whole from a server that drops, truncates, ignores ranges, refuses, or asks to wait."""

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
    """The pauses asked for; nobody waits."""

    def policy(self, **settings) -> RetryPolicy:
        return RetryPolicy(sleep=self.append, now=lambda: NOW, timeout_seconds=5, **settings)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "file.part"


@pytest.fixture
def misbehave(loopback):
    """The server misbehaves so, one step per request, before it behaves."""

    def set_script(*steps) -> str:
        loopback.files["/file"] = CONTENT
        loopback.script["/file"] = list(steps)
        return f"{loopback.url}/file"

    return set_script


def test_a_file_arrives_whole_with_its_size_announced_and_its_progress_told(misbehave, loopback, path, waits):
    announced, told = [], []
    fetch(
        misbehave(),
        path,
        retry=waits.policy(),
        on_size=announced.append,
        progress=lambda done, total: told.append((done, total)),
    )
    assert path.read_bytes() == CONTENT
    assert announced == [len(CONTENT)]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert (loopback.ranges("/file"), waits) == ([None], [])


@pytest.mark.parametrize("fault", ["drop", "truncate"])
@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_broken_connection_is_continued_from_the_byte_it_broke_at(misbehave, loopback, path, waits, fault, size):
    fetch(misbehave(fault, fault), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    first, *further = loopback.ranges("/file")
    assert first is None
    assert len(further) == 2
    assert all(asked is None or asked.startswith("bytes=") for asked in further)
    assert waits == [1.0, 2.0]
    if fault == "truncate":  # after a reset the system may have thrown away what had come
        assert further == [HALF, f"bytes={len(CONTENT) * 3 // 4}-"]


def test_a_partial_file_is_continued(misbehave, loopback, path, waits):
    path.write_bytes(CONTENT[:1000])
    fetch(misbehave(), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"]


def test_a_server_that_ignores_ranges_starts_anew(misbehave, loopback, path, waits):
    path.write_bytes(b"x" * 1000)
    fetch(misbehave("ignore range"), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"]


def test_a_server_that_sends_another_range_is_asked_again(misbehave, loopback, path, waits):
    path.write_bytes(CONTENT[:1000])
    fetch(misbehave("another range"), path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert loopback.ranges("/file") == ["bytes=1000-"] * 2


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_partial_file_that_is_whole_is_not_fetched_again(misbehave, loopback, path, waits, size):
    path.write_bytes(CONTENT)
    fetch(misbehave(), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert len(loopback.requests) == (0 if size else 1)


@pytest.mark.parametrize("size", [len(CONTENT), None], ids=["known size", "unknown size"])
def test_a_partial_file_that_is_too_long_is_fetched_again(misbehave, path, waits, size):
    path.write_bytes(CONTENT + b"more")
    fetch(misbehave(), path, size_bytes=size, retry=waits.policy())
    assert path.read_bytes() == CONTENT


def test_a_file_without_stated_length_is_taken_to_its_end(misbehave, path, waits):
    announced = []
    fetch(misbehave("no length"), path, retry=waits.policy(), on_size=announced.append)
    assert path.read_bytes() == CONTENT
    assert announced == []


def test_a_page_in_place_of_the_file_is_not_written(misbehave, path, waits):
    path.write_bytes(CONTENT[:1000])
    url = misbehave("a page", "a page")
    with pytest.raises(TransferError, match=r"offers 26 bytes where 300000 are expected \(2 times in a row\)"):
        fetch(url, path, size_bytes=len(CONTENT), retry=waits.policy(attempts=2))
    assert path.read_bytes() == CONTENT[:1000]
    fetch(url, path, size_bytes=len(CONTENT), retry=waits.policy())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(misbehave, path, waits, status):
    date = formatdate(NOW + 90, usegmt=True)
    url = misbehave((status, {"Retry-After": "7"}), (status, {"Retry-After": date}), (status, {}), "hang up")
    fetch(url, path, retry=waits.policy())
    assert path.read_bytes() == CONTENT
    assert waits == [7.0, 90.0, 4.0, 8.0]


def test_the_back_off_is_bounded():
    policy = RetryPolicy()
    assert [policy.wait_seconds(failures, None) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_wait_that_is_too_long_is_a_refusal(misbehave, path, waits):
    with pytest.raises(TransferError, match="429 Too Many Requests, and asks to retry after 60 minutes") as caught:
        fetch(misbehave((429, {"Retry-After": "3600"})), path, retry=waits.policy())
    assert waits == []
    assert caught.value.answered


def test_attempts_are_bounded_and_the_partial_file_is_kept(misbehave, loopback, path, waits):
    url = misbehave("truncate", *[(503, {})] * 9)
    with pytest.raises(TransferError, match=r"503 Service Unavailable \(4 times in a row\)") as caught:
        fetch(url, path, retry=waits.policy(attempts=4))
    assert path.read_bytes() == CONTENT[: len(CONTENT) // 2]
    assert (waits, len(loopback.requests), caught.value.answered) == ([1, 2, 4], 4, True)


def test_a_server_that_gets_further_each_time_has_all_the_attempts_it_needs(loopback, path, waits):
    content = random.Random(1).randbytes(40 * STEADY_BYTES)
    loopback.files["/file"] = content
    loopback.script["/file"] = ["truncate"] * 4
    fetch(f"{loopback.url}/file", path, retry=waits.policy(attempts=2))
    assert path.read_bytes() == content
    assert waits == [1.0] * 4


def test_a_server_that_always_starts_anew_and_drops_does_not_keep_us_for_ever(misbehave, loopback, path, waits):
    with pytest.raises(TransferError, match="3 times in a row"):
        fetch(misbehave(*["ignore range, drop"] * 9), path, retry=waits.policy(attempts=3))
    assert len(loopback.requests) == 3


def test_going_back_and_forth_is_not_getting_further(loopback, path, waits):
    loopback.files["/file"] = bytes(8 * STEADY_BYTES)
    loopback.script["/file"] = ["ignore range, truncate", "ignore range, truncate early"] * 9
    with pytest.raises(TransferError, match="3 times in a row"):
        fetch(f"{loopback.url}/file", path, retry=waits.policy(attempts=3))
    assert len(loopback.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_that_is_final_is_not_asked_again(misbehave, loopback, path, waits, status):
    with pytest.raises(TransferError, match=f"answers {status}"):
        fetch(misbehave((status, {})), path, retry=waits.policy())
    assert (len(loopback.requests), waits) == (1, [])


def test_no_server_at_all(path, waits):
    with pytest.raises(TransferError, match="Connection refused") as caught:
        fetch("http://127.0.0.1:9/file", path, retry=waits.policy(attempts=3))
    assert not caught.value.answered
    assert waits == [1.0, 2.0]


def test_silence_ends_in_a_timeout(misbehave, loopback, path, waits):
    policy = RetryPolicy(attempts=1, timeout_seconds=0.2, sleep=waits.append)
    with pytest.raises(TransferError, match="timed out"):
        fetch(misbehave("stall"), path, retry=policy)
    assert path.read_bytes() == CONTENT[: len(CONTENT) // 2]


def test_a_disk_that_refuses_is_not_taken_for_the_network(misbehave, loopback, tmp_path, waits):
    with pytest.raises(InputError, match="expected a writable path"):
        fetch(misbehave(), tmp_path / "missing" / "file.part", retry=waits.policy())
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
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, NOW) == seconds
