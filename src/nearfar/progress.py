"""Progress callbacks of long steps, and the TensorBoard writer of training records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from nearfar.extras import require_extras

Progress = Callable[[str, int, int], None]
"""Called with the name of a long step, the amount done and the total amount."""

StepProgress = Callable[[int, int], None]
"""Called with the number of finished steps (or epochs) and their total number."""


def silent(task: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def advancing(progress: Progress, task: str, total: int) -> Callable[[int], None]:
    """A callback that is called with the number of items finished since its last call and reports their sum."""
    done = 0

    def advance(items: int) -> None:
        nonlocal done
        done += items
        progress(task, done, total)

    return advance


MEASURED_SECONDS = 10.0
"""Time after which the steps of a task say how long the others will take."""


class Pace:
    """How long steps will take, from the time that those before them took in this call.

    Args:
        clock: seconds, increasing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}

    def seconds_left(self, task: str, done: int, total: int) -> float | None:
        """Seconds until the task ends; None until :data:`MEASURED_SECONDS` after its first call.

        The first call may come after work of an earlier run, which does not count.
        """
        now = self._clock()
        began, before = self._began.setdefault(task, (now, done))
        if done < before:  # the task begins again, for instance on other data
            self._began[task] = began, before = now, done
        if done == before or now - began < MEASURED_SECONDS:
            return None
        return (now - began) / (done - before) * (total - done)


def duration(seconds: float) -> str:
    """A duration for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def record_writer(folder: Path | None) -> Iterator[Callable[[Any], None] | None]:
    """A function that writes training records into ``folder`` for TensorBoard, or None without a folder.

    A record is a dataclass instance. Its first field is the step or epoch; every other field that is not None
    becomes a scalar of the same name.

    Raises:
        InputError: if TensorBoard is not installed.
    """
    if folder is None:
        yield None
        return
    require_extras("tensorboard", "tracking")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def write(record: Any) -> None:
            position, *names = (field.name for field in fields(record))
            for name in names:
                if (value := getattr(record, name)) is not None:
                    writer.add_scalar(name, value, getattr(record, position))

        yield write
