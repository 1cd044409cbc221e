"""A map that computes ahead in background threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """``map(function, items)``, computed in ``threads`` threads up to ``ahead`` results ahead of the consumer.

    Results come in the order of the items. An exception is raised instead of its result; results not yet computed
    are dropped. Reading and resampling audio release the GIL, so threads suffice.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="nearfar-loader") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def buffered(items: Iterator[Item], *, size: Callable[[Item], int], most: int) -> Iterator[Item]:
    """The items of an iterator, which a background thread advances until the waiting items are ``most`` in size.

    One item is always read ahead, whatever its size. An exception of the iterator is raised in its place.
    """
    waiting: deque[tuple[Item | None, BaseException | None]] = deque()
    changed = threading.Condition()
    total, stopped = 0, False

    def has_room() -> bool:
        return stopped or not waiting or total < most

    def read() -> None:
        nonlocal total
        end: tuple[Item | None, BaseException | None] = (None, None)
        try:
            for item in items:
                with changed:
                    changed.wait_for(has_room)
                    if stopped:
                        return
                    waiting.append((item, None))
                    total += size(item)
                    changed.notify_all()
        except BaseException as error:  # raised again in the consumer's thread
            end = (None, error)
        with changed:
            waiting.append(end)
            changed.notify_all()

    thread = threading.Thread(target=read, name="nearfar-reader", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: bool(waiting))
                item, error = waiting.popleft()
                if item is not None:
                    total -= size(item)
                changed.notify_all()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        with changed:
            stopped = True
            changed.notify_all()
        thread.join()
