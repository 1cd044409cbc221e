"""Streams of sound cut into the windows that a detector compares, without gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearfar.data.cutting import LEFT_OVER
from nearfar.watch.sources.base import AudioBlock


@dataclass(frozen=True, slots=True, eq=False)
class CutWindow:
    """A window of a stream.

    Attributes:
        samples: (channels, samples) float32; shorter than a window where the whole recording is.
        sample_rate_hz: of the samples.
        stream, name, size, changed_ns: as of :class:`~nearfar.watch.sources.base.AudioBlock`.
        begin: its first sample in the stream.
        next: the first sample of the next window.
        begin_s: when it began, in seconds since 1970.
        last: whether it is the last of its stream.
    """

    samples: NDArray[np.float32]
    sample_rate_hz: int
    stream: str
    name: str
    size: int
    changed_ns: int
    begin: int
    next: int
    begin_s: float
    last: bool

    @property
    def seconds(self) -> float:
        """Its length."""
        return float(self.samples.shape[1] / self.sample_rate_hz)

    @property
    def end_s(self) -> float:
        """When it ended, in seconds since 1970."""
        return self.begin_s + self.seconds


class Cutter:
    """Cuts successive blocks of streams into windows, as :func:`nearfar.data.cutting.window_starts` does.

    Args:
        window_s: length of a window, in seconds.
        hop_s: from window to window.
    """

    def __init__(self, window_s: float, hop_s: float) -> None:
        self._window_s, self._hop_s = window_s, hop_s
        self._stream: str | None = None
        self._held: list[NDArray[np.float32]] = []
        self._first = self._end = self._next = self._window = self._hop = 0

    def cut(self, block: AudioBlock, start: int = 0) -> Iterator[CutWindow]:
        """The windows that are complete with a block.

        Args:
            block: the next one of its stream, or the first of another stream.
            start: of a stream that was scored in part, the first sample of the next window.
        """
        if block.stream != self._stream:
            self._begin(block, start)
        self._held.append(block.samples)
        self._end += block.samples.shape[1]
        while self._next + self._window <= self._end:
            begin = self._next
            self._next += self._hop
            more = self._next + self._window <= self._end or self._is_left_over()
            yield self._cut(block, begin, begin + self._window, last=block.ends and not more)
        if block.ends and block.error is None and self._is_left_over():
            begin = max(self._first, self._end - self._window)
            self._next = self._end
            yield self._cut(block, begin, self._end, last=True)
        self._drop(min(self._next, self._end - self._window))
        if block.ends:
            self._stream, self._held = None, []

    def _begin(self, block: AudioBlock, start: int) -> None:
        rate = block.sample_rate_hz
        self._window, self._hop = max(1, round(self._window_s * rate)), max(1, round(self._hop_s * rate))
        self._stream, self._held = block.stream, []
        self._first = self._end = block.begin
        self._next = max(start, block.begin)

    def _is_left_over(self) -> bool:
        """Whether what is behind the last whole window is a window of its own, if nothing follows."""
        if self._next == 0:
            return self._end > 0
        return self._end - (self._next - self._hop + self._window) > LEFT_OVER * self._window

    def _cut(self, block: AudioBlock, begin: int, end: int, *, last: bool) -> CutWindow:
        self._held = [np.concatenate(self._held, axis=1)] if len(self._held) > 1 else self._held
        return CutWindow(
            samples=self._held[0][:, begin - self._first : end - self._first].copy(),
            sample_rate_hz=block.sample_rate_hz,
            stream=block.stream,
            name=block.name,
            size=block.size,
            changed_ns=block.changed_ns,
            begin=begin,
            next=self._next,
            begin_s=block.begin_s + begin / block.sample_rate_hz,
            last=last,
        )

    def _drop(self, before: int) -> None:
        """Drop whole blocks that end before a sample of the stream, and the beginning of a joined one."""
        while self._held and before > self._first:
            samples = self._held[0].shape[1]
            if len(self._held) > 1 and self._first + samples > before:
                return
            count = min(samples, before - self._first)
            self._held[0] = self._held[0][:, count:].copy()
            self._first += count
            if not self._held[0].shape[1]:
                self._held.pop(0)
            else:
                return
