"""From recordings to features of their windows; a clip of the challenge has one window.

Every file is decoded once, whatever the number of views, and every spectrogram is computed once, but for the
spectrograms of most windows of long recordings, which are computed again where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.data.copies import Landmarks
from nearfar.data.prefetch import buffered
from nearfar.data.signals import SignalFacts
from nearfar.errors import InputError
from nearfar.features import WindowBatch
from nearfar.frontends.kaldi import PATCH_FRAMES, frame_count
from nearfar.pipeline.extractor import Extractor
from nearfar.pipeline.windows import Recording, Window, WindowReader
from nearfar.settings import Settings

Advance = Callable[[int], None]
"""Called with the number of recordings just finished."""

READ_AHEAD_SAMPLES = 8_000_000
"""Samples, of all views, that are read ahead of the networks: 32 MB."""

SPECTROGRAMS = 12
"""Spectrograms of a recording that are kept, spread evenly over its windows."""


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """The windows of some recordings.

    Attributes:
        features: by view of waveforms, features (windows, parts, dim) float32 for each of the settings asked for.
        recording: (windows,) int64, the recording that each window is of; they follow one another.
        begins_s, ends_s: (windows,) float64, where each lies in its recording, in seconds, without padding.
        log_mels: (frames, 128) float32 of the first view by window, where asked for and at least 16 frames long.
        facts: of the signal of every recording, where asked for.
        landmarks: of every recording, where asked for.
        errors: the recordings that cannot be used, where asked for; they have no windows and no facts.
        log_mel_again: computes a spectrogram again from a recording and the second at which a window begins.
    """

    features: dict[str, list[Tensor]]
    recording: NDArray[np.int64]
    begins_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]
    log_mels: dict[int, Tensor]
    facts: dict[int, SignalFacts] = field(default_factory=dict)
    landmarks: dict[int, Landmarks] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)
    log_mel_again: Callable[[int, float], Tensor | None] | None = None

    def log_mel(self, window: int) -> Tensor | None:
        """The spectrogram of a window, (frames, 128) float32, computed again if need be; None if too short."""
        if window in self.log_mels or self.log_mel_again is None:
            return self.log_mels.get(window)
        return self.log_mel_again(int(self.recording[window]), float(self.begins_s[window]))

    def of(self, recordings: Sequence[int]) -> Extracted:
        """The windows of some recordings, which are numbered anew in this order."""
        rows = np.concatenate([np.flatnonzero(self.recording == index) for index in recordings])
        number = {index: new for new, index in enumerate(recordings)}
        windows, again = torch.from_numpy(rows), self.log_mel_again
        return Extracted(
            {view: [part[windows] for part in parts] for view, parts in self.features.items()},
            np.array([number[index] for index in self.recording[rows].tolist()], dtype=np.int64),
            self.begins_s[rows],
            self.ends_s[rows],
            {new: self.log_mels[row] for new, row in enumerate(rows.tolist()) if row in self.log_mels},
            {number[index]: self.facts[index] for index in recordings if index in self.facts},
            {number[index]: self.landmarks[index] for index in recordings if index in self.landmarks},
            {},
            None if again is None else lambda index, begin_s: again(recordings[index], begin_s),
        )


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


def extract(
    extractor: Extractor,
    recordings: Sequence[Recording],
    *,
    views: Sequence[str] | None = None,
    wanted: Sequence[Settings] | None = None,
    device: torch.device | None = None,
    spectrograms_of: Collection[int] = (),
    with_facts: bool = False,
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
        with_facts: measure the signals, for :mod:`nearfar.data.quality`.
        with_landmarks: also find landmarks of every recording, for :func:`nearfar.data.copies.find_copies`.
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
    reader = WindowReader(extractor, views, with_facts or with_landmarks, with_landmarks, keep_errors)
    for windows in _batches(reader, recordings, collected, advance):
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
    again = partial(
        _log_mel_again, reader, [r if i in spectrograms_of else None for i, r in enumerate(recordings)]
    )
    more = collected.log_mels, collected.facts, collected.landmarks, collected.errors, again
    return _without_failures(Extracted(features, recording, begins / rate, ends, *more), len(recordings))


def _without_failures(extracted: Extracted, count: int) -> Extracted:
    """No windows of failed recordings: a long one may turn out to be unusable after windows of it were read."""
    usable = [index for index in range(count) if index not in extracted.errors]
    if np.isin(extracted.recording, usable).all():
        return extracted
    kept = extracted.of(usable)
    return replace(
        extracted,
        features=kept.features,
        recording=np.array(usable, dtype=np.int64)[kept.recording],
        begins_s=kept.begins_s,
        ends_s=kept.ends_s,
        log_mels=kept.log_mels,
    )


def _log_mel_again(
    reader: WindowReader, recordings: Sequence[Recording | None], index: int, begin_s: float
) -> Tensor | None:
    """The spectrogram of a window of the first view, from its file; None without a file and of short windows."""
    recording = recordings[index]
    if recording is None or not isinstance(recording.source, Path):
        return None
    rate = reader.extractor.recipe.audio.sample_rate_hz
    waveform = reader.window(recording, round(begin_s * rate), reader.views[0])
    if frame_count(len(waveform)) < PATCH_FRAMES:
        return None
    with torch.inference_mode():
        batch = WindowBatch(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        return batch.log_mels()[0]


def _collect_log_mels(
    batch: WindowBatch, windows: Sequence[Window], spectrograms_of: Collection[int], collected: _Collected
) -> None:
    for index, window in enumerate(windows):
        is_kept = window.number % -(-window.of // SPECTROGRAMS) == 0
        if is_kept and window.recording in spectrograms_of and frame_count(window.samples) >= PATCH_FRAMES:
            with torch.inference_mode():
                # A copy, as the spectrograms of a batch may be one tensor.
                collected.log_mels[len(collected.windows) + index] = batch.log_mels()[index].cpu().clone()


def _batches(
    reader: WindowReader, recordings: Sequence[Recording], collected: _Collected, advance: Advance | None
) -> Iterator[list[Window]]:
    """Windows in order, as many together as the recipe says."""
    size = reader.extractor.recipe.scoring.batch_size
    batch: list[Window] = []
    pieces = buffered(reader.pieces(recordings), size=lambda piece: piece.size, most=READ_AHEAD_SAMPLES)
    for piece in pieces:
        for window in piece.windows:
            batch.append(window)
            if len(batch) == size:
                yield batch
                batch = []
        if piece.error is not None:
            collected.errors[piece.recording] = piece.error
        if piece.facts is not None:
            collected.facts[piece.recording] = piece.facts
        if piece.landmarks is not None:
            collected.landmarks[piece.recording] = piece.landmarks
        if piece.finished and advance is not None:
            advance(1)
    if batch:
        yield batch
