"""From recordings to features of their windows; a clip of the challenge has one window.

Every file is decoded once, whatever the number of views, and every spectrogram is computed once, but for the
spectrograms of most windows of long recordings, which are computed again where they are needed.

On a CPU, workers read recordings and compute their features, each recording alone: the features do not depend on
the others, nor on the number of workers. On other devices workers read, and networks compute batches of windows.
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

from nearfar.data.copies import Landmarks, joined_landmarks
from nearfar.data.signals import SignalFacts, merged_facts
from nearfar.devices import moved
from nearfar.errors import InputError
from nearfar.features import WindowBatch
from nearfar.frontends.kaldi import PATCH_FRAMES, frame_count
from nearfar.pipeline.extractor import Extractor
from nearfar.pipeline.windows import Piece, Recording, Window, WindowReader
from nearfar.settings import Settings
from nearfar.threads import one_thread

Advance = Callable[[int], None]
"""Called with the number of recordings just finished."""

SPECTROGRAMS = 12
"""Spectrograms of a file that are kept, spread evenly over its windows."""


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """The windows of some recordings.

    Attributes:
        features: by view of waveforms, features (windows, parts, dim) float32 for each of the settings asked for.
        recording: (windows,) int64, the recording that each window is of; they follow one another.
        begins_s, ends_s: (windows,) float64, where each lies in its recording, in seconds, without padding.
        log_mels: (frames, 128) float32 of the first view by window, where asked for and at least 16 frames long;
            of files only some, see :meth:`log_mel`.
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
    """What was found so far; facts and landmarks by recording and block."""

    features: dict[str, list[list[Tensor]]]
    windows: list[tuple[int, int, int]] = field(default_factory=list)
    log_mels: dict[int, Tensor] = field(default_factory=dict)
    facts: dict[int, list[SignalFacts]] = field(default_factory=dict)
    landmarks: dict[int, list[tuple[int, Landmarks]]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    errors: dict[int, InputError] = field(default_factory=dict)

    def add_piece(self, piece: Piece) -> None:
        """Add all of a piece but its windows."""
        if piece.facts is not None:
            self.facts.setdefault(piece.recording, []).append(piece.facts)
        if piece.landmarks is not None:
            self.landmarks.setdefault(piece.recording, []).append((piece.begin, piece.landmarks))
        if piece.finished:
            self.seconds[piece.recording] = piece.seconds
        if piece.error is not None:
            self.errors[piece.recording] = piece.error

    def add_batch(self, batch: _Batch) -> None:
        """Add windows and their features."""
        self.log_mels |= {len(self.windows) + index: log_mel for index, log_mel in batch.log_mels.items()}
        self.windows += batch.windows
        for view, values in batch.features.items():
            for rows, new in zip(self.features[view], values, strict=True):
                rows.append(new)

    def of_recordings(self) -> tuple[dict[int, SignalFacts], dict[int, Landmarks]]:
        """Facts and landmarks of the usable recordings, of long ones joined."""
        usable = [index for index in self.seconds if index not in self.errors]
        facts, marks = {}, {}
        for index in usable:
            if found := self.facts.get(index):
                facts[index] = found[0] if len(found) == 1 else merged_facts(found, self.seconds[index])
            if found_marks := self.landmarks.get(index):
                is_one = len(found_marks) == 1
                marks[index] = found_marks[0][1] if is_one else joined_landmarks(found_marks)
        return facts, marks


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """Windows by recording, first sample and number of samples; their features; log-mel spectrograms of some."""

    windows: list[tuple[int, int, int]]
    features: dict[str, list[Tensor]]
    log_mels: dict[int, Tensor]


@dataclass(frozen=True, slots=True)
class _Features:
    """Computes the features of windows."""

    extractor: Extractor
    views: Sequence[str]
    wanted: Sequence[Settings]
    device: torch.device
    spectrograms_of: Collection[int]
    all_spectrograms_of: Collection[int]

    def of_piece(self, piece: Piece) -> tuple[Piece, list[_Batch]]:
        """The features of a piece's windows, as many together as the recipe says, and the piece without them."""
        size = self.extractor.recipe.scoring.batch_size
        windows = piece.windows
        batches = [self(windows[first : first + size]) for first in range(0, len(windows), size)]
        return replace(piece, windows=[]), batches

    def __call__(self, windows: Sequence[Window]) -> _Batch:
        """The features of one or more windows."""
        lengths = torch.tensor([window.samples for window in windows], device=self.device)
        features, log_mels = {}, {}
        with one_thread():  # networks as well: sums on several threads may differ in the last bit
            for index, view in enumerate(self.views):
                waveform = moved(
                    torch.from_numpy(np.stack([window.views[index] for window in windows])), self.device
                )
                batch = WindowBatch(waveform, lengths)
                features[view] = [values.cpu() for values in self.extractor(batch, self.wanted)]
                if index == 0:
                    log_mels = self._log_mels(batch, windows)
        return _Batch([(window.recording, window.begin, window.samples) for window in windows], features, log_mels)

    def _log_mels(self, batch: WindowBatch, windows: Sequence[Window]) -> dict[int, Tensor]:
        kept = [
            index
            for index, window in enumerate(windows)
            if window.recording in self.spectrograms_of
            and (
                window.recording in self.all_spectrograms_of or window.number % -(-window.of // SPECTROGRAMS) == 0
            )
            and frame_count(window.samples) >= PATCH_FRAMES
        ]
        if not kept:
            return {}
        with torch.inference_mode():
            # Copies, as the spectrograms of a batch may be one tensor.
            return {index: batch.log_mels()[index].cpu().clone() for index in kept}


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
    """Features of every window of every recording.

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
    # Those of a file can be computed again, those of an array that the caller may change cannot.
    arrays = {index for index in spectrograms_of if not isinstance(recordings[index].source, Path)}
    compute = _Features(extractor, views, wanted, device, spectrograms_of, arrays)
    for piece, batches in _computed(reader, recordings, compute):
        for batch in batches:
            collected.add_batch(batch)
        if piece is None:
            continue
        collected.add_piece(piece)
        if piece.finished and advance is not None:
            advance(1)
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
    more = collected.log_mels, *collected.of_recordings(), collected.errors, again
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
    samples = waveform.shape[-1]
    if frame_count(samples) < PATCH_FRAMES:
        return None
    with torch.inference_mode():
        batch = WindowBatch(torch.from_numpy(waveform)[None], torch.tensor([samples]))
        return batch.log_mels()[0]


def _computed(
    reader: WindowReader, recordings: Sequence[Recording], compute: _Features
) -> Iterator[tuple[Piece | None, list[_Batch]]]:
    """The pieces of all recordings, without their windows, and the features of windows in order."""
    if compute.device.type == "cpu":
        yield from reader.pieces(recordings, compute.of_piece)
        return
    size = reader.extractor.recipe.scoring.batch_size
    waiting: list[Window] = []
    for piece in reader.pieces(recordings, lambda piece: piece):
        waiting += piece.windows
        full = len(waiting) - len(waiting) % size
        yield (
            replace(piece, windows=[]),
            [compute(waiting[begin : begin + size]) for begin in range(0, full, size)],
        )
        waiting = waiting[full:]
    if waiting:
        yield None, [compute(waiting)]
