"""Tasks on a Ray cluster, through Ray's own backend of joblib."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from nearfar.errors import InputError
from nearfar.executors.base import Item, PoolExecutor, Result
from nearfar.extras import require_extras
from nearfar.progress import Progress, silent

CONNECT_SECONDS = 10.0
"""Ray itself would wait for more than a minute for a cluster that is not there."""


class RayExecutor(PoolExecutor):
    """A worker per core of the cluster.

    Args:
        address: of the cluster, such as ``10.0.0.1:6379``, or ``auto`` on one of its nodes.

    Raises:
        InputError: if Ray is not installed, or there is no cluster at the address.
    """

    backend, is_cluster = "ray", True

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else messages may come later than in map
        require_extras("ray", "ray")
        import ray
        from ray.util.joblib import register_ray

        logging.getLogger("ray.util.multiprocessing.pool").setLevel(logging.ERROR)  # of joblib's arguments
        try:
            _require_listener(address)
            ray.init(address=address, ignore_reinit_error=True, configure_logging=False, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                "ray",
                found=f"no cluster at {address} ({' '.join(str(error).split())[:120]})",
                expected="the address of a running Ray cluster, or auto on one of its nodes",
                remedy="Start it with the command ray start, or correct the address",
            ) from None
        register_ray()  # type: ignore[no-untyped-call]
        self.options = {"ray_remote_args": {"num_cpus": 1, "scheduling_strategy": "SPREAD"}}

    def losses(self) -> tuple[type[BaseException], ...]:
        """Workers that died, and results that were lost with their node."""
        from ray.exceptions import ObjectLostError, RayActorError, WorkerCrashedError

        return RayActorError, ObjectLostError, WorkerCrashedError

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
        """As :meth:`nearfar.executors.base.Executor.map`."""
        with redirect_stdout(sys.stderr):  # Ray prints that a worker died, and output is for results
            return super().map(function, items, task=task, progress=progress, sizes=sizes)


def _require_listener(address: str) -> None:
    """Raise an OSError if nothing listens at ``host:port``; other addresses are Ray's to check."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
