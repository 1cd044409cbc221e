"""Raw samples on standard input, as ``arecord`` or ``ffmpeg`` write them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from nearfar.settings import PositiveInt, Settings
from nearfar.watch.sources.base import BLOCK_S, AudioBlock, TakenRecordings


class PcmSettings(Settings):
    """``source = "stdin"``: interleaved little-endian samples without a header."""

    sample_rate_hz: PositiveInt = 16_000
    channels: PositiveInt = 2
    format: Literal["s16", "s32", "f32"] = "s16"
    """16-bit or 32-bit integers, or 32-bit floating-point numbers in [-1, 1]."""


_FORMATS: dict[str, tuple[str, float]] = {"s16": ("<i2", 2.0**15), "s32": ("<i4", 2.0**31), "f32": ("<f4", 1.0)}


class PcmSource:
    """Samples of a pipe, until it is closed.

    Args:
        settings: of the source.
        base: not used.
        pipe: that is read; by default standard input.
    """

    def __init__(self, settings: PcmSettings, base: Path, pipe: BinaryIO | None = None) -> None:
        self._settings = settings
        self._descriptor = (sys.stdin.buffer if pipe is None else pipe).fileno()

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """See :meth:`nearfar.watch.sources.base.AudioSource.blocks`."""
        settings, done, rest = self._settings, 0, b""
        kind, scale = _FORMATS[settings.format]
        frame = np.dtype(kind).itemsize * settings.channels
        wanted = max(1, round(BLOCK_S * settings.sample_rate_hz)) * frame
        begin_s = time.time()
        stream = f"stdin {begin_s:.6f}"
        while not stop.is_set():
            read = os.read(self._descriptor, wanted - len(rest))  # a buffer's lock would block the end of Python
            data = rest + read
            whole = len(data) - len(data) % frame
            rest = data[whole:]
            samples = np.frombuffer(data[:whole], kind).reshape(-1, settings.channels).T
            block = _scaled(samples, scale)
            yield AudioBlock(block, settings.sample_rate_hz, stream, done, begin_s, "standard input", not read)
            done += block.shape[1]
            if not read:
                return


def _scaled(samples: NDArray[np.generic], scale: float) -> NDArray[np.float32]:
    return np.ascontiguousarray(samples.astype(np.float32) / np.float32(scale))
