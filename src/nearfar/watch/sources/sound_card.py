"""A sound card with two channels or more."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.errors import InputError
from nearfar.settings import PositiveInt, Settings
from nearfar.watch.sources.base import BLOCK_S, AudioBlock, SourceError, TakenRecordings

SILENT_AFTER_S = 3.0
"""A card that has given no samples for so long is opened again."""

_WAITING = 300
"""Blocks that wait to be read: half a minute."""


class SoundCardSettings(Settings):
    """``source = "sound-card"``."""

    device: str | int = "default"
    """Name, part of a name, or number; ``python -m sounddevice`` lists them."""
    sample_rate_hz: PositiveInt = 16_000
    channels: PositiveInt = 2


class SoundCardSource:
    """Sound of a card, from PortAudio.

    Args:
        settings: of the source.
        base: not used.
    """

    def __init__(self, settings: SoundCardSettings, base: Path) -> None:
        self._settings = settings

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """See :meth:`nearfar.watch.sources.base.AudioSource.blocks`."""
        sounddevice = _sounddevice()
        settings, waiting = self._settings, queue.Queue[NDArray[np.float32] | str](maxsize=_WAITING)

        def received(data: NDArray[np.float32], frames: int, timing: Any, status: Any) -> None:
            try:
                waiting.put_nowait(f"{status}" if status.input_overflow else data.T.copy())
            except queue.Full:
                stopped.set()

        stopped = threading.Event()
        try:
            stream = sounddevice.InputStream(
                device=None if settings.device == "default" else settings.device,
                samplerate=settings.sample_rate_hz,
                channels=settings.channels,
                dtype="float32",
                blocksize=round(BLOCK_S * settings.sample_rate_hz),
                callback=received,
                finished_callback=stopped.set,
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            raise SourceError(f"sound card {settings.device}: {error}. Check its name and its cable.") from None
        begin_s, done = time.time(), 0
        name = f"sound card {settings.device}"
        with stream:
            while not stop.is_set():
                try:
                    block = waiting.get(timeout=SILENT_AFTER_S)
                except queue.Empty:
                    raise SourceError(f"{name}: no samples for {SILENT_AFTER_S:g} s. Check its cable.") from None
                if isinstance(block, str) or (stopped.is_set() and waiting.empty()):
                    raise SourceError(
                        f"{name}: samples were lost ({block if isinstance(block, str) else 'stopped'})"
                    )
                yield AudioBlock(block, settings.sample_rate_hz, f"{name} {begin_s:.6f}", done, begin_s, name)
                done += block.shape[1]


def _sounddevice() -> Any:
    try:
        import sounddevice
    except OSError as error:  # PortAudio is a library of the system
        raise InputError(
            "source",
            found=f"'sound-card' on a system without PortAudio ({error})",
            expected="the library libportaudio2",
            remedy="Install it (apt-get install libportaudio2), or use another source",
        ) from None
    return sounddevice
