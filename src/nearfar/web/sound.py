"""The sound of alarms, and of the recordings that they resemble: as FLAC to be played, and as spectrograms."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from nearfar.charts import spectrogram
from nearfar.data.audio import read_waveform
from nearfar.data.clips import CHANNELS, Channel
from nearfar.detector.store import read_card
from nearfar.errors import InputError
from nearfar.frontends.kaldi import PATCH_FRAMES, SAMPLE_RATE_HZ, KaldiFbank, frame_count
from nearfar.watch.records import AlarmRecord, AudioPart

PEAK = 0.9
"""Peak amplitude of what is played: quiet machines become audible."""
PAUSE_S, LEAST_GAP_S = 0.3, 0.05
"""Silence between windows that do not follow one another, and how far these are apart at least."""
MOST_DRAWN = 64
"""Spectrograms that are kept, as drawing one takes some time."""
OTHERS = ("normal", "fault")
"""What the sound of an alarm is compared with: the nearest normal recording and the known fault it is like."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """Some seconds of sound.

    Attributes:
        channels: (samples,) float32 at 16 kHz, by name: near, and far where there is one.
        begin_s: when it begins: in seconds since 1970 for an alarm, and in seconds of its file for a recording.
    """

    channels: Mapping[Channel, NDArray[np.float32]]
    begin_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return max(map(len, self.channels.values())) / SAMPLE_RATE_HZ

    def cut(self, begin_s: float, seconds: float) -> Sound:
        """A part of it that begins at or after ``begin_s``, on the same clock as :attr:`begin_s`."""
        first = max(0, round((begin_s - self.begin_s) * SAMPLE_RATE_HZ))
        last = first + round(seconds * SAMPLE_RATE_HZ)
        channels = {name: samples[first:last] for name, samples in self.channels.items()}
        return Sound(channels, self.begin_s + first / SAMPLE_RATE_HZ)


def decoded(part: AudioPart) -> Sound:
    """One window in the sound of an alarm."""
    samples, rate = soundfile.read(io.BytesIO(part.flac), dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE_HZ:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE_HZ)
    return Sound(dict(zip(CHANNELS, samples.T, strict=False)), part.begin_s)


def joined(parts: Sequence[AudioPart]) -> Sound | None:
    """The windows of an alarm one after the other; None without any.

    Of windows that overlap each sample is there once, and a gap of any length is :data:`PAUSE_S` of silence: a
    recorder may record some seconds an hour.
    """
    pieces: list[Mapping[Channel, NDArray[np.float32]]] = []
    end_s = None
    for part in sorted(parts, key=lambda part: part.begin_s):
        sound = decoded(part)
        if end_s is not None:
            if part.begin_s - end_s > LEAST_GAP_S:
                silence = np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), dtype=np.float32)
                pieces.append(dict.fromkeys(sound.channels, silence))
            else:
                sound = sound.cut(max(end_s, part.begin_s), sound.seconds)
        pieces.append(sound.channels)
        end_s = part.begin_s + part.seconds
    if not pieces:
        return None
    channels = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return Sound(channels, min(part.begin_s for part in parts))


def raising_window(alarm: AlarmRecord, parts: Sequence[AudioPart]) -> AudioPart | None:
    """The window that raised an alarm: the last one that began before; None if its sound is not kept."""
    before = [part for part in parts if part.begin_s < alarm.raised_s]
    return max(before, key=lambda part: part.begin_s, default=None)


def recording_of(alarm: AlarmRecord, other: str) -> tuple[Path, float] | None:
    """The file that the sound of an alarm is compared with, and where in it the window begins; None without one.

    Args:
        alarm: whose score names it.
        other: one of :data:`OTHERS`.
    """
    if other == "normal":
        file, begin_s = alarm.score.get("nearest_file"), alarm.score.get("nearest_begin_s")
    else:
        like = alarm.score.get("like") or {}
        file, begin_s = like.get("file"), 0.0
    return None if not file else (Path(file), float(begin_s or 0.0))


def read_recording(path: Path, begin_s: float, seconds: float, detector: Path) -> Sound:
    """A part of a recording of a detector.

    Raises:
        InputError: if it can no longer be read.
    """
    audio = read_card(detector).recipe.audio
    channels: dict[Channel, NDArray[np.float32]] = {}
    for channel in CHANNELS:
        try:
            channels[channel] = read_waveform(
                path, (channel,), SAMPLE_RATE_HZ, near=audio.near_channel, far=audio.far_channel
            )[0]
        except InputError:
            if channel == "near":
                raise
    return Sound(channels, 0.0).cut(begin_s, seconds)


def flac_of(samples: NDArray[np.float32]) -> bytes:
    """A FLAC file of (samples,) at 16 kHz, scaled to a peak of :data:`PEAK`."""
    peak = float(np.abs(samples).max(initial=0.0))
    buffer = io.BytesIO()
    scaled = samples * np.float32(PEAK / peak) if peak > 0 else samples
    soundfile.write(buffer, scaled, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Region:
    """Where a window departs from normal, in seconds from its begin and in hertz."""

    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float

    @classmethod
    def of(cls, score: Mapping[str, Any]) -> Region | None:
        """That of the score of an alarm, if it has one."""
        departure = score.get("departure")
        if not departure:
            return None
        return cls(departure["begin_s"], departure["end_s"], departure["low_hz"], departure["high_hz"])


class Spectrograms:
    """Draws spectrograms, one at a time, and keeps the last ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._drawn: dict[tuple[Any, ...], str] = {}

    def get(self, key: tuple[Any, ...], draw: Callable[[], str]) -> str:
        """The spectrogram of that key, drawn if it is not kept."""
        with self._lock:  # matplotlib's settings are those of the whole program
            if key not in self._drawn:
                while len(self._drawn) >= MOST_DRAWN:
                    del self._drawn[next(iter(self._drawn))]
                self._drawn[key] = draw()
            return self._drawn[key]


def drawn(sound: Sound, title: str, region: Region | None = None) -> str:
    """The spectrogram of the near channel of a window as SVG; empty for one that is too short.

    Args:
        sound: to draw.
        title: for screen readers.
        region: to frame.
    """
    samples = sound.channels["near"]
    if frame_count(len(samples)) < PATCH_FRAMES:
        return ""
    log_mel = KaldiFbank().log_mel(torch.from_numpy(np.ascontiguousarray(samples))[None])[0].numpy()
    words = f"{sound.seconds:.0f} seconds, 20 Hz to 8 kHz"
    frame = None
    if region is not None:
        frame = (region.begin_s, region.end_s, region.low_hz, region.high_hz)
        words += f"; framed: {region.begin_s:.1f} to {region.end_s:.1f} s, "
        words += f"{region.low_hz / 1000:.1f} to {region.high_hz / 1000:.1f} kHz"
    return spectrogram(log_mel, title, words, view="near", region=frame).svg()
