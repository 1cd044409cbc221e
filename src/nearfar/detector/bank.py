"""The normal recordings of one machine and section, as a detector keeps them, and scores against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.explain.localisation import MOST_CLIPS, PatchBank, fit_patches
from nearfar.features.windows import Heard
from nearfar.scoring.machine import MachineScorer, ViewScores
from nearfar.thresholds.calibration import (
    Calibration,
    NormalScore,
    Scores,
    left_out_scores,
    most_anomalous,
    not_needed,
    only_falls,
)


@dataclass(frozen=True, eq=False)
class Bank:
    """The normal windows that recordings of one machine and section are compared with.

    Attributes:
        machine, section: whose they are.
        recordings: names of the normal recordings.
        files: where they were when the detector was fitted, for who wants to listen.
        target: (recordings,) bool, which of them are of the target domain.
        features: (windows, parts, dim) float32 of every scored view.
        recording: (windows,) int64, which recording each window is of.
        begins_s: (windows,) float64, where it begins there.
        alone: (windows,) float64 leave-one-out scores by view, where views are brought to one scale by them.
        patches: what normal patches of the first view are like; None where recordings are too short for any.
        recipe: resolved.
    """

    machine: str
    section: str
    recordings: tuple[str, ...]
    files: tuple[str, ...]
    target: NDArray[np.bool_]
    features: dict[str, Tensor]
    recording: NDArray[np.int64]
    begins_s: NDArray[np.float64]
    alone: dict[str, Scores]
    patches: PatchBank | None
    recipe: Recipe

    @cached_property
    def scorer(self) -> MachineScorer:
        """Fitted when it is first asked for: a detector of many machines is mostly asked about one."""
        target = torch.from_numpy(self.target[self.recording])
        scoring = self.recipe.scoring
        alone = self.alone or not_needed(self.features, scoring)
        return MachineScorer(self.features, target, scoring, self.recipe.seed, alone=alone)

    def score(self, features: dict[str, Tensor]) -> ViewScores:
        """Scores of windows from their features."""
        return self.scorer.score(features)

    def nearest(self, window: int) -> tuple[str, float]:
        """The recording that a normal window is of, and where in it, in seconds, it begins."""
        return self.recordings[int(self.recording[window])], float(self.begins_s[window])

    def file(self, window: int) -> str:
        """Where the recording of a normal window was when the detector was fitted."""
        return self.files[int(self.recording[window])]

    def domain(self, window: int) -> str:
        """The domain of a normal window."""
        return "target" if self.target[self.recording[window]] else "source"


def explained_recordings(count: int) -> range:
    """Which normal recordings are looked at for where others depart from them: all, or every n-th of many."""
    return range(0, count, -(-count // MOST_CLIPS))


def fit_bank(
    machine: str,
    section: str,
    clips: Sequence[Clip],
    held: NDArray[np.bool_],
    heard: Heard,
    recipe: Recipe,
) -> tuple[Bank, Calibration]:
    """The bank of one machine and section, and the scores of normal recordings to set thresholds by.

    Args:
        machine, section: whose recordings these are.
        clips: its normal recordings.
        held: (clips,) bool, those that are held out of the bank for calibration, if any.
        heard: their windows.
        recipe: resolved.
    """
    inside = torch.from_numpy(~held[heard.recording])
    kept = [clip for clip, out in zip(clips, held, strict=True) if not out]
    recording = (np.cumsum(~held) - 1)[heard.recording[inside.numpy()]]
    features = {view: values[inside] for view, values in heard.features.items()}
    target = np.array([clip.domain == "target" for clip in kept], dtype=np.bool_)
    flags = torch.from_numpy(target[recording])
    several = recipe.scoring.fusion != "mean"
    alone = MachineScorer(features, flags, recipe.scoring, recipe.seed).normal.views if several else {}
    log_mels = [log_mel for window, log_mel in heard.log_mels.items() if inside[window]]
    bank = Bank(
        machine,
        section,
        tuple(clip.name for clip in kept),
        tuple(str(clip.path.resolve()) for clip in kept),
        target,
        features,
        recording,
        heard.begins_s[inside.numpy()],
        alone,
        fit_patches(log_mels) if log_mels else None,
        recipe,
    )
    method = recipe.detection.calibration
    if method == "split":
        chosen = [clip for clip, out in zip(clips, held, strict=True) if out]
        scored = bank.score({view: values[~inside] for view, values in heard.features.items()}) if chosen else None
        of = (np.cumsum(held) - 1)[heard.recording[~inside.numpy()]]
        entries = _normal_scores(chosen, of, scored.fused, scored.views) if scored is not None else ()
    else:
        fused, views = left_out_scores(features, flags, recording, recipe)
        entries = _normal_scores(kept, recording, fused, views) if fused.size else ()
    exact = method == "split" or (recipe.training.adaptation == "none" and only_falls(recipe.scoring))
    return bank, Calibration(machine=machine, section=section, method=method, guaranteed=exact, recordings=entries)


def _normal_scores(
    clips: Sequence[Clip], recording: NDArray[np.int64], fused: Scores, views: dict[str, Scores]
) -> tuple[NormalScore, ...]:
    windows = most_anomalous(recording, fused)
    return tuple(
        NormalScore(
            file=clip.name,
            domain="target" if clip.domain == "target" else "source",
            score=float(fused[window]),
            channels={view: float(values[window]) for view, values in views.items()},
        )
        for clip, window in zip(clips, windows, strict=True)
    )
