"""Clips worth a look and a listen: the worst false alarms and misses, with where they depart from normal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Recipe
from nearfar.data.clips import Clip, View
from nearfar.data.views import make_views, read_views
from nearfar.errors import InputError
from nearfar.models.fbank import PATCH_FRAMES, Fbank
from nearfar.report.gather import MachineFacts
from nearfar.report.media import Sound, sound, spectrogram
from nearfar.scoring.explanation import explain
from nearfar.scoring.localisation import BANDS, PatchBank, fit_patches

EACH = 2
"""Clips of either kind per machine."""
MOST_NORMALS = 100
"""Normal clips that a departure is judged by."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A patch that stands out: its corner and size as shares of the spectrogram, and how much, 0 to 1."""

    x: float
    y: float
    width: float
    height: float
    strength: float


@dataclass(frozen=True, slots=True)
class Example:
    """A clip to look at and listen to."""

    kind: str
    name: str
    domain: str
    score: float
    sentence: str
    seconds: float
    picture: str
    cells: tuple[Cell, ...]
    sounds: tuple[Sound, ...]


def examples_of(facts: MachineFacts, recipe: Recipe) -> list[Example]:
    """The highest-scoring normal clips and the lowest-scoring anomalies of one machine, worst first.

    None without labels or recordings. Recordings that cannot be read any more are left out.
    """
    if facts.anomalous is None or facts.domains is None or not facts.test or not facts.train:
        return []
    listener = _Listener(facts, recipe)
    by_name = {clip.name: clip for clip in facts.test}
    order = np.argsort(facts.scores.scores, kind="stable")
    alarms = [int(place) for place in order[::-1] if not facts.anomalous[place]][:EACH]
    misses = [int(place) for place in order if facts.anomalous[place]][:EACH]
    out = []
    for kind, places in (("false alarm", alarms), ("miss", misses)):
        for place in places:
            score = float(facts.scores.scores[place])
            if facts.threshold is not None and (score > facts.threshold) != (kind == "false alarm"):
                continue  # the decision was right: nothing to explain
            clip = by_name.get(facts.scores.names[place])
            if clip is not None:
                out += listener.example(kind, clip, str(facts.domains[place]), score)
    return out


class _Listener:
    def __init__(self, facts: MachineFacts, recipe: Recipe) -> None:
        self.recipe = recipe
        self.view: View = "cancelled" if "cancelled" in recipe.scoring.channels else "near"
        self.fbank = Fbank()
        self.bank: PatchBank = fit_patches([self._log_mel(clip) for clip in _some(facts.train)])

    def _log_mel(self, clip: Clip) -> torch.Tensor:
        waveform = read_views(clip.path, (self.view,), self.recipe.audio, self.recipe.cancellation)
        return self.fbank.log_mel(torch.from_numpy(waveform))[0]

    def example(self, kind: str, clip: Clip, domain: str, score: float) -> list[Example]:
        try:
            near = read_views(clip.path, ("near",), self.recipe.audio, self.recipe.cancellation)[0]
        except InputError:
            return []
        sounds = [sound("near", near)]
        waveform = near
        try:
            far = read_views(clip.path, ("far",), self.recipe.audio, self.recipe.cancellation)[0]
        except InputError:
            pass  # mono: there is nothing else to hear
        else:
            sounds.append(sound("far", far))
            if self.view == "cancelled":
                both = {"near": near, "far": far}
                waveform = make_views(both, ("cancelled",), self.recipe.cancellation)[0]  # type: ignore[arg-type]
                sounds.append(sound("near without far", waveform))
        log_mel = self.fbank.log_mel(torch.from_numpy(waveform)[None])[0]
        explanation = explain(log_mel, self.bank)
        usual = float(np.quantile(self.bank.peaks.numpy(), 0.95))
        return [
            Example(
                kind,
                clip.name,
                domain,
                score,
                explanation.sentence,
                len(waveform) / 16_000,
                spectrogram(log_mel.numpy()),
                tuple(_cells(explanation.map, usual, len(log_mel))),
                tuple(sounds),
            )
        ]


def _some(clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    return clips[:: -(-len(clips) // MOST_NORMALS)]


def _cells(grid: NDArray[np.float32], usual: float, frames: int) -> list[Cell]:
    """Patches beyond what 95 of 100 normal clips reach anywhere."""
    highest = float(grid.max())
    out = []
    for column, band in zip(*np.nonzero(grid > usual), strict=True):
        strength = (float(grid[column, band]) - usual) / max(highest - usual, 1e-6)
        width = PATCH_FRAMES / frames
        out.append(Cell(float(column) * width, 1.0 - (float(band) + 1) / BANDS, width, 1.0 / BANDS, strength))
    return out
