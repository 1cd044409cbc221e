"""Work done ahead: the order, the bound, and what happens when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.prefetch import prefetched


@pytest.fixture
def earlier() -> set[threading.Thread]:
    """Threads that other tests of the process have left."""
    return set(threading.enumerate())


def have_ended(earlier: set[threading.Thread]) -> bool:
    """Whether all loader threads but the earlier ones end within ten seconds."""
    loaders = [thread for thread in set(threading.enumerate()) - earlier if "nearfar-loader" in thread.name]
    for thread in loaders:
        thread.join(timeout=10)
    return not any(thread.is_alive() for thread in loaders)


@given(items=st.lists(st.integers(), max_size=30), threads=st.integers(1, 4), ahead=st.integers(0, 9))
def test_it_is_map_whatever_the_number_of_threads(items: list[int], threads: int, ahead: int) -> None:
    assert list(prefetched(lambda item: 3 * item, items, threads=threads, ahead=ahead)) == [3 * n for n in items]


def test_results_keep_the_order_of_the_items_when_later_ones_are_ready_first() -> None:
    first_may_end = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(timeout=10)
        elif item == 1:
            first_may_end.set()
        return item

    assert list(prefetched(work, range(4), threads=2, ahead=2)) == [0, 1, 2, 3]


def test_work_is_done_while_the_consumer_is_busy() -> None:
    done = threading.Event()

    def work(item: int) -> int:
        if item == 2:
            done.set()
        return item

    results = prefetched(work, range(10), threads=1, ahead=2)
    assert next(results) == 0
    assert done.wait(timeout=10), "items 1 and 2 are worked on without being asked for"
    results.close()  # type: ignore[attr-defined]


def test_never_more_is_under_way_than_allowed() -> None:
    ahead, taken, furthest = 3, 0, 0

    def items() -> Iterator[int]:
        nonlocal furthest
        for item in range(20):
            furthest = max(furthest, item + 1 - taken)
            yield item

    for _ in prefetched(lambda item: item, items(), threads=2, ahead=ahead):
        taken += 1
    assert taken == 20
    assert furthest == ahead + 1, "the one that is waited for, and three more"


def test_an_error_comes_in_the_place_of_its_result_and_ends_the_work(earlier: set[threading.Thread]) -> None:
    def work(item: int) -> int:
        if item == 3:
            raise OSError("no such clip")
        return item

    results = prefetched(work, range(100), threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no such clip"):
        next(results)
    assert list(results) == []
    assert have_ended(earlier)


def test_pending_items_are_cancelled(earlier: set[threading.Thread]) -> None:
    started: list[int] = []
    go_on = threading.Event()

    def work(item: int) -> int:
        started.append(item)
        if item == 1:
            assert go_on.wait(timeout=10)
        return item

    results = prefetched(work, range(100), threads=1, ahead=50)
    assert next(results) == 0
    while 1 not in started:
        time.sleep(0.001)
    threading.Timer(0.05, go_on.set).start()
    results.close()  # type: ignore[attr-defined]
    assert have_ended(earlier)
    assert started == [0, 1], "item 1 was under way; the other fifty were waiting and are dropped"


def test_closing_does_not_wait_for_what_is_under_way(earlier: set[threading.Thread]) -> None:
    # The garbage collector may close a generator within a thread that holds what another needs to end.
    may_end = threading.Event()

    def work(item: int) -> bool:
        return item == 0 or may_end.wait(timeout=60)

    results = prefetched(work, range(3), threads=1, ahead=2)
    assert next(results)
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    waited = time.monotonic() - began
    may_end.set()
    assert waited < 10
    assert have_ended(earlier)


def test_an_endless_list_of_items_is_read_only_as_far_as_needed() -> None:
    def endless() -> Iterator[int]:
        item = 0
        while True:
            yield item
            item += 1

    results = prefetched(lambda item: item, endless(), threads=1, ahead=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    results.close()  # type: ignore[attr-defined]
