"""Data of the normal recordings with which others can be added to them later.

The landmarks show whether a recording that is added repeats one that is there, the facts of the signals give the
profile of all of them together, and the features of recordings that are held out of the bank are scored again by
the larger one. All are appended to, so that a change is undone by dropping what is behind a number of recordings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.data.clips import Clip
from nearfar.data.copies import Landmarks
from nearfar.data.signals import SignalFacts, facts_from_arrays, facts_to_arrays
from nearfar.files import as_text
from nearfar.pipeline.extraction import Extracted


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """Facts and landmarks of recordings, in their order."""

    facts: tuple[SignalFacts, ...]
    landmarks: tuple[Landmarks, ...]

    def __len__(self) -> int:
        return len(self.facts)

    def first(self, count: int) -> Signals:
        """Those of the first recordings."""
        return Signals(self.facts[:count], self.landmarks[:count])

    def tensors(self) -> dict[str, Tensor]:
        """All as tensors by name, for a safetensors file; NaN stands for what a recording lacks."""
        marks = self.landmarks
        out: dict[str, NDArray[np.generic]] = {
            "samples": np.array([mark.samples for mark in marks], np.int64),
            "marks": np.array([len(mark.codes) for mark in marks], np.int64),
            "positions": _joined([mark.positions for mark in marks], np.int64),
            "codes": _joined([mark.codes for mark in marks], np.uint64).view(np.int64),
            **facts_to_arrays(self.facts),
        }
        return {name: torch.from_numpy(values) for name, values in out.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Signals:
        """The inverse of :meth:`tensors`."""
        values = {name: tensor.numpy() for name, tensor in tensors.items()}
        ends = np.cumsum(values["marks"])[:-1]
        positions = np.split(values["positions"], ends)
        codes = np.split(values["codes"].view(np.uint64), ends)
        samples = values["samples"].tolist()
        marks = [Landmarks(*entry) for entry in zip(samples, positions, codes, strict=True)] if samples else []
        return cls(facts_from_arrays(values), tuple(marks))


def _joined(parts: Sequence[NDArray[np.generic]], kind: type[np.generic]) -> NDArray[np.generic]:
    joined: NDArray[np.generic] = np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)
    return joined


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Normal recordings that are held out of the bank, in the order of their scores.

    Attributes:
        files: their paths when the detector was fitted.
        features: (windows, parts, dim) float32 of every scored view.
        recording: (windows,) int64, the recording that each window is of.
        signals: of the recordings.
    """

    files: tuple[str, ...]
    features: dict[str, Tensor]
    recording: NDArray[np.int64]
    signals: Signals

    def first(self, count: int) -> Self:
        """The first recordings."""
        windows = int((self.recording < count).sum())
        features = {view: values[:windows].clone() for view, values in self.features.items()}
        return type(self)(self.files[:count], features, self.recording[:windows].copy(), self.signals.first(count))

    def tensors(self) -> dict[str, Tensor]:
        """All as tensors by name, for a safetensors file."""
        out = {f"features/{view}": values for view, values in self.features.items()}
        out["recording"] = torch.from_numpy(self.recording)
        return out | {f"signals/{name}": values for name, values in self.signals.tensors().items()}

    @classmethod
    def from_tensors(cls, files: Sequence[str], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`tensors`."""
        recording = tensors["recording"].numpy()
        return cls(
            tuple(files), below(tensors, "features"), recording, Signals.from_tensors(below(tensors, "signals"))
        )


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix`` and a slash, by the rest of their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): values for name, values in tensors.items() if name.startswith(start)}


def kept(
    clips: Sequence[Clip], held: NDArray[np.bool_], extracted: Extracted, features: Mapping[str, Tensor]
) -> tuple[Signals | None, HeldOut | None]:
    """Data of normal recordings: of those in the bank, and of those that are held out, if there are any.

    Args:
        clips: the recordings.
        held: (clips,) bool, which of them are held out.
        extracted: their windows.
        features: (windows, parts, dim) of every scored view.

    Returns:
        None for both where the windows were extracted without landmarks.
    """
    if len(extracted.facts) < len(clips) or len(extracted.landmarks) < len(clips):
        return None, None

    def signals(indices: NDArray[np.intp]) -> Signals:
        chosen = indices.tolist()
        return Signals(
            tuple(extracted.facts[index] for index in chosen),
            tuple(extracted.landmarks[index] for index in chosen),
        )

    outside = np.flatnonzero(held)
    rows = held[extracted.recording]
    held_out = HeldOut(
        tuple(as_text(clips[index].path.resolve()) for index in outside.tolist()),
        {view: values[torch.from_numpy(rows)] for view, values in features.items()},
        (np.cumsum(held) - 1)[extracted.recording[rows]],
        signals(outside),
    )
    return signals(np.flatnonzero(~held)), held_out if outside.size else None
