"""Recordings of any kind for training without labels, and random crops of them at 16 kHz."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from nearfar.data.audio import SAMPLE_RATE_HZ, Waveform, open_audio, unreadable
from nearfar.data.clips import AUDIO_SUFFIXES
from nearfar.errors import InputError

SUFFIXES = (*AUDIO_SUFFIXES, ".ogg")
_WHOLE = "a whole recording of finite samples"


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A file and its header. ``frames`` counts samples per channel at the file's own rate."""

    path: Path
    sample_rate_hz: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate_hz


def find_recordings(folders: Sequence[Path]) -> list[AudioFile]:
    """Every WAV, FLAC and Ogg file in the folders and below, in the order of folders and names.

    Raises:
        InputError: if a folder is missing or holds no recording, or a file cannot be decoded.
    """
    paths: list[Path] = []
    for folder in folders:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not found:
            raise InputError(
                folder,
                found="no recordings" if folder.is_dir() else "no such folder",
                expected=f"a folder with {', '.join(SUFFIXES)} files, at any depth",
                remedy="Check the path",
            )
        paths += found
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_read_file, dict.fromkeys(paths)))


def recordings_key(recordings: Iterable[AudioFile]) -> str:
    """Hexadecimal SHA-256 over name, size in bytes and shape of every recording, in order, not over contents."""
    lines = [
        f"{file.path.name} {file.path.stat().st_size} {file.sample_rate_hz} {file.channels} {file.frames}\n"
        for file in recordings
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_crop(recording: AudioFile, channel: int, samples: int, random: np.random.Generator) -> Waveform:
    """A random crop of one channel at 16 kHz; shorter recordings are repeated to fill it.

    Only the crop is read and resampled, so memory does not grow with the recording.

    Args:
        channel: index in the file, from 0.
        samples: length at 16 kHz.
        random: draws the start; nothing is drawn for recordings that are not longer than the crop.

    Returns:
        (samples,) float32.

    Raises:
        InputError: if the sound cannot be decoded, ends early, or holds NaN or infinite samples.
    """
    wanted = -(-samples * recording.sample_rate_hz // SAMPLE_RATE_HZ)
    spare = recording.frames - wanted
    begin = int(random.integers(spare + 1)) if spare > 0 else 0
    frames = min(wanted, recording.frames)
    with open_audio(recording.path, _WHOLE) as file:
        file.seek(begin)
        crop = file.read(frames, dtype="float32", always_2d=True)[:, channel]
    if len(crop) < frames:
        raise unreadable(recording.path, f"sound that ends after {begin + len(crop)} samples", _WHOLE)
    if not np.isfinite(crop).all():
        raise unreadable(recording.path, f"NaN or infinite samples in channel {channel}", _WHOLE)
    if recording.sample_rate_hz != SAMPLE_RATE_HZ:
        crop = soxr.resample(crop, recording.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return np.resize(np.asarray(crop, dtype=np.float32), samples)


def _read_file(path: Path) -> AudioFile:
    with open_audio(path, _WHOLE) as file:
        recording = AudioFile(path, file.samplerate, file.channels, file.frames)
    # Resampling needs more than one sample to give one.
    if recording.frames * SAMPLE_RATE_HZ < 400 * recording.sample_rate_hz:
        raise unreadable(path, f"{recording.frames} samples, less than one frame of 25 ms", _WHOLE)
    return recording
