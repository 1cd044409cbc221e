"""The normal recordings of one machine and section in a detector, and their scores for calibration.

There are two ways to calibrate. ``split`` holds recordings out of the bank (and out of training, where there is
any): their scores are exchangeable with those of new normal recordings, so that conformal p-values are exact, and
the bank is smaller. ``leave-one-out`` scores every recording against all others. Its p-values are exact as well
where another normal recording in the bank can only lower scores: against the others *and* the new recording, every
recording scores at most what it scores here, and with those scores the p-value would be the full conformal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.clips import Clip
from nearfar.explain.localisation import MOST_CLIPS, PatchBank, fit_patches
from nearfar.pipeline.extraction import Extracted
from nearfar.pipeline.scoring import is_guaranteed, left_out_scores, normal_scores
from nearfar.scoring import FUSIONS, MachineScorer, ScoringPlan, ViewScores, Workspace
from nearfar.thresholds import Calibration

Scores = NDArray[np.float64]
Unit = tuple[str, str]
"""Machine and section."""


@dataclass(frozen=True, eq=False)
class FittedMachine:
    """The normal windows that recordings of one machine and section are compared with.

    Attributes:
        machine, section: of the recordings.
        recordings: names of the normal recordings.
        files: their paths when the detector was fitted, to be listened to.
        target: (recordings,) bool, which of them are of the target domain.
        features: (windows, parts, dim) float32 of every scored view.
        recording: (windows,) int64, the recording that each window is of.
        begins_s: (windows,) float64, where it begins there.
        normal_scores: (windows,) float64 leave-one-out scores by view, where the fusion of views uses them.
        patches: normal patches of the first view; None where recordings are too short for any.
        plan: how features become scores.
        workspace: where a back-end that trains keeps its model.
    """

    machine: str
    section: str
    recordings: tuple[str, ...]
    files: tuple[str, ...]
    target: NDArray[np.bool_]
    features: dict[str, Tensor]
    recording: NDArray[np.int64]
    begins_s: NDArray[np.float64]
    normal_scores: dict[str, Scores]
    patches: PatchBank | None
    plan: ScoringPlan
    workspace: Workspace | None = None

    @cached_property
    def scorer(self) -> MachineScorer:
        """Fitted on first use: a detector of many machines mostly scores recordings of one."""
        target = torch.from_numpy(self.target[self.recording])
        return MachineScorer(
            self.features, target, self.plan, normal_scores=self.normal_scores or None, workspace=self.workspace
        )

    def score(self, features: Mapping[str, Tensor]) -> ViewScores:
        """Scores of windows from their features (windows, parts, dim) of every scored view."""
        return self.scorer.score(features)

    def nearest(self, window: int) -> tuple[str, float, str]:
        """The recording of a normal window: its name, where the window begins in it in seconds, and its path."""
        index = int(self.recording[window])
        return self.recordings[index], float(self.begins_s[window]), self.files[index]

    def domain(self, window: int) -> str:
        """The domain of a normal window."""
        return "target" if self.target[self.recording[window]] else "source"


def explained_recordings(count: int) -> range:
    """Indices of the normal recordings whose spectrograms explanations use: all, or every n-th of many."""
    return range(0, count, -(-count // MOST_CLIPS))


def hold_out(clips: Sequence[Clip], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Recordings of one machine to hold out, (clips,) bool: about this fraction of each domain, at random.

    At least one recording of a domain stays in the bank, and at least one is held out where there are several.
    """
    random = np.random.default_rng(seed)
    domains = np.array([clip.domain for clip in clips])
    out = np.zeros(len(clips), dtype=np.bool_)
    for domain in sorted(set(domains.tolist())):
        members = np.flatnonzero(domains == domain)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        out[random.permutation(members)[:count]] = True
    return out


def fit_machine(
    unit: Unit,
    clips: Sequence[Clip],
    held: NDArray[np.bool_],
    extracted: Extracted,
    features: Mapping[str, Tensor],
    recipe: Recipe,
    workspace: Workspace | None = None,
) -> tuple[FittedMachine, Calibration]:
    """Fit one machine and section, and score normal recordings for thresholds.

    Args:
        unit: machine and section.
        clips: its normal recordings.
        held: (clips,) bool, those that are held out of the bank for calibration.
        extracted: their windows.
        features: (windows, parts, dim) of every scored view.
        recipe: resolved.
        workspace: where a back-end that trains keeps its model.
    """
    inside = torch.from_numpy(~held[extracted.recording])
    in_bank = [clip for clip, out in zip(clips, held, strict=True) if not out]
    recording = (np.cumsum(~held) - 1)[extracted.recording[inside.numpy()]]
    bank_features = {view: values[inside] for view, values in features.items()}
    target = np.array([clip.domain == "target" for clip in in_bank], dtype=np.bool_)
    flags = torch.from_numpy(target[recording])
    plan = recipe.scoring_plan()
    uses_normals = FUSIONS[plan.fusion].uses_normals
    normals = MachineScorer(bank_features, flags, plan, workspace=workspace).normal.views if uses_normals else {}
    log_mels = [log_mel for window, log_mel in extracted.log_mels.items() if inside[window]]
    fitted = FittedMachine(
        *unit,
        tuple(clip.name for clip in in_bank),
        tuple(str(clip.path.resolve()) for clip in in_bank),
        target,
        bank_features,
        recording,
        extracted.begins_s[inside.numpy()],
        normals,
        fit_patches(log_mels) if log_mels else None,
        plan,
        workspace,
    )
    method = recipe.calibration.method
    if held.any() or method == "split":
        chosen = [clip for clip, out in zip(clips, held, strict=True) if out]
        windows = (np.cumsum(held) - 1)[extracted.recording[~inside.numpy()]]
        scored = fitted.score({view: values[~inside] for view, values in features.items()}) if chosen else None
    else:
        chosen, windows = in_bank, recording
        scored = left_out_scores(bank_features, flags, recording, recipe, fitted.scorer)
    entries = () if scored is None or not scored.fused.size else normal_scores(chosen, _highest(windows, scored))
    return fitted, Calibration(
        machine=unit[0],
        section=unit[1],
        method=method,
        guaranteed=method == "split" or is_guaranteed(recipe),
        recordings=entries,
    )


def _highest(recording: NDArray[np.int64], scores: ViewScores) -> ViewScores:
    """Scores of recordings from those of their windows: those of the most anomalous window."""
    rows = most_anomalous(recording, scores.fused)
    return ViewScores(scores.fused[rows], {view: values[rows] for view, values in scores.views.items()})


def most_anomalous(recording: NDArray[np.int64], scores: Scores) -> NDArray[np.int64]:
    """The window with the highest score of every recording, (recordings,), from the ``recording`` of each."""
    order = np.lexsort((-np.arange(len(scores)), scores, recording))
    last = np.flatnonzero(np.diff(recording[order], append=recording.max(initial=-1) + 1))
    highest: NDArray[np.int64] = order[last]
    return highest
