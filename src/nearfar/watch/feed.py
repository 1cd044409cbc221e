"""The windows of one machine's source, read in a thread that opens the source again where it fails."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import InputError, NearfarError
from nearfar.watch.cutting import Cutter, CutWindow
from nearfar.watch.health import Finding
from nearfar.watch.memory import Memory
from nearfar.watch.sources.base import AudioBlock, AudioSource, Taken

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""How long a source that failed is left alone: twice as long each time."""

MISSING_WINDOWS = 3
"""A live source that gives no sound for so many windows has failed."""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream has no more windows; ``error`` says why the rest of it could not be used."""

    stream: str
    name: str
    size: int
    changed_ns: int
    end_s: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Missed:
    """Sound that was not scored because processing was too late."""

    begin_s: float
    seconds: float
    windows: int


@dataclass(frozen=True, slots=True)
class Cutting:
    """How sound becomes windows.

    Attributes:
        window_s, hop_s: of the detector, in seconds.
        channels: (near, far) or (near,), in the source; ``places`` are where the detector expects them.
        live: whether sound arrives all the time, read or not.
        most_waiting: of a live source, how many windows may wait; the oldest is missed then.
        missing_after_s: after so long without sound it is missing; None: never.
    """

    window_s: float
    hop_s: float
    channels: tuple[int, ...]
    places: tuple[int, ...]
    live: bool
    most_waiting: int
    missing_after_s: float | None

    def routed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The channels where the detector expects them.

        Raises:
            InputError: if the source lacks one.
        """
        if self.channels == self.places:
            return samples
        if max(self.channels) >= len(samples):
            raise InputError(
                "channels",
                found=f"{len(samples)} channels",
                expected=f"at least {max(self.channels) + 1}, for near = {self.channels[0]}",
                remedy="Correct near and far, or the source",
            )
        out = np.zeros((max(self.places) + 1, samples.shape[1]), np.float32)
        out[list(self.places)] = samples[list(self.channels)]
        return out


class Feed:
    """Reads a source in a thread, and holds the windows that wait to be scored.

    Args:
        machine: its name in the configuration.
        source: of sound.
        cutting: into windows.
        memory: which lists what was taken before.
        notify: called when there is something to take.
    """

    def __init__(
        self, machine: str, source: AudioSource, cutting: Cutting, memory: Memory, notify: Callable[[], None]
    ) -> None:
        self.machine, self.cutting = machine, cutting
        self.finished = False
        """Whether the source has ended and nothing waits."""
        self._source, self._memory, self._notify = source, memory, notify
        self._waiting: deque[CutWindow | StreamEnd] = deque()
        self._changed = threading.Condition()
        self._missed: list[Missed] = []
        self._error: str | None = None
        self._last_sound = time.monotonic()
        self._ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"source of {machine}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End reading, without waiting for it."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait until reading has ended."""
        self._thread.join(timeout_s)

    def take(self, most: int) -> list[CutWindow | StreamEnd]:
        """The oldest of what waits, at most so many."""
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self.finished = self._ended and not self._waiting
            self._changed.notify_all()
        return taken

    def missed(self) -> list[Missed]:
        """What was missed since the last call."""
        with self._changed:
            missed, self._missed = self._missed, []
        return missed

    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the source now."""
        error, wait = self._error, self.cutting.missing_after_s
        if error is not None:
            return (Finding("source", error),)
        silent_s = time.monotonic() - self._last_sound
        if wait is not None and silent_s > wait and not self._ended:
            return (Finding("missing", f"no sound for {silent_s:.0f} s: check the source"),)
        return ()

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that wait to be scored."""
        return len(self._waiting) * self.cutting.hop_s

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            try:
                cutter = Cutter(self.cutting.window_s, self.cutting.hop_s)
                for block in self._source.blocks(_TakenBefore(self._memory, self.machine), self._stop):
                    self._error, wait_s = None, FIRST_WAIT_S
                    self._last_sound = time.monotonic()
                    self._take_block(cutter, block)
                    if self._stop.is_set():
                        break
                break
            except NearfarError as error:
                self._error = str(error)
            except Exception as error:
                logger.exception("source of %s", self.machine)
                self._error = f"{type(error).__name__}: {error}"
            logger.warning("%s: %s Trying again in %.0f s", self.machine, self._error, wait_s)
            self._notify()
            self._stop.wait(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
        with self._changed:
            self._ended = True
            self.finished = not self._waiting
        self._notify()

    def _take_block(self, cutter: Cutter, block: AudioBlock) -> None:
        start = 0
        if block.begin == 0:
            found = self._memory.stream(self.machine, block.stream) if not self.cutting.live else None
            start = 0 if found is None else found.next
        samples = self.cutting.routed(block.samples) if block.error is None else block.samples
        for window in cutter.cut(_with_samples(block, samples), start):
            self._put(window)
        if block.ends:
            end_s = block.begin_s + (block.begin + samples.shape[1]) / block.sample_rate_hz
            named = block.stream, block.name, block.size, block.changed_ns
            self._put(StreamEnd(*named, end_s=end_s, error=block.error))

    def _put(self, item: CutWindow | StreamEnd) -> None:
        most = self.cutting.most_waiting
        with self._changed:
            if self.cutting.live:
                while len(self._waiting) >= most:
                    self._miss(self._waiting.popleft())
            else:
                while len(self._waiting) >= most and not self._stop.is_set():
                    self._changed.wait(1.0)
                if self._stop.is_set():
                    return
            self._waiting.append(item)
        self._notify()

    def _miss(self, item: CutWindow | StreamEnd) -> None:
        if isinstance(item, StreamEnd):
            return
        last = self._missed[-1] if self._missed else None
        if last is not None and abs(last.begin_s + last.seconds - item.begin_s) < item.seconds:
            self._missed[-1] = Missed(last.begin_s, item.end_s - last.begin_s, last.windows + 1)
        else:
            self._missed.append(Missed(item.begin_s, item.seconds, 1))


def _with_samples(block: AudioBlock, samples: NDArray[np.float32]) -> AudioBlock:
    """The block with other samples."""
    named = block.stream, block.begin, block.begin_s, block.name, block.ends, block.size, block.changed_ns
    return AudioBlock(samples, block.sample_rate_hz, *named, error=block.error)


class _TakenBefore:
    """What the memory has of a machine's recordings."""

    def __init__(self, memory: Memory, machine: str) -> None:
        self._memory, self._machine = memory, machine

    def find(self, stream: str) -> Taken | None:
        found = self._memory.stream(self._machine, stream)
        return None if found is None else Taken(found.next, found.finished)

    def is_known(self, name: str, size: int, changed_ns: int) -> bool:
        return self._memory.is_known(self._machine, name, size, changed_ns)


def most_waiting(late_s: float, hop_s: float) -> int:
    """How many windows of a live source may wait."""
    return max(2, math.ceil(late_s / hop_s))
