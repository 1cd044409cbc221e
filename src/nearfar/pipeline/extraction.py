"""From recordings, files or arrays, to features of their windows; a clip of the challenge has one window.

Every file is decoded once, whatever the number of views, and every spectrogram is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.audio import SAMPLE_RATE_HZ, choose_channels, read_header, read_waveform, zero_pad
from nearfar.data.clips import CHANNELS, Channel, Clip
from nearfar.data.copies import Landmarks, landmarks
from nearfar.data.prefetch import prefetched
from nearfar.data.quality import ChannelFacts, SignalFacts, channel_facts, pair_facts
from nearfar.errors import InputError
from nearfar.features import WindowBatch
from nearfar.frontends.kaldi import FRAME_SAMPLES, PATCH_FRAMES, frame_count
from nearfar.pipeline.extractor import Extractor
from nearfar.settings import Settings
from nearfar.views import channels_of, make_views
from nearfar.views.base import check_views

Advance = Callable[[int], None]
"""Called with the number of recordings just finished."""

LEFT_OVER = 0.1
"""The fraction of a window that may be left over at the end of a recording without a window of its own."""


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
class Extracted:
    """The windows of some recordings.

    Attributes:
        features: by view of waveforms, features (windows, parts, dim) float32 for each of the settings asked for.
        recording: (windows,) int64, the recording that each window is of; they follow one another.
        begins_s, ends_s: (windows,) float64, where each lies in its recording, in seconds, without padding.
        log_mels: (frames, 128) float32 of the first view by window, where asked for and at least 16 frames long.
        facts: of the signal of every recording.
        landmarks: of every recording, where asked for.
        errors: the recordings that cannot be used, where asked for; they have no windows and no facts.
    """

    features: dict[str, list[Tensor]]
    recording: NDArray[np.int64]
    begins_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    log_mels: dict[int, Tensor]
    facts: dict[int, SignalFacts] = field(default_factory=dict)
    landmarks: dict[int, Landmarks] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)

    def of(self, recordings: Sequence[int]) -> Extracted:
        """The windows of some recordings, which are numbered anew in this order."""
        rows = np.concatenate([np.flatnonzero(self.recording == index) for index in recordings])
        number = {index: new for new, index in enumerate(recordings)}
        windows = torch.from_numpy(rows)
        return Extracted(
            {view: [part[windows] for part in parts] for view, parts in self.features.items()},
            np.array([number[index] for index in self.recording[rows].tolist()], dtype=np.int64),
            self.begins_s[rows],
            self.ends_s[rows],
            {new: self.log_mels[row] for new, row in enumerate(rows.tolist()) if row in self.log_mels},
            {number[index]: self.facts[index] for index in recordings if index in self.facts},
            {number[index]: self.landmarks[index] for index in recordings if index in self.landmarks},
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    recording: int
    begin: int
    samples: int
    views: NDArray[np.float32]
    """(views, padded samples)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Loaded:
    """The windows of one recording."""

    windows: list[_Window]
    facts: SignalFacts
    landmarks: Landmarks | None


@dataclass(slots=True)
class _Collected:
    features: dict[str, list[list[Tensor]]]
    windows: list[tuple[int, int, int]] = field(default_factory=list)
    log_mels: dict[int, Tensor] = field(default_factory=dict)
    facts: dict[int, SignalFacts] = field(default_factory=dict)
    landmarks: dict[int, Landmarks] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)


def default_device() -> torch.device:
    """The first GPU, if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hop_seconds(recipe: Recipe) -> float:
    """The distance from window to window, in seconds."""
    seconds = recipe.audio.hop_seconds or recipe.audio.clip_seconds
    assert not isinstance(seconds, str), "a recipe is resolved before it is used"
    return seconds


def extract(
    extractor: Extractor,
    recordings: Sequence[Recording],
    *,
    views: Sequence[str] | None = None,
    wanted: Sequence[Settings] | None = None,
    device: torch.device | None = None,
    spectrograms_of: Collection[int] = (),
    with_landmarks: bool = False,
    keep_errors: bool = False,
    advance: Advance | None = None,
) -> Extracted:
    """Features of every window of every recording, reading ahead in the background.

    Args:
        extractor: computes features; its recipe is resolved.
        recordings: one or more; those longer than a clip have several windows, shorter ones are padded.
        views: of waveforms; by default those that the recipe scores.
        wanted: settings of the recipe's source of features; by default the recipe's own.
        device: where networks run; by default the GPU, if there is one.
        spectrograms_of: indices of recordings whose log-mel spectrograms are returned.
        with_landmarks: find landmarks of every recording, for :func:`nearfar.data.copies.find_copies`.
        keep_errors: return the errors of recordings that cannot be used instead of raising the first.
        advance: progress.

    Raises:
        InputError: if a recording cannot be used; see :func:`nearfar.data.audio.read_waveform`.
    """
    recipe, device = extractor.recipe, device or default_device()
    views = recipe.waveform_views if views is None else tuple(views)
    wanted = [extractor.settings] if wanted is None else list(wanted)
    extractor.to(device)
    collected = _Collected({view: [[] for _ in wanted] for view in views})
    for windows in _batches(extractor, recordings, views, collected, with_landmarks, keep_errors, advance):
        lengths = torch.tensor([window.samples for window in windows], device=device)
        for index, view in enumerate(views):
            waveform = torch.from_numpy(np.stack([window.views[index] for window in windows])).to(device)
            batch = WindowBatch(waveform, lengths)
            for values, rows in zip(extractor(batch, wanted), collected.features[view], strict=True):
                rows.append(values.cpu())
            if index == 0 and spectrograms_of:
                _collect_log_mels(batch, windows, spectrograms_of, collected)
        collected.windows += [(window.recording, window.begin, window.samples) for window in windows]
    recording, begins, samples = np.array(collected.windows, dtype=np.int64).reshape(-1, 3).T
    rate = recipe.audio.sample_rate_hz
    features = {
        view: [torch.cat(parts) if parts else torch.empty(0) for parts in rows]
        for view, rows in collected.features.items()
    }
    ends = (begins + samples) / rate
    more = collected.log_mels, collected.facts, collected.landmarks, collected.errors
    return Extracted(features, recording, begins / rate, ends, *more)


def _collect_log_mels(
    batch: WindowBatch, windows: Sequence[_Window], spectrograms_of: Collection[int], collected: _Collected
) -> None:
    for index, window in enumerate(windows):
        if window.recording in spectrograms_of and frame_count(window.samples) >= PATCH_FRAMES:
            with torch.inference_mode():
                collected.log_mels[len(collected.windows) + index] = batch.log_mels()[index].cpu()


def _batches(
    extractor: Extractor,
    recordings: Sequence[Recording],
    views: Sequence[str],
    collected: _Collected,
    with_landmarks: bool,
    keep_errors: bool,
    advance: Advance | None,
) -> Iterator[list[_Window]]:
    """Windows in order, as many together as the recipe says."""
    size = extractor.recipe.scoring.batch_size
    batch: list[_Window] = []

    def load(index: int) -> _Loaded | InputError:
        try:
            return _loaded(index, recordings[index], extractor, views, with_landmarks)
        except InputError as error:
            if not keep_errors:
                raise
            return error

    for index, loaded in enumerate(prefetched(load, range(len(recordings)), threads=1, ahead=2 * size)):
        if isinstance(loaded, InputError):
            collected.errors[index] = loaded
        else:
            collected.facts[index] = loaded.facts
            if loaded.landmarks is not None:
                collected.landmarks[index] = loaded.landmarks
        for window in () if isinstance(loaded, InputError) else loaded.windows:
            batch.append(window)
            if len(batch) == size:
                yield batch
                batch = []
        if advance is not None:
            advance(1)
    if batch:
        yield batch


def _loaded(
    index: int, recording: Recording, extractor: Extractor, views: Sequence[str], with_landmarks: bool
) -> _Loaded:
    """The windows of one recording. Views are made of each window, as they are of a clip."""
    recipe, padded = extractor.recipe, extractor.padded_samples
    channels = channels_of(views)
    read, recorded_hz = _waveform(recording, recipe, channels)
    waveform = np.stack([read[name] for name in channels])
    settings, rate = recipe.view_settings(), recipe.audio.sample_rate_hz
    check_views(dict(zip(channels, waveform, strict=True)), views, settings, recording.name)
    hop = max(1, round(hop_seconds(recipe) * rate))
    windows = []
    for begin in window_starts(waveform.shape[1], padded, hop):
        cut = dict(zip(channels, waveform[:, begin : begin + padded], strict=True))
        made = make_views(cut, views, settings, rate)
        windows.append(_Window(index, begin, made.shape[1], zero_pad(made, padded, Path(recording.name))))
    return _Loaded(windows, _facts(read, recorded_hz, rate), landmarks(waveform[0]) if with_landmarks else None)


def _facts(read: Mapping[Channel, NDArray[np.float32]], recorded_hz: int, rate: int) -> SignalFacts:
    facts: dict[str, ChannelFacts] = {name: channel_facts(samples) for name, samples in read.items()}
    both = "near" in read and "far" in read
    pair = pair_facts(read["near"], read["far"], rate) if both else None
    return SignalFacts(recorded_hz, next(iter(read.values())).size / rate, facts, pair)


def window_starts(samples: int, window: int, hop: int) -> list[int]:
    """The first samples of the windows of one recording; all lengths are in samples, at least 1.

    Windows lie ``hop`` apart and inside the recording. What is left over behind the last of them gets a window
    that ends with the recording, unless it is a tenth of a window or less: recordings rarely have one length to
    the sample. A recording shorter than a window is one window, to be padded.
    """
    starts = list(range(0, max(samples - window, 0) + 1, hop))
    left = samples - (starts[-1] + window)
    if left > LEFT_OVER * window:
        starts.append(samples - window)
    return starts


def read_samples(recording: Recording, recipe: Recipe) -> NDArray[np.float32]:
    """(samples,) float32 of the first channel that the recipe uses, at its rate."""
    channel = channels_of(recipe.waveform_views)[0]
    return _waveform(recording, recipe, [channel])[0][channel]


def _waveform(
    recording: Recording, recipe: Recipe, channels: Sequence[Channel]
) -> tuple[dict[Channel, NDArray[np.float32]], int]:
    """The samples (samples,) of channels at the recipe's rate, and the rate at which they were recorded.

    Of two microphones both are read, where they can be, even if the recipe uses one: both may show a fault.
    """
    audio = recipe.audio
    near, far, rate = audio.near_channel, audio.far_channel, audio.sample_rate_hz
    recorded_hz = recording.sample_rate_hz
    source: Path | NDArray[np.float32] = recording.source
    if isinstance(source, Path):
        header = read_header(source)
        recorded_hz, count = header.sample_rate_hz, header.channels
    else:
        source = checked_array(source, recording.name)
        count = len(source)

    def read(chosen: Sequence[Channel]) -> NDArray[np.float32]:
        if isinstance(source, Path):
            return read_waveform(source, chosen, rate, near=near, far=far)
        return choose_channels(source, recorded_hz, recording.name, chosen, rate, near=near, far=far)

    every = CHANNELS if near != far and count > max(near, far) else channels
    try:
        waveform = read(every)
    except InputError:
        if set(every) == set(channels):
            raise
        every = channels
        waveform = read(every)
    if waveform.shape[1] < FRAME_SAMPLES:
        raise too_short(recording.name, waveform.shape[1] / rate)
    return dict(zip(every, waveform, strict=True)), recorded_hz


def too_short(where: Path | str, seconds: float) -> InputError:
    """The error about a recording that is shorter than a frame."""
    return InputError(
        where,
        found=f"a recording of {seconds:g} s",
        expected=f"at least one frame of {FRAME_SAMPLES / SAMPLE_RATE_HZ:g} s",
        remedy="Use longer recordings",
    )


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
