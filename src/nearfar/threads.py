"""How many threads and workers computations use: one policy for every command and for the library.

* Small operations, such as the spectrogram of one clip, run on one thread (:func:`one_thread`): torch's own
  threads wait for one another longer than they compute, and far longer where another process is busy.
* Recordings are spread over workers (:func:`parallel_map`), each of which computes on one thread.
* Large matrix products, such as those of networks in training, run on several threads (:func:`several_threads`).

There are as many workers, and threads of large products, as cores that this process may use, and no more than the
user allows: by ``--jobs`` or ``NEARFAR_JOBS``, else by ``OMP_NUM_THREADS``, ``MKL_NUM_THREADS`` or
``torch.set_num_threads``. Results do not depend on their number. All settings are of the calling thread, and are
as before when a function here returns: torch keeps its number of threads for each thread.

torch is not imported here: where it is not in use, nothing has to be set.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from nearfar.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

JOBS_VARIABLE = "NEARFAR_JOBS"
_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
WAITING_PER_WORKER = 2
"""Results of :func:`parallel_map` per worker that may wait for the consumer."""

_chosen: int | None = None
_here = threading.local()
_setting = threading.Lock()


def usable_cores() -> int:
    """The cores that affinity and the quotas of control groups leave to this process, at least 1."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, cores if quota is None else min(cores, ceil(quota)))


@cache
def _quota(membership: Path, mounted: Path) -> float | None:
    """The smallest quota, in cores, of this process's control groups (version 1 or 2) and those above them."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [mounted / controllers, mounted / "cpu"] if controllers else [mounted, mounted / "unified"]
        # Within a container its own group is the root, whatever the name.
        groups = [Path(name), *Path(name).parents]
        found += [_group_quota(root / group.relative_to("/")) for root in roots for group in groups]
    return min((quota for quota in found if quota is not None), default=None)


def _group_quota(group: Path) -> float | None:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            text = " ".join((group / name).read_text(encoding="utf-8") for name in names)
            quota, period = map(float, text.split())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


def set_jobs(count: int | None) -> None:
    """Set the number of workers and threads of this process, as ``--jobs`` does; None: as :func:`jobs` finds it.

    Raises:
        InputError: if it is below 1.
    """
    global _chosen
    if count is not None and count < 1:
        raise InputError("jobs", found=str(count), expected="1 or more", remedy="Correct it")
    _chosen = count


def jobs() -> int:
    """The number of workers; 1 within a worker.

    Raises:
        InputError: if ``NEARFAR_JOBS`` is no whole number of 1 or more.
    """
    if is_worker():
        return 1
    if _chosen is not None:
        return _chosen
    given = os.environ.get(JOBS_VARIABLE)
    if given:
        if not given.isdecimal() or int(given) < 1:
            raise InputError(JOBS_VARIABLE, found=repr(given), expected="1 or more", remedy="Correct or unset it")
        return int(given)
    return min([usable_cores(), *_user_limits()])


def _user_limits() -> Iterator[int]:
    """Numbers of threads that the user of the library or the command has set."""
    for name in _LIMITS:
        first = os.environ.get(name, "").split(",")[0].strip()  # OMP_NUM_THREADS may list nested levels
        if first.isdecimal() and int(first) > 0:
            yield int(first)
    if (torch := sys.modules.get("torch")) is not None:
        # Above the number of cores unless the user, or nearfar around this call, has set it.
        yield getattr(_here, "users", None) or torch.get_num_threads()


def is_worker() -> bool:
    """Whether this thread is a worker of :func:`parallel_map`."""
    return getattr(_here, "worker", False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch computes on one thread: for operations on one or a few clips.

    Do not yield to a caller from within: the setting would last until it comes back.
    """
    with _torch_threads(1):
        yield


@contextmanager
def libraries_on_one_thread() -> Iterator[None]:
    """Within it, the matrix products of numpy, scipy and scikit-learn run on one thread.

    The setting is of the whole process, for its time. It takes a few milliseconds.
    """
    from threadpoolctl import threadpool_limits

    with one_thread(), threadpool_limits(1):
        yield


@contextmanager
def several_threads() -> Iterator[None]:
    """Within it, torch computes on as many threads as there are :func:`jobs`: for large matrix products."""
    with _torch_threads(jobs()):
        yield


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = count if torch is None else torch.get_num_threads()
    if torch is None or before == count:
        yield
        return
    outermost = getattr(_here, "users", None) is None
    if outermost:
        _here.users = before
    try:
        _set_here(torch, count)
        yield
    finally:
        torch.set_num_threads(before)
        if outermost:
            _here.users = None


def _set_here(torch: Any, count: int) -> None:
    """Set the number of threads of this thread alone: torch also gives it to threads that begin afterwards."""
    with _setting:
        default = _in_new_thread(torch.get_num_threads)
        torch.get_num_threads()  # else this thread's first operation would take the default
        torch.set_num_threads(count)
        if default != count:
            _in_new_thread(lambda: torch.set_num_threads(default))


def _in_new_thread(function: Callable[[], Any]) -> Any:
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(function()))
    thread.start()
    thread.join()
    return out[0]


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int | None = None
) -> Iterator[Result]:
    """``map(function, items)``, computed by :func:`jobs` workers; results in the order of the items.

    Workers are threads: reading, decoding, Fourier transforms and torch release Python's lock. Each computes on
    one thread, so results do not depend on the number of workers. With one worker, one item, and within a worker,
    all is computed in the calling thread, when a result is asked for.

    Args:
        function: called in a worker.
        items: advanced in the calling thread.
        ahead: the number of results, and of items in work, that may wait for the consumer; by default
            :data:`WAITING_PER_WORKER` for each worker.

    Raises:
        Exception: of ``function``, in place of its result; what was not computed yet is dropped.
    """
    count = jobs()
    if count == 1 or (isinstance(items, Sized) and len(items) < 2):
        for item in items:
            with one_thread():
                result = function(item)
            yield result
        return
    most = WAITING_PER_WORKER * count if ahead is None else ahead
    pool = ThreadPoolExecutor(count, "nearfar-worker", initializer=_begin_worker)
    yield from in_order(pool, function, items, most)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """``map(function, items)``, computed in a pool, which is shut down at the end.

    Args:
        pool: of this call alone.
        function: called in a thread of the pool.
        items: advanced in the calling thread.
        ahead: the number of results, and of items in work, that may wait for the consumer.

    Raises:
        Exception: of ``function``, in place of its result; what was not computed yet is dropped.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        pool.shutdown()
    finally:
        # After an error the threads are not joined: the garbage collector may close this generator while any
        # thread is starting or ending, which then holds the lock that joining waits for.
        pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker() -> None:
    _here.worker = True
    if (torch := sys.modules.get("torch")) is not None:
        _set_here(torch, 1)
