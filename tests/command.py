"""A command line of nearfar in the process of the test: how it is called and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

LAUNCH = (
    "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
)
"""Options of ``accelerate launch`` for two processes with or without GPUs; its ``--cpu`` would need MPI."""


class Finished(NamedTuple):
    code: int
    out: str
    err: str


Nearfar = Callable[..., Finished]
