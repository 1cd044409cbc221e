"""Tasks in this process, and in worker processes of this machine where there is much left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from nearfar.executors.base import Executor, Finished, Item, PoolExecutor, Result
from nearfar.progress import Progress, silent
from nearfar.threads import jobs

WORTH_SECONDS = 30.0
"""Worker processes are started where the rest would take longer in this one: each takes about 3 s to begin."""


class LocalExecutor(Executor):
    """Runs tasks one after the other; once they prove long, the rest in as many processes as there are jobs."""

    is_local = True

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
        finished = Finished(task, sizes, len(items), progress)
        alone = uses_all_cores or jobs() == 1 or _has_gpu()
        results: list[Result] = []
        began = time.perf_counter()
        for index, item in enumerate(items):
            rest = len(items) - index
            if index and not alone and rest > 1:
                seconds = (time.perf_counter() - began) / index * rest
                if seconds > WORTH_SECONDS:
                    return results + self._in_workers(function, items, index, task, progress, sizes)
            results.append(function(item, progress))
            finished.one(index)
        return results

    def _in_workers(
        self,
        function: Callable[[Item, Progress], Result],
        items: Sequence[Item],
        begin: int,
        task: str,
        progress: Progress,
        sizes: Sequence[int] | None,
    ) -> list[Result]:
        """The results from the item with index ``begin`` on."""
        done = begin if sizes is None else sum(sizes[:begin])
        total = len(items) if sizes is None else sum(sizes)

        def shifted(name: str, rest: int, _: int) -> None:
            progress(name, done + rest, total)

        left = None if sizes is None else sizes[begin:]
        return _LocalPool(jobs()).map(function, items[begin:], task=task, progress=shifted, sizes=left)


class _LocalPool(PoolExecutor):
    """Worker processes of this machine, by joblib's default backend."""

    backend = "loky"

    def __init__(self, workers: int) -> None:
        self.n_jobs, self.options = workers, {"inner_max_num_threads": 1}

    def losses(self) -> tuple[type[BaseException], ...]:
        """A worker that was killed, or could not begin."""
        from concurrent.futures.process import BrokenProcessPool

        return (BrokenProcessPool,)


def _has_gpu() -> bool:
    """Whether networks of this process run on a GPU, which several processes would compete for."""
    import torch

    return torch.cuda.is_available()
