"""Where the tasks of a command run: in this process and local ones, in a distributed launch, or on a cluster.

A task is a call of a function that is safe to repeat: it writes whole files or returns a small result. To add an
executor, write it in a module of its own and add one line to the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nearfar.errors import InputError
from nearfar.executors.base import Executor
from nearfar.executors.dask_cluster import DaskExecutor
from nearfar.executors.launch import LaunchExecutor, is_launch, is_main_process
from nearfar.executors.local import LocalExecutor
from nearfar.executors.ray_cluster import RayExecutor
from nearfar.registry import Entry, Registry

__all__ = ["EXECUTORS", "Executor", "ExecutorEntry", "LocalExecutor", "default_executor", "is_main_process"]


@dataclass(frozen=True, kw_only=True)
class ExecutorEntry(Entry):
    """An executor.

    Attributes:
        connect: from the address of a cluster, empty for executors without one, to the executor.
    """

    connect: Callable[[str], Executor]


EXECUTORS: Registry[ExecutorEntry] = Registry("executor")
EXECUTORS["local"] = ExecutorEntry(
    connect=lambda address: LocalExecutor(), description="this process, and others on this machine for long work"
)
EXECUTORS["launch"] = ExecutorEntry(
    connect=lambda address: LaunchExecutor(), description="the processes of accelerate launch"
)
EXECUTORS["ray"] = ExecutorEntry(connect=RayExecutor, description="a Ray cluster")
EXECUTORS["dask"] = ExecutorEntry(connect=DaskExecutor, description="a Dask cluster")


def default_executor(**addresses: str | None) -> Executor:
    """The executor of a cluster whose address is given, such as ``ray="auto"``; else that of this process.

    In a distributed launch, all its processes share the tasks.

    Raises:
        InputError: if several addresses are given, or one within a launch, or a cluster cannot be used.
    """
    given = {name: address for name, address in addresses.items() if address is not None}
    if len(given) > 1 or (given and is_launch()):
        raise InputError(
            next(iter(given)),
            found="several places where tasks could run",
            expected="one cluster, or a distributed launch",
            remedy="Omit one",
        )
    for name, address in given.items():
        return EXECUTORS[name].connect(address)
    return EXECUTORS["launch" if is_launch() else "local"].connect("")
