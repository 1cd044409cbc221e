"""Reading WAV and FLAC files: headers, near and far channels, resampling, padding."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from nearfar.data.clips import CHANNELS, Channel
from nearfar.data.flac import is_as_encoded
from nearfar.data.riff import log_once, wav_source
from nearfar.errors import InputError, SilentChannelError

Waveform = NDArray[np.float32]
SAMPLE_RATE_HZ = 16_000
STEP_16_BIT = 1 / 32_768
LARGEST = 1000.0
"""Larger samples are no sound: recordings in other units than full scale, such as pascals, stay far below."""
WHOLE = "a whole WAV or FLAC file"

_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC")
_MOST_FRAMES = 2**40
_log = logging.getLogger("nearfar")
_logged_rates: set[tuple[int, int]] = set()
_rates_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class AudioHeader:
    """Header of an audio file. ``frames`` counts samples per channel."""

    sample_rate_hz: int
    channels: int
    frames: int
    subtype: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate_hz

    def frames_at(self, sample_rate_hz: int) -> int:
        """Samples per channel after resampling, as :func:`read_waveform` returns them."""
        # Rounded half up, in integers, as soxr does.
        return (2 * self.frames * sample_rate_hz + self.sample_rate_hz) // (2 * self.sample_rate_hz)


def read_header(path: Path) -> AudioHeader:
    """Read the header of an audio file.

    Raises:
        InputError: if the file is missing, empty, neither WAV nor FLAC, without samples, or a truncated WAV file.
            Truncated FLAC files are found only by :func:`read_waveform`, which decodes them.
    """
    with open_audio(path) as file:
        return read_file_header(path, file)


def read_headers(paths: Iterable[Path]) -> list[AudioHeader | InputError]:
    """Read many headers in threads, in order; an error replaces a header that cannot be read."""

    def header_or_error(path: Path) -> AudioHeader | InputError:
        try:
            return read_header(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(header_or_error, paths))


def read_waveform(
    path: Path,
    channels: Sequence[Channel] = CHANNELS,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    near: int = 0,
    far: int = 1,
) -> Waveform:
    """Read the near and far channels of a recording, resampled.

    Args:
        path: a WAV or FLAC file of any sample rate and number of channels.
        channels: channels to return, in this order. A mono file suffices for near only.
        sample_rate_hz: rate of the result. Resampling (soxr, HQ) is logged once per rate.
        near, far: indices, from 0, of the near and far microphones' channels in the file.

    Returns:
        (channels, samples) float32 in [-1, 1].

    Raises:
        InputError: as :func:`read_header`; if a requested channel is missing, silent (a range of at most one
            16-bit step) or holds NaN or infinite samples, or if the samples end early.
    """
    header, samples = read_file(path)
    assert samples is not None, "a file of any length is read"
    return choose_channels(samples, header.sample_rate_hz, path, channels, sample_rate_hz, near=near, far=far)


def read_file(path: Path, longest_seconds: float = math.inf) -> tuple[AudioHeader, Waveform | None]:
    """The header and, of a file that is not longer, the samples (channels, samples) float32, opening it once.

    Raises:
        InputError: as :func:`read_header`; if the samples end early or are not those that were encoded.
    """
    with open_audio(path) as file:
        header = read_file_header(path, file)
        if header.seconds > longest_seconds:
            return header, None
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except MemoryError:
            raise unreadable(
                path, f"a header that states {header.frames} samples, more than memory holds"
            ) from None
        is_flac = file.format == "FLAC"
    if len(samples) < header.frames:
        raise unreadable(path, f"sound that ends after {len(samples)} of {header.frames} samples")
    if is_flac and not is_as_encoded(path, samples, header.subtype):
        raise unreadable(path, "samples whose MD5 is not the one in its header")
    return header, samples.T


def choose_channels(
    samples: Waveform,
    recorded_hz: int,
    recording: Path | str,
    channels: Sequence[Channel] = CHANNELS,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    near: int = 0,
    far: int = 1,
) -> Waveform:
    """Select, check and resample near and far channels of samples in memory; see :func:`read_waveform`.

    Args:
        samples: (recorded channels, samples) float32 in [-1, 1], at the rate ``recorded_hz``.
        recording: its name in messages.

    Raises:
        InputError: if a requested channel is missing, silent or holds NaN or infinite samples; as
            :func:`in_range`.
    """
    columns = channel_columns(recording, len(samples), channels, near, far)
    selected = np.ascontiguousarray(samples[columns])
    for channel, values in zip(channels, selected, strict=True):
        if (error := nonfinite_samples(recording, channel, values, recorded_hz)) is not None:
            raise error
    waveform = in_range(selected, recording)
    for channel, values in zip(channels, waveform, strict=True):
        if is_silent(values):
            raise silent_channel(recording, channel)
    if recorded_hz == sample_rate_hz:
        return waveform
    log_resampling(recording, recorded_hz, sample_rate_hz)
    resampled = soxr.resample(waveform.T, recorded_hz, sample_rate_hz, quality="HQ")
    return np.ascontiguousarray(resampled.T, dtype=np.float32)


def channel_columns(
    recording: Path | str, count: int, channels: Sequence[Channel], near: int, far: int
) -> list[int]:
    """The indices of channels in a recording of ``count`` channels; an InputError if it lacks one."""
    columns = {channel: near if channel == "near" else far for channel in channels}
    for channel, column in columns.items():
        if column >= count:
            raise InputError(
                recording,
                found="1 channel (mono)" if count == 1 else f"{count} channels",
                expected=f"at least {column + 1}, as channel {column} (from 0) is the {channel} microphone",
                remedy="Record both microphones into one file, or use only the near one",
            )
    return [columns[channel] for channel in channels]


def nonfinite_samples(
    recording: Path | str, channel: Channel, samples: Waveform, recorded_hz: int, before: int = 0
) -> InputError | None:
    """The error about NaN or infinite samples of a channel, if there are any; ``before`` samples were read."""
    if np.isfinite(samples.min(initial=0.0)) and np.isfinite(samples.max(initial=0.0)):  # NaN is the minimum
        return None
    nonfinite = np.flatnonzero(~np.isfinite(samples))
    return InputError(
        recording,
        found=f"{nonfinite.size} NaN or infinite samples in the {channel} channel, "
        f"the first at {(before + nonfinite[0]) / recorded_hz:.3f} s",
        expected="finite samples",
        remedy="Export the file again, or take it out of the data folder",
    )


def silent_channel(recording: Path | str, channel: Channel) -> SilentChannelError:
    """The error about a channel without sound."""
    return SilentChannelError(
        recording,
        found=f"a silent {channel} channel (its range is at most one 16-bit step)",
        expected="the sound of a machine in every channel that is used",
        remedy="Check the microphone and its cable, or use only the other channel",
    )


def in_range(samples: Waveform, recording: Path | str) -> Waveform:
    """Samples as they are, or 16-bit integers that were saved as floating-point numbers divided by 32768.

    Args:
        samples: finite.
        recording: its name in messages. Division is logged once.

    Raises:
        InputError: if samples are larger than :data:`LARGEST` and no such integers.
    """
    largest = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if 1 < largest <= 1 / STEP_16_BIT and np.array_equal(samples, np.rint(samples)):
        message = (
            "%s holds 16-bit integers as floating-point numbers; they are divided by 32768, as in all such files"
        )
        log_once("integers", message, recording)
        return samples * np.float32(STEP_16_BIT)
    if largest > LARGEST:
        raise InputError(
            recording,
            found=f"samples as large as {largest:.3g}",
            expected="samples in [-1, 1]",
            remedy="Export it again, as 16-bit integers or scaled to [-1, 1], or take it out of the data folder",
        )
    return samples


def is_silent(channel: Waveform) -> bool:
    """Whether the range of the samples is at most one 16-bit step."""
    return float(channel.max() - channel.min()) <= STEP_16_BIT


def read_beginning(path: Path, seconds: float) -> tuple[Waveform, int]:
    """Read the first seconds of every channel: (channels, samples) float32, perhaps NaN, and their rate in Hz.

    Raises:
        InputError: as :func:`read_header` and :func:`in_range`.
    """
    with open_audio(path) as file:
        header = read_file_header(path, file)
        samples = file.read(round(seconds * header.sample_rate_hz), dtype="float32", always_2d=True)
    if np.isfinite(samples).all():
        samples = in_range(samples, path)
    return np.ascontiguousarray(samples.T), header.sample_rate_hz


def zero_pad(waveform: Waveform, samples: int, path: Path, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Waveform:
    """Pad a waveform, (..., time) float32, with zeros at its end to (..., samples).

    Raises:
        InputError: if the waveform is longer; it states ``path`` and lengths in seconds.
    """
    length = waveform.shape[-1]
    if length == samples:
        return waveform
    if length > samples:
        enough = -(-length * 100 // sample_rate_hz) / 100  # rounded up to hundredths
        raise InputError(
            path,
            found=f"a clip of {length / sample_rate_hz:.10g} s",
            expected=f"at most the recipe's {samples / sample_rate_hz:.10g} s",
            remedy=f'Set audio.clip_seconds to {enough:g} or more or to "longest", or cut the clip',
        )
    return np.pad(waveform, [(0, 0)] * (waveform.ndim - 1) + [(0, samples - length)])


@contextmanager
def open_audio(path: Path, expected: str = WHOLE) -> Iterator[soundfile.SoundFile]:
    """Open a file for decoding; errors of libsndfile become InputErrors that name what is ``expected``."""
    source = wav_source(path)
    # Names need not be UTF-8; libsndfile takes their bytes, but those of Windows.
    given = os.fsencode(source) if isinstance(source, Path) and os.name != "nt" else source
    try:
        with soundfile.SoundFile(given) as file:
            yield file
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip(" .")
        raise unreadable(path, f"sound that cannot be decoded ({reason})", expected) from None
    finally:
        if not isinstance(source, Path):
            source.close()


def read_file_header(path: Path, file: soundfile.SoundFile) -> AudioHeader:
    """The header of an opened file; see :func:`read_header`."""
    if file.format not in _FORMATS:
        raise unreadable(path, f"audio of the format {file.format}")
    if file.frames == 0:
        raise unreadable(path, "a header and no samples after it")
    if file.frames > _MOST_FRAMES:
        raise InputError(
            path,
            found="a FLAC stream that does not state its length",
            expected="a FLAC file with its length in the header, to detect truncation",
            remedy="Encode it again, to a file and not to a pipe",
        )
    return AudioHeader(file.samplerate, file.channels, file.frames, file.subtype)


def unreadable(path: Path, found: str, expected: str = WHOLE) -> InputError:
    """The error for a file that cannot be decoded completely."""
    return InputError(
        path,
        found=found,
        expected=expected,
        remedy="Copy, record or convert it again, or take it out of the data folder",
    )


def log_resampling(recording: Path | str, found_hz: int, wanted_hz: int) -> None:
    with _rates_lock:
        if (found_hz, wanted_hz) in _logged_rates:
            return
        _logged_rates.add((found_hz, wanted_hz))
    message = "%s has a sample rate of %d Hz; it and all other files of that rate are resampled to %d Hz"
    _log.warning(message, recording, found_hz, wanted_hz)
