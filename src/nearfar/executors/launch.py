"""Tasks shared by the processes of a distributed launch, such as ``accelerate launch``.

All processes run the same program. Each computes every n-th task, then all exchange their results, so that each
has those of all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from nearfar.errors import NearfarError
from nearfar.executors.base import Executor, Finished, Item, Result
from nearfar.extras import require_extras
from nearfar.progress import Progress, silent

if TYPE_CHECKING:
    from accelerate import PartialState

PROCESS_COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers give the number of processes."""

LONGEST_WAIT = timedelta(hours=24)
"""For a process with more work; the launcher ends all processes when one of them dies."""


def is_launch() -> bool:
    """Whether this is one of several processes that were launched together."""
    found = (os.environ.get(name, "") for name in PROCESS_COUNTS)
    return any(text.isdecimal() and int(text) > 1 for text in found)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of a distributed launch."""
    return not is_launch() or bool(process_state().is_main_process)


def process_state() -> PartialState:
    """accelerate's state of the processes, which are connected at the first call.

    Raises:
        InputError: if accelerate is not installed.
    """
    require_extras("processes", "train")
    import torch
    from accelerate import PartialState

    # Without cpu=True accelerate does not connect processes on a machine without a GPU, and would train on Apple's
    # GPU, which the rest of nearfar does not use.
    if PartialState._shared_state:
        return PartialState()
    options = {"timeout": LONGEST_WAIT} if is_launch() else {}
    return PartialState(cpu=not torch.cuda.is_available(), **options)


class LaunchExecutor(Executor):
    """The processes of a launch: process i of n computes the tasks i, i + n, i + 2n and so on."""

    def __init__(self) -> None:
        self._state = process_state()
        self.is_main = bool(self._state.is_main_process)

    def map(
        self,
        function: Callable[[Item, Progress], Result],
        items: Sequence[Item],
        *,
        task: str,
        progress: Progress = silent,
        sizes: Sequence[int] | None = None,
        uses_all_cores: bool = False,
    ) -> list[Result]:
        """As :meth:`Executor.map`; an error of one process is raised in all."""
        from accelerate.utils import gather_object

        progress = progress if self.is_main else silent
        finished = Finished(task, sizes, len(items), progress)
        processes, own = self._state.num_processes, self._state.process_index
        results: list[tuple[int, Result]] = []
        failure: Exception | None = None
        try:
            for index in range(own, len(items), processes):
                results.append((index, function(items[index], progress)))
                finished.one(index, processes)
        except Exception as error:  # raised below in all processes: the others wait for the results of this one
            failure = error
        with lost_processes():
            gathered = gather_object([(results, failure)])
        for _, raised in gathered:
            if raised is not None:
                raise raised
        found = dict(pair for pairs, _ in gathered for pair in pairs)
        return [found[index] for index in range(len(items))]

    def wait(self) -> None:
        """Wait until every process comes here."""
        with lost_processes():
            self._state.wait_for_everyone()


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn the error of a connection to a process that ended into a message."""
    import torch

    try:
        yield
    except torch.distributed.DistError as error:
        raise _lost(error) from None
    except RuntimeError as error:
        if "gloo" not in str(error).lower():
            raise
        raise _lost(error) from None


def _lost(error: Exception) -> NearfarError:
    return NearfarError(
        f"another process of this launch has ended ({' '.join(str(error).split())[:160]}). Its own message says "
        "why. Run the same command again; what is finished is kept."
    )
