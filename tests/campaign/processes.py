"""Commands in processes forked from one that has imported everything, so that hundreds of them take minutes."""

from __future__ import annotations

import codecs
import fcntl
import importlib
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from nearfar import cli

LONGEST_SECONDS = 120.0
"""A command that runs longer is killed and counts as one that does not end."""

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031


class Finished(NamedTuple):
    """The end of a command: its exit code, or minus the signal that ended it; None if it did not end."""

    code: int | None
    out: str
    err: str
    seconds: float


class Child:
    """One command in a process of its own.

    Args:
        arguments: of ``nearfar``.
        folder: the working directory.
        prepare: called in the process before the command.
        out: a file or device for standard output, instead of a pipe.
        at_end: called in the process after the command.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        prepare: Callable[[], None] | None = None,
        out: Path | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        pipes = [os.pipe() for _ in range(2)]
        for _, write in pipes:  # large enough that the process never waits for a reader
            fcntl.fcntl(write, _F_SETPIPE_SZ, _PIPE_BYTES)
        self.began = time.perf_counter()
        self.pid = os.fork()
        if self.pid == 0:
            _run(arguments, folder, prepare, [write for _, write in pipes], out, at_end)
        for _, write in pipes:
            os.close(write)
        self._pipes = [read for read, _ in pipes]

    def kill(self) -> None:
        """Kill -9."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, kill_after: float | None = None) -> Finished:
        """Wait for the end; kill -9 ``kill_after`` seconds after the start if it has not ended by then."""
        limit = LONGEST_SECONDS if kill_after is None else kill_after
        status, killed = None, False
        while status is None:
            pid, found = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                status = found
            elif not killed and time.perf_counter() - self.began > limit:
                self.kill()
                killed = True
            else:
                time.sleep(0.002)
        seconds = time.perf_counter() - self.began
        texts = []
        for read in self._pipes:
            with os.fdopen(read, "rb") as file:
                texts.append(file.read().decode(errors="replace"))
        did_not_end = killed and kill_after is None
        return Finished(None if did_not_end else os.waitstatus_to_exitcode(status), texts[0], texts[1], seconds)


def _run(
    arguments: Sequence[str],
    folder: Path,
    prepare: Callable[[], None] | None,
    pipes: list[int],
    out: Path | None,
    at_end: Callable[[], None] | None,
) -> None:
    """The life of the forked process; it never returns."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        target = os.open(out, os.O_WRONLY) if out is not None else pipes[0]
        os.dup2(target, 1)
        os.dup2(pipes[1], 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), encoding="utf-8", line_buffering=True)
        sys.argv = ["nearfar", *arguments]
        os.environ["TMPDIR"], tempfile.tempdir = str(folder / "tmp"), None
        torch.set_num_threads(1)
        if prepare is not None:
            prepare()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        try:
            sys.stdout.flush()
        except OSError:
            code = 120  # as Python ends where standard output cannot be written
        if at_end is not None:
            at_end()
    finally:
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def import_what_they_need(commands: Sequence[Sequence[str]], folder: Path) -> None:
    """Import, here, the modules that these commands import; they themselves run in other processes."""
    listing = folder / "tmp" / "modules.txt"
    for codec in ("ascii", "latin-1", "utf-8-sig", "idna"):  # another user may not be able to read Python's files
        codecs.lookup(codec)
    for arguments in commands:
        Child(arguments, folder, at_end=lambda: _write_modules(listing)).wait()
        for name in listing.read_text().split("\n"):
            with suppress(Exception):
                importlib.import_module(name)


def _write_modules(listing: Path) -> None:
    listing.write_text("\n".join(name for name in sys.modules if not name.startswith("__")))
