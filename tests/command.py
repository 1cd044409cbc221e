"""A command line of nearfar in the process of the test: how it is called and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Finished(NamedTuple):
    code: int
    out: str
    err: str


Nearfar = Callable[..., Finished]
