"""A watch that is killed again and again; run as a program, so that each watch is a process of its own.

    python -m tests.watch.killed DETECTOR FOLDER TIMES SEED BEGIN_S

A parent imports everything once, and forks a watch at a time: a random while after a random transaction, or before
the first, it is killed with SIGKILL. New recordings appear meanwhile. At the end a watch runs undisturbed. Prints
how often one was killed before it had ended, and how many windows were scored until then.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tests.watch.sounds import machine_sound, write_sound

from nearfar.watch import engine as engine_module
from nearfar.watch.config import checked_config
from nearfar.watch.delivery import Delivery, NamedSink
from nearfar.watch.engine import Watch
from nearfar.watch.events import Event
from nearfar.watch.memory import Memory

RECORDINGS = 4
"""New recordings in each round; every 20th and the one behind it are of a fault."""


class LogSink:
    """Writes the numbers of events to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def send(self, event: Event) -> None:
        """Write the number of an event."""
        self._file.write(b"%d\n" % event.number)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def tables(detector: Path) -> dict[str, object]:
    """The configuration."""
    machine = {"detector": str(detector), "folder": "rec", "settle_seconds": 0.001, "once": True}
    rule = {"raise_level": 1.0, "count": 2, "of": 3, "clear_count": 2, "clear_level": 0.9}
    keep = {"before_seconds": 1, "after_seconds": 1}
    return {"machines": {"mill": machine}, "alarm": rule, "keep": keep}


def watch(detector: Path, folder: Path, progress: Callable[[], object] = lambda: None) -> None:
    """Watch until all recordings are scored."""
    memory = Memory.open(folder / "memory.sqlite")
    engine_module.BATCH = 2  # many transactions
    engine = Watch(checked_config(tables(detector), "killed"), folder, memory)  # type: ignore[arg-type]
    delivery = Delivery(memory, [NamedSink("log", LogSink(folder / "delivered.txt"), False)])
    progress()
    engine.run(threading.Event(), on_windows=lambda windows: progress())
    delivery.close()
    memory.close()


def write_recordings(folder: Path, first: int, count: int, begin_s: float) -> None:
    """New recordings, whose times follow one another."""
    for number in range(first, first + count):
        sound = machine_sound(
            number, fault=number % 20 < 3 and number > 20, seconds=1.6 if number % 5 == 0 else 1.0
        )
        path = write_sound(folder / f"{number:05d}.wav", sound)
        os.utime(path, (begin_s + 10.0 * number, begin_s + 10.0 * number))


def main() -> None:
    """Kill watches."""
    detector, folder, times, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    begin_s, chance, killed = float(sys.argv[5]), random.Random(seed), 0
    torch.set_num_threads(1)
    for round_number in range(times):
        write_recordings(folder / "rec", RECORDINGS * round_number, RECORDINGS, begin_s)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                watch(detector, folder, partial(os.write, writing, b"1"))
            finally:
                os._exit(0)
        os.close(writing)
        for _ in range(chance.randint(0, 4)):  # until it has loaded its detector, and written so many transactions
            os.read(reading, 1)
        time.sleep(chance.choice([0.0, chance.uniform(0.0, 0.02), chance.uniform(0.0, 0.3)]))
        os.close(reading)
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
    memory = Memory.open(folder / "memory.sqlite")
    windows = sum(machine.windows for machine in memory.machines())
    memory.close()
    watch(detector, folder)
    print(killed, windows)


if __name__ == "__main__":
    main()
