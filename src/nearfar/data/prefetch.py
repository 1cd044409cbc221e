"""A map that computes ahead in background threads."""

from __future__ import annotations

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
