"""From recordings, files or arrays, to the features of their windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.audio import SAMPLE_RATE_HZ, choose_channels, read_waveform, zero_pad
from nearfar.data.clips import View
from nearfar.data.prefetch import prefetched
from nearfar.errors import InputError
from nearfar.features.representation import Representation, scored_features, waveform_views
from nearfar.features.window_starts import window_starts
from nearfar.frontends.kaldi import FRAME_SAMPLES, PATCH_FRAMES, KaldiFbank, frame_count
from nearfar.views import channels_of, make_views, require_two_signals

Advance = Callable[[int], None]
"""Called with the number of recordings just heard."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A file, or samples in memory: (channels, samples) float32 in [-1, 1] of ``sample_rate_hz``."""

    name: str
    source: Path | NDArray[np.float32]
    sample_rate_hz: int = SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """The windows of some recordings.

    Attributes:
        features: (windows, parts, dim) float32 of every scored view.
        recording: (windows,) int64, which recording each window is of; they follow one another.
        begins_s, ends_s: (windows,) float64, where each lies in its recording, in seconds, without padding.
        log_mels: (frames, 128) float32 of the first view by window, where asked for and long enough.
    """

    features: dict[str, Tensor]
    recording: NDArray[np.int64]
    begins_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    log_mels: dict[int, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    recording: int
    begin: int
    samples: int
    views: NDArray[np.float32]
    """(views, padded samples)."""


@dataclass(slots=True)
class _Pile:
    """What is gathered window by window."""

    features: dict[View, list[Tensor]]
    windows: list[tuple[int, int, int]] = field(default_factory=list)
    log_mels: dict[int, Tensor] = field(default_factory=dict)


def hop_seconds(recipe: Recipe) -> float:
    """How far apart the windows of a recipe are, in seconds."""
    seconds = recipe.detection.hop_seconds or recipe.audio.clip_seconds
    assert not isinstance(seconds, str), "a recipe is resolved before it is used"
    return seconds


def hear(
    representation: Representation,
    recordings: Sequence[Recording],
    *,
    device: torch.device,
    spectrograms_of: Collection[int] = (),
    advance: Advance | None = None,
) -> Heard:
    """Features of every window of every recording, reading ahead in the background.

    Args:
        representation: what makes features; its recipe is resolved.
        recordings: one or more; those longer than a clip become several windows, shorter ones are padded.
        device: where a network runs.
        spectrograms_of: recordings whose log-mel spectrograms are kept.
        advance: progress.

    Raises:
        InputError: if a recording cannot be used; see :func:`nearfar.data.audio.read_waveform`.
    """
    recipe = representation.recipe
    views = waveform_views(recipe)
    representation.extractor.to(device)
    pile = _Pile({view: [] for view in views})
    for batch in _batches(representation, recordings, views, advance):
        lengths = torch.tensor([window.samples for window in batch], device=device)
        for index, view in enumerate(views):
            waveform = torch.from_numpy(np.stack([window.views[index] for window in batch]))
            pile.features[view].append(representation(waveform.to(device), lengths).cpu())
        for window in batch:
            if window.recording in spectrograms_of and frame_count(window.samples) >= PATCH_FRAMES:
                pile.log_mels[len(pile.windows)] = _log_mel(window)
            pile.windows.append((window.recording, window.begin, window.samples))
    recording, begins, samples = np.array(pile.windows, dtype=np.int64).reshape(-1, 3).T
    rate = recipe.audio.sample_rate_hz
    features = scored_features({view: torch.cat(parts) for view, parts in pile.features.items()}, recipe)
    return Heard(features, recording, begins / rate, (begins + samples) / rate, pile.log_mels)


def _log_mel(window: _Window) -> Tensor:
    waveform = torch.from_numpy(window.views[0, : window.samples])
    return KaldiFbank().log_mel(waveform[None])[0]


def _batches(
    representation: Representation, recordings: Sequence[Recording], views: Sequence[View], advance: Advance | None
) -> Iterator[list[_Window]]:
    """Windows in their order, as many together as the recipe says."""
    size = representation.recipe.scoring.batch_size
    batch: list[_Window] = []

    def load(index: int) -> list[_Window]:
        return _windows(index, recordings[index], representation, views)

    for windows in prefetched(load, range(len(recordings)), threads=1, ahead=2 * size):
        for window in windows:
            batch.append(window)
            if len(batch) == size:
                yield batch
                batch = []
        if advance is not None:
            advance(1)
    if batch:
        yield batch


def _windows(
    index: int, recording: Recording, representation: Representation, views: Sequence[View]
) -> list[_Window]:
    """The windows of one recording. It is cut before views are made, so that a window is heard as a clip is."""
    recipe, padded = representation.recipe, representation.padded_samples
    channels = channels_of(views)
    waveform = _waveform(recording, recipe, views)
    rate = recipe.audio.sample_rate_hz
    hop = max(1, round(hop_seconds(recipe) * rate))
    windows = []
    for begin in window_starts(waveform.shape[1], padded, hop):
        cut = dict(zip(channels, waveform[:, begin : begin + padded], strict=True))
        made = make_views(cut, views, recipe.cancellation, rate)
        samples = made.shape[1]
        windows.append(_Window(index, begin, samples, zero_pad(made, padded, Path(recording.name))))
    return windows


def _waveform(recording: Recording, recipe: Recipe, views: Sequence[View]) -> NDArray[np.float32]:
    """(channels heard, samples) at the recipe's rate, at least one frame long."""
    audio, channels = recipe.audio, channels_of(views)
    near, far, rate = audio.near_channel, audio.far_channel, audio.sample_rate_hz
    if isinstance(recording.source, Path):
        waveform = read_waveform(recording.source, channels, rate, near=near, far=far)
    else:
        samples = checked_array(recording.source, recording.name)
        waveform = choose_channels(
            samples, recording.sample_rate_hz, recording.name, channels, rate, near=near, far=far
        )
    require_two_signals(waveform, views, recording.name)
    if waveform.shape[1] < FRAME_SAMPLES:
        raise InputError(
            recording.name,
            found=f"a recording of {waveform.shape[1] / rate:g} s",
            expected=f"at least one frame of {FRAME_SAMPLES / rate:g} s",
            remedy="Give a longer recording",
        )
    return waveform


def checked_array(samples: NDArray[np.generic], where: str) -> NDArray[np.float32]:
    """(channels, samples) float32 of an array that may also be (samples,).

    Raises:
        InputError: if it has other axes, no samples, more channels than samples, or whole numbers.
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
