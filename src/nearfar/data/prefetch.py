"""A map that computes ahead in background threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nearfar.threads import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """``map(function, items)``, computed in ``threads`` threads up to ``ahead`` results ahead of the consumer.

    Results come in the order of the items. An exception is raised instead of its result; results not yet computed
    are dropped. Reading and resampling audio release the GIL, so threads suffice.
    """
    return in_order(ThreadPoolExecutor(threads, "nearfar-loader"), function, items, ahead)
