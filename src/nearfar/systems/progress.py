"""How long steps tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a long step, how much of it is done and how much there is."""


def silent(task: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""
