"""From recordings, files or arrays, to windows of samples, with bounded memory.

A recording of up to :data:`WHOLE_SECONDS` is read at once, a longer one in blocks. Views are made of each window,
as they are of a clip, so that a window's features do not depend on the length of its recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader, choose_channels, read_file, zero_pad
from nearfar.data.clips import CHANNELS, Channel, Clip
from nearfar.data.copies import Landmarks, joined_landmarks, landmarks
from nearfar.data.cutting import WHOLE_SECONDS, overlapping_blocks, too_short, window_starts
from nearfar.data.signals import SignalFacts, bits_of, bits_of_format, signal_facts
from nearfar.errors import InputError
from nearfar.frontends.kaldi import FRAME_SAMPLES
from nearfar.pipeline.extractor import Extractor
from nearfar.threads import parallel_map
from nearfar.views import channels_of, make_views
from nearfar.views.base import check_views

Result = TypeVar("Result")

Channels = dict[Channel, NDArray[np.float32]]
"""The samples (samples,) of the channels of a recording."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A file, or samples in memory: (channels, samples) float32 in [-1, 1] of ``sample_rate_hz``."""

    name: str
    source: Path | NDArray[np.float32]
    sample_rate_hz: int = SAMPLE_RATE_HZ

    @classmethod
    def of_clip(cls, clip: Clip) -> Recording:
        """The recording of a clip."""
        return cls(str(clip.path), clip.path)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window: its recording, its first sample, its samples without padding, and its number among all.

    ``views`` are (views, padded samples) float32, or (views, signals, padded samples).
    """

    recording: int
    begin: int
    samples: int
    number: int
    of: int
    views: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Successive windows of one recording, which is ``finished`` with the last ones or an error.

    Attributes:
        begin: the first sample of the block that it was made of, whose ``facts`` and ``landmarks`` these are.
        seconds: the length of the recording.
    """

    recording: int
    windows: list[Window]
    finished: bool = False
    begin: int = 0
    seconds: float = 0.0
    facts: SignalFacts | None = None
    landmarks: Landmarks | None = None
    error: InputError | None = None


@dataclass(frozen=True, slots=True)
class WindowReader:
    """Reads the windows of recordings.

    Attributes:
        extractor: whose recipe and window length apply.
        views: of waveforms.
        with_facts: measure the signal of every recording, of both microphones where there are two.
        with_landmarks: find landmarks of every recording.
        keep_errors: yield a piece with the error for a recording that cannot be used, instead of raising it.
    """

    extractor: Extractor
    views: Sequence[str]
    with_facts: bool = False
    with_landmarks: bool = False
    keep_errors: bool = False

    def pieces(self, recordings: Sequence[Recording], work: Callable[[Piece], Result]) -> Iterator[Result]:
        """``work`` on every piece of all recordings, in order.

        Workers read and work: a recording of up to :data:`WHOLE_SECONDS` is one piece. Longer files are read here,
        one after the other, and each block is a piece.

        Raises:
            InputError: if a recording cannot be used and errors are not kept.
        """

        def whole(index: int) -> Result | AudioHeader:
            try:
                found = self._whole(index, recordings[index])
            except InputError as error:
                found = self._failed(index, error)
            return found if isinstance(found, AudioHeader) else work(found)

        for index, found in enumerate(parallel_map(whole, range(len(recordings)))):
            if not isinstance(found, AudioHeader):
                yield found
                continue
            try:
                yield from parallel_map(
                    lambda make: work(make()), self._blocks_of(index, recordings[index], found)
                )
            except InputError as error:
                yield work(self._failed(index, error))

    def _failed(self, index: int, error: InputError) -> Piece:
        if not self.keep_errors:
            raise error
        return Piece(index, [], finished=True, error=error)

    def window(self, recording: Recording, begin: int, view: str) -> NDArray[np.float32]:
        """(samples,) or (signals, samples) of one view of the window that begins at a sample.

        The recording is a file that is read in blocks.
        """
        recipe, padded = self.extractor.recipe, self.extractor.padded_samples
        assert isinstance(recording.source, Path)
        for start, block in _blocks(recording.source, recipe, channels_of([view])):
            offset = begin - start
            length = next(iter(block.values())).size
            if offset >= 0 and (offset + padded <= length or offset < length < padded):
                cut = {name: samples[offset : offset + padded] for name, samples in block.items()}
                made = make_views(cut, [view], recipe.view_settings(), recipe.audio.sample_rate_hz)
                return np.ascontiguousarray(made[0])
        raise InputError(recording.name, found="no such window", expected="the same file", remedy="Score it again")

    def _whole(self, index: int, recording: Recording) -> Piece | AudioHeader:
        """The only piece of a recording; of a longer file the header alone."""
        recipe, padded = self.extractor.recipe, self.extractor.padded_samples
        rate, recorded_hz, samples = recipe.audio.sample_rate_hz, recording.sample_rate_hz, recording.source
        most = None
        if isinstance(samples, Path):
            header, whole = read_file(samples, max(WHOLE_SECONDS, 2 * padded / rate))
            if whole is None:
                return header
            if header.frames_at(rate) < FRAME_SAMPLES:
                raise too_short(samples, header.seconds)
            recorded_hz, samples, most = header.sample_rate_hz, whole, bits_of_format(header.subtype)
        channels = channels_of(self.views)
        read = _chosen(recording.name, samples, recorded_hz, recipe, channels, both=self.with_facts)
        count = next(iter(read.values())).size
        begins = window_starts(count, padded, self._hop)
        numbered = list(enumerate(begins))
        bits = partial(bits_of, samples, most)
        return self._piece(index, recording, read, 0, numbered, len(begins), recorded_hz, bits, count / rate)

    def _blocks_of(self, index: int, recording: Recording, header: AudioHeader) -> Iterator[Callable[[], Piece]]:
        """What makes the pieces of a long file, from its blocks, which are read here."""
        recipe, padded = self.extractor.recipe, self.extractor.padded_samples
        begins = window_starts(header.frames_at(recipe.audio.sample_rate_hz), padded, self._hop)
        waiting = list(enumerate(begins))
        start, block, of = 0, Channels(), len(begins)
        assert isinstance(recording.source, Path)
        for start, block in _blocks(recording.source, recipe, channels_of(self.views)):
            end = start + next(iter(block.values())).size
            ready = [entry for entry in waiting if entry[1] + padded <= end]
            waiting = waiting[len(ready) :]
            bits = partial(self._bits_of_block, block, header)
            yield partial(self._piece, index, recording, block, start, ready, of, header.sample_rate_hz, bits)
        rest = partial(self._windows, index, recording, block, start, waiting, of)  # resampling may end early
        yield lambda: Piece(index, rest(), finished=True, seconds=header.seconds)

    def _piece(
        self,
        index: int,
        recording: Recording,
        read: Channels,
        start: int,
        numbered: Sequence[tuple[int, int]],
        of: int,
        recorded_hz: int,
        bits: Callable[[], int | None],
        seconds: float | None = None,
    ) -> Piece:
        """The piece of samples that begin at ``start``; the only one where ``seconds`` of the whole are given."""
        windows = self._windows(index, recording, read, start, numbered, of)
        marks = landmarks(read[channels_of(self.views)[0]]) if self.with_landmarks else None
        facts = self._facts(read, recorded_hz, bits) if self.with_facts else None
        return Piece(index, windows, seconds is not None, start, seconds or 0.0, facts, marks)

    def _facts(self, read: Channels, recorded_hz: int, bits: Callable[[], int | None]) -> SignalFacts:
        channels = {str(name): samples for name, samples in read.items()}
        return signal_facts(channels, self.extractor.recipe.audio.sample_rate_hz, recorded_hz, bits())

    def _bits_of_block(self, block: Channels, header: AudioHeader) -> int | None:
        is_exact = header.sample_rate_hz == self.extractor.recipe.audio.sample_rate_hz
        exact = bits_of(next(iter(block.values()))) if is_exact else None
        return exact or bits_of_format(header.subtype)

    @property
    def _hop(self) -> int:
        recipe = self.extractor.recipe
        return max(1, round(hop_seconds(recipe) * recipe.audio.sample_rate_hz))

    def _windows(
        self,
        index: int,
        recording: Recording,
        read: Mapping[Channel, NDArray[np.float32]],
        start: int,
        numbered: Sequence[tuple[int, int]],
        of: int,
    ) -> list[Window]:
        """Windows by number and first sample, from samples of the recording that begin at ``start``."""
        recipe, padded, channels = self.extractor.recipe, self.extractor.padded_samples, channels_of(self.views)
        settings, rate = recipe.view_settings(), recipe.audio.sample_rate_hz
        used = {name: read[name] for name in channels}
        if start == 0:
            check_views(used, self.views, settings, recording.name)
        out = []
        for number, begin in numbered:
            cut = {name: samples[begin - start : begin - start + padded] for name, samples in used.items()}
            made = make_views(cut, self.views, settings, rate)
            padded_views = zero_pad(made, padded, Path(recording.name))
            out.append(Window(index, begin, made.shape[-1], number, of, padded_views))
        return out


def hop_seconds(recipe: Recipe) -> float:
    """The distance from window to window, in seconds."""
    seconds = recipe.audio.hop_seconds or recipe.audio.clip_seconds
    assert not isinstance(seconds, str), "a recipe is resolved before it is used"
    return seconds


def read_samples(recording: Recording, recipe: Recipe) -> NDArray[np.float32]:
    """(samples,) float32 of the first channel that the recipe uses, at its rate."""
    channel = channels_of(recipe.waveform_views)[0]
    recorded_hz, samples = recording.sample_rate_hz, recording.source
    if isinstance(samples, Path):
        header, whole = read_file(samples)
        assert whole is not None, "a file of any length is read"
        recorded_hz, samples = header.sample_rate_hz, whole
    return _chosen(recording.name, samples, recorded_hz, recipe, [channel], both=False)[channel]


def read_landmarks(path: Path, recipe: Recipe) -> Landmarks:
    """The landmarks of the first channel that the recipe uses, read in blocks."""
    audio, (channel, *_) = recipe.audio, channels_of(recipe.waveform_views)
    numbers = audio.near_channel, audio.far_channel
    blocks = overlapping_blocks(path, [channel], audio.sample_rate_hz, *numbers, audio.sample_rate_hz)
    return joined_landmarks([(start, landmarks(block[0])) for start, block in blocks])


def _chosen(
    name: str,
    samples: NDArray[np.float32],
    recorded_hz: int,
    recipe: Recipe,
    channels: Sequence[Channel],
    *,
    both: bool,
) -> Channels:
    """The channels of samples, at the recipe's rate: those asked for, or ``both`` where both can be used."""
    audio, checked = recipe.audio, checked_array(samples, name)
    near, far, rate = audio.near_channel, audio.far_channel, audio.sample_rate_hz

    def read(chosen: Sequence[Channel]) -> Channels:
        waveform = choose_channels(checked, recorded_hz, name, chosen, rate, near=near, far=far)
        if waveform.shape[1] < FRAME_SAMPLES:
            raise too_short(name, waveform.shape[1] / rate)
        return dict(zip(chosen, waveform, strict=True))

    if both and set(channels) != set(CHANNELS) and near != far and len(checked) > max(near, far):
        with suppress(InputError):  # a fault of a channel that the recipe does not use
            return read(CHANNELS)
    return read(channels)


def checked_array(samples: NDArray[Any], where: str) -> NDArray[np.float32]:
    """(channels, samples) float32 of an array that may also be (samples,).

    Raises:
        InputError: if it has other axes, no samples, more channels than samples, or integers.
    """
    if not np.issubdtype(samples.dtype, np.floating):
        raise InputError(
            where,
            found=f"an array of {samples.dtype}",
            expected="floating-point samples in [-1, 1]",
            remedy="Divide 16-bit samples by 32768",
        )
    wide = samples[None] if samples.ndim == 1 else samples
    if wide.ndim != 2 or not wide.size or wide.shape[0] > wide.shape[1]:
        raise InputError(
            where,
            found=f"an array of shape {samples.shape}",
            expected="(channels, samples), or (samples,) of one microphone",
            remedy="Transpose it, as in soundfile.read(file)[0].T",
        )
    return wide.astype(np.float32, copy=False)


def _blocks(path: Path, recipe: Recipe, channels: Sequence[Channel]) -> Iterator[tuple[int, Channels]]:
    """The first sample and the samples of each block; blocks overlap by a window, so every window is in one."""
    audio = recipe.audio
    seconds = audio.clip_seconds
    assert not isinstance(seconds, str), "a recipe is resolved before it is used"
    overlap = round(seconds * audio.sample_rate_hz)
    numbers = audio.near_channel, audio.far_channel
    for start, joined in overlapping_blocks(path, channels, audio.sample_rate_hz, *numbers, overlap):
        yield start, dict(zip(channels, joined, strict=True))
