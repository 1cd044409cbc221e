"""A stream or file by URL: rtsp, http, icecast, or a path; decoded by PyAV."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.settings import PositiveFloat, Settings
from nearfar.watch.sources.base import AudioBlock, SourceError, TakenRecordings


class UrlSettings(Settings):
    """``source = "url"``."""

    url: str
    """``rtsp://...``, ``http://...``, or the path of a file of any format that FFmpeg reads."""
    timeout_seconds: PositiveFloat = 10.0
    """A server that sends nothing for so long is connected to again."""


class UrlSource:
    """The first audio stream of a URL.

    A file is taken once, and begun again where it was left. A stream of a server is live.

    Args:
        settings: of the source.
        base: the folder that a relative path is relative to.
    """

    def __init__(self, settings: UrlSettings, base: Path) -> None:
        self._settings = settings
        self._file = None if "://" in settings.url else base / settings.url

    def blocks(self, taken: TakenRecordings, stop: threading.Event) -> Iterator[AudioBlock]:
        """See :meth:`nearfar.watch.sources.base.AudioSource.blocks`."""
        import av

        opened_s = time.time()
        stream, begin_s = f"{self._settings.url} {opened_s:.6f}", opened_s
        if self._file is not None:
            stat = self._file_stat()
            identity = f"{self._file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
            stream, begin_s = hashlib.sha256(identity.encode()).hexdigest(), stat.st_mtime
            found = taken.find(stream)
            if found is not None and found.finished:
                return
        place, wait = str(self._file or self._settings.url), self._settings.timeout_seconds
        try:
            with av.open(place, timeout=None if self._file else (wait, wait)) as container:
                yield from self._decoded(container, stream, begin_s, stop)
        except (av.error.FFmpegError, OSError) as error:
            raise SourceError(f"{self._settings.url}: {error}. Check the address and the network.") from None
        if self._file is None and not stop.is_set():
            raise SourceError(f"{self._settings.url}: the server ended the stream.")

    def _file_stat(self) -> Any:
        assert self._file is not None
        try:
            return self._file.stat()
        except OSError as error:
            raise SourceError(f"{self._file}: {error.strerror}. Correct the configuration.") from None

    def _decoded(self, container: Any, stream: str, begin_s: float, stop: threading.Event) -> Iterator[AudioBlock]:
        import av

        if not container.streams.audio:
            raise SourceError(f"{self._settings.url}: there is no sound in it. Correct the address.")
        audio = container.streams.audio[0]
        rate = audio.codec_context.sample_rate
        if self._file is not None and container.duration:
            begin_s -= container.duration / 1e6
        planar = av.AudioResampler(format="fltp", layout=audio.codec_context.layout, rate=rate)
        done = 0
        for frame in container.decode(audio):
            if stop.is_set():
                return
            for converted in planar.resample(frame):
                samples = _samples(converted)
                yield AudioBlock(samples, rate, stream, done, begin_s, self._settings.url)
                done += samples.shape[1]
        nothing = np.empty((audio.codec_context.channels, 0), np.float32)
        yield AudioBlock(nothing, rate, stream, done, begin_s, self._settings.url, ends=True)


def _samples(frame: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(frame.to_ndarray(), dtype=np.float32)
