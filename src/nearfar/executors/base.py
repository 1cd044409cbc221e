"""What every executor does, and the executors that hand tasks to worker processes through joblib."""

from __future__ import annotations

import logging
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from nearfar.errors import NearfarError
from nearfar.progress import Progress, silent
from nearfar.threads import set_jobs

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

ROUND = 8
"""Tasks per worker that are handed over together; results of earlier rounds are never computed again."""

MOST_LOSSES = 5
"""So many times in a row workers may be lost without any result before the work ends with an error."""


class Executor(ABC):
    """Runs tasks.

    Attributes:
        is_main: whether this process writes results and prints; false in helper processes of a launch.
        is_local: whether tasks begin in this process, one after the other.
        is_cluster: whether whole runs are handed to workers elsewhere, which share folders with this process.
    """

    is_main: bool = True
    is_local: bool = False
    is_cluster: bool = False

    @abstractmethod
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
        """``[function(item, progress) for item in items]``.

        Args:
            function: safe to repeat, and importable by name in another process; its second argument reports the
                progress within a task, where that can be shown.
            items: what to call it with.
            task: the name of this work in ``progress`` and messages.
            progress: called as tasks finish.
            sizes: of items, for progress; by default 1 each.
            uses_all_cores: whether a single task uses all cores of a machine by itself.

        Raises:
            NearfarError: if workers are lost again and again, and whatever the function raises.
        """

    def wait(self) -> None:  # noqa: B027
        """Wait until every process of a launch comes here; without a launch there is nothing to wait for."""


class Finished:
    """Adds up the sizes of finished tasks and reports them."""

    def __init__(self, task: str, sizes: Sequence[int] | None, tasks: int, progress: Progress) -> None:
        self._task, self._sizes, self._progress = task, sizes, progress
        self._done, self._total = 0, tasks if sizes is None else sum(sizes)

    def one(self, index: int, times: int = 1) -> None:
        """A task is finished, or ``times`` of its size."""
        self._done += times * (1 if self._sizes is None else self._sizes[index])
        self._progress(self._task, min(self._done, self._total), self._total)

    def share(self, share: float) -> None:
        """This share of all tasks is finished, from 0 to 1."""
        self._progress(self._task, int(share * self._total), self._total)


def _in_worker(function: bytes, folder: str, item: bytes) -> tuple[Any, list[str]]:
    """A task in a worker: in the folder of the main process, as paths may be relative, and on one thread.

    Returns:
        the result, and the warnings that were logged.
    """
    if str(Path.cwd()) != folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise NearfarError(
                f"{folder}: a worker cannot use it ({error.strerror}). Workers need the folders of this command "
                "at the same path, such as on a network drive."
            ) from None
    set_jobs(1)
    with _logged() as warnings:
        result = _unpickled(function)(pickle.loads(item), silent)
    return result, warnings


@contextmanager
def _logged() -> Iterator[list[str]]:
    """The warnings that nearfar logs within the context, which are not printed there."""
    messages: list[str] = []

    class Collecting(logging.Handler):
        """Keeps messages."""

        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, own = Collecting(logging.WARNING), logging.getLogger("nearfar")
    own.addHandler(handler)
    before, own.propagate = own.propagate, False
    try:
        yield messages
    finally:
        own.propagate = before
        own.removeHandler(handler)


@lru_cache(maxsize=1)
def _unpickled(function: bytes) -> Callable[[Any, Progress], Any]:
    """The function of the tasks, with what it refers to, such as networks, loaded only once."""
    found: Callable[[Any, Progress], Any] = pickle.loads(function)
    return found


class PoolExecutor(Executor):
    """Hands tasks to worker processes, in rounds, and those of lost workers to others.

    A subclass names joblib's backend, its options, and the errors that mean a lost worker. Warnings of workers are
    logged here, each once.
    """

    backend: str
    options: dict[str, Any]
    n_jobs: int = -1

    @abstractmethod
    def losses(self) -> tuple[type[BaseException], ...]:
        """The errors that mean that a worker was lost."""

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
        """As :meth:`Executor.map`."""
        found: dict[int, tuple[Result, list[str]]] = {}
        finished = Finished(task, sizes, len(items), progress)
        remote = partial(_in_worker, pickle.dumps(function), str(Path.cwd()))
        lost = 0
        while len(found) < len(items):
            before = len(found)
            try:
                self._rounds(remote, items, found, finished)
            except self.losses() as error:
                lost = 1 if len(found) > before else lost + 1
                if lost > MOST_LOSSES:
                    raise NearfarError(
                        f"{task}: workers ended {lost} times in a row without a result ({_line(error)}). Look at "
                        "their memory, and run the same command again; what is finished is kept."
                    ) from None
                logger.warning("%s: a worker was lost (%s); its tasks run again", task, _line(error))
        for message in dict.fromkeys(text for _, warnings in found.values() for text in warnings):
            logger.warning("%s", message)
        return [found[index][0] for index in range(len(items))]

    def _rounds(
        self,
        remote: Callable[[bytes], tuple[Result, list[str]]],
        items: Sequence[Item],
        found: dict[int, tuple[Result, list[str]]],
        finished: Finished,
    ) -> None:
        """Compute what is missing in ``found``, as far as no worker is lost."""
        import joblib

        missing = [index for index in range(len(items)) if index not in found]
        with self._parallel(lambda done: finished.share((len(found) + done) / len(items))) as parallel:
            size = ROUND * max(1, joblib.effective_n_jobs(self.n_jobs))
            for begin in range(0, len(missing), size):
                chosen = missing[begin : begin + size]
                results = parallel(joblib.delayed(remote)(pickle.dumps(items[index])) for index in chosen)
                found.update(zip(chosen, results, strict=True))

    @contextmanager
    def _parallel(self, on_result: Callable[[int], None]) -> Iterator[Any]:
        """joblib's Parallel on this executor's workers, which calls a function with the number of results."""
        import joblib

        class Reporting(joblib.Parallel):  # type: ignore[misc]
            """joblib calls ``print_progress`` whenever a result is there."""

            def print_progress(self) -> None:
                on_result(self.n_completed_tasks)

        with (
            joblib.parallel_config(backend=self.backend, n_jobs=self.n_jobs, **self.options),
            Reporting(batch_size=1, pre_dispatch="all", max_nbytes=None) as parallel,
        ):
            yield parallel


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Successive parts of a sequence, of ``size`` items but for the last."""
    return [items[begin : begin + size] for begin in range(0, len(items), size)]


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
