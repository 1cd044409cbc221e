"""The normal recordings of one machine and section in a detector, and their scores for calibration.

There are two ways to calibrate. ``split`` holds recordings out of the bank (and out of training, where there is
any): their scores are exchangeable with those of new normal recordings, so that conformal p-values are exact, and
the bank is smaller. ``leave-one-out`` scores every recording against all others. Its p-values are exact as well
where another normal recording in the bank can only lower scores: against the others *and* the new recording, every
recording scores at most what it scores here, and with those scores the p-value would be the full conformal one.

Recordings of one group, such as a session, are held out or left out together, as they are not independent of each
other; see :mod:`nearfar.data.grouping`. Recordings that repeat others are left out of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import CHANNELS, Clip
from nearfar.data.grouping import Groups
from nearfar.data.quality import Profile, profile
from nearfar.data.signals import aligned_residual_db
from nearfar.detector.faults import FaultBank
from nearfar.detector.kept import HeldOut, Signals, kept
from nearfar.errors import InputError
from nearfar.explain.localisation import MOST_CLIPS, PatchBank, fit_patches
from nearfar.files import as_text
from nearfar.pipeline.extraction import Extracted
from nearfar.pipeline.scoring import is_guaranteed, left_out_scores, normal_scores, trains_on_normals
from nearfar.scoring import FUSIONS, MachineScorer, ScoringPlan, ViewScores, Workspace
from nearfar.threads import one_thread
from nearfar.thresholds import FEWEST_GROUPS, Calibration, NormalScore
from nearfar.views import combined_features

Scores = NDArray[np.float64]
Unit = tuple[str, str]
"""Machine and section."""

ALIKE = 1e-6
"""Features that differ by less than this fraction of the largest are the same."""

_FITTING = Lock()
"""Several workers need one scorer: the first one fits it."""

SAME_CHANNEL_DB = -30.0
"""Far is a function of near where less of near than this is not explained by it."""


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
        profile: of the signals of the normal recordings; None in detectors of earlier versions.
        repeats: names of recordings that hold the sound of another one, which is named second.
        signals: of the normal recordings; None in detectors of earlier versions.
        held: normal recordings that are held out for calibration, if there are any.
        faults: recordings of known faults, if there are any.
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
    profile: Profile | None = None
    repeats: tuple[tuple[str, str], ...] = ()
    signals: Signals | None = None
    held: HeldOut | None = None
    faults: FaultBank | None = None

    @property
    def scorer(self) -> MachineScorer:
        """Fitted on first use: a detector of many machines mostly scores recordings of one."""
        with _FITTING:
            return self._scorer

    @cached_property
    def _scorer(self) -> MachineScorer:
        target = torch.from_numpy(self.target[self.recording])
        return MachineScorer(
            self.features, target, self.plan, normal_scores=self.normal_scores or None, workspace=self.workspace
        )

    @property
    def reason(self) -> str | None:
        """The choices that the fusion of views made for this machine and why; None if it makes none."""
        return None if FUSIONS[self.plan.fusion].weigh is None else self.scorer.reason

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


def scored_features(extracted: Extracted, recipe: Recipe) -> dict[str, Tensor]:
    """(windows, parts, dim) float32 of every scored view, from those of the views of waveforms."""
    features = {view: values[0] for view, values in extracted.features.items()}
    return combined_features(features, recipe.scoring.views, recipe.view_settings())


def explained_recordings(count: int) -> range:
    """Indices of the normal recordings whose spectrograms explanations use: all, or every n-th of many."""
    return range(0, count, -(-count // MOST_CLIPS))


def require_variety(unit: Unit, clips: Sequence[Clip], features: Mapping[str, Tensor]) -> None:
    """Raise an InputError if all recordings have the same features and no difference could be scored."""
    for view, values in features.items():
        if len(clips) > 1 and float((values - values[0]).abs().max()) <= ALIKE * float(values.abs().max()):
            raise InputError(
                clips[0].path.parent,
                found=f"{len(clips)} normal recordings of {unit[0]} with the same features in the view {view}",
                expected="recordings that differ a little, as those of a real machine do",
                remedy="Check the microphone and the files: they may be silent, synthetic or copies",
            )


def require_two_channels(unit: Unit, clips: Sequence[Clip], normal: Profile, recipe: Recipe) -> None:
    """Raise an InputError if far is a function of near and a view would subtract one from the other."""
    if uses_both_channels(recipe) and normal.residual_db is not None:
        _require_residual(unit, clips, normal.residual_db)


def require_no_delayed_copy(unit: Unit, clips: Sequence[Clip], recipe: Recipe) -> None:
    """Raise an InputError if far, shifted by its delay, is a function of near in each of three recordings."""
    if not uses_both_channels(recipe):
        return
    audio = recipe.audio
    chosen = [clips[index] for index in sorted({0, len(clips) // 2, len(clips) - 1})]
    waveforms = [
        read_waveform(clip.path, CHANNELS, audio.sample_rate_hz, near=audio.near_channel, far=audio.far_channel)
        for clip in chosen
    ]
    residual_db = max(aligned_residual_db(near, far, audio.sample_rate_hz) for near, far in waveforms)
    _require_residual(unit, clips, residual_db)


def uses_both_channels(recipe: Recipe) -> bool:
    """Whether a view is computed from near and far."""
    return any(view not in CHANNELS for view in recipe.waveform_views)


def _require_residual(unit: Unit, clips: Sequence[Clip], residual_db: float) -> None:
    if residual_db < SAME_CHANNEL_DB:
        raise InputError(
            clips[0].path.parent,
            found=f"far and near channels of {unit[0]} that are the same but for a filter: what far does not "
            f"explain of near is {-residual_db:.0f} dB below it",
            expected="two microphones at different places, for a view that is computed from both",
            remedy="Check the wiring, or use a recipe of the near channel alone, such as frozen-near",
        )


@one_thread()
def normal_patches(extracted: Extracted, held: NDArray[np.bool_]) -> PatchBank | None:
    """Patches of the normal recordings that are not held out, (clips,) bool; None where they are too short."""
    out = held[extracted.recording]
    log_mels = [log_mel for window, log_mel in extracted.log_mels.items() if not out[window]]
    return fit_patches(log_mels) if log_mels else None


@one_thread()
def fit_machine(
    unit: Unit,
    clips: Sequence[Clip],
    held: NDArray[np.bool_],
    groups: Groups,
    extracted: Extracted,
    features: Mapping[str, Tensor],
    recipe: Recipe,
    workspace: Workspace | None = None,
    repeats: tuple[tuple[str, str], ...] = (),
) -> tuple[FittedMachine, Calibration]:
    """Fit one machine and section but for its patches, and score normal recordings for thresholds.

    Args:
        unit: machine and section.
        clips: its normal recordings.
        held: (clips,) bool, those that are held out of the bank for calibration.
        groups: of the recordings.
        extracted: their windows.
        features: (windows, parts, dim) of every scored view.
        recipe: resolved.
        workspace: where a back-end that trains keeps its model.
        repeats: the recordings that were left out as they repeat others.

    Raises:
        InputError: if the recordings cannot be used together.
    """
    require_variety(unit, clips, features)
    facts = [extracted.facts[index] for index in sorted(extracted.facts)]
    normal_profile = profile(facts) if facts else None
    if normal_profile is not None:
        require_two_channels(unit, clips, normal_profile, recipe)
    inside = torch.from_numpy(~held[extracted.recording])
    in_bank = [clip for clip, out in zip(clips, held, strict=True) if not out]
    recording = (np.cumsum(~held) - 1)[extracted.recording[inside.numpy()]]
    bank_features = {view: values[inside] for view, values in features.items()}
    target = np.array([clip.domain == "target" for clip in in_bank], dtype=np.bool_)
    flags = torch.from_numpy(target[recording])
    plan = recipe.scoring_plan()
    uses_normals = FUSIONS[plan.fusion].uses_normals
    normals = MachineScorer(bank_features, flags, plan, workspace=workspace).normal.views if uses_normals else {}
    fitted = FittedMachine(
        *unit,
        tuple(clip.name for clip in in_bank),
        tuple(as_text(clip.path.resolve()) for clip in in_bank),
        target,
        bank_features,
        recording,
        extracted.begins_s[inside.numpy()],
        normals,
        None,
        plan,
        workspace,
        normal_profile,
        repeats,
        *kept(clips, held, extracted, features),
    )
    is_split = recipe.calibration.method == "split"
    by_group = groups.count >= FEWEST_GROUPS
    if is_split:
        windows = (np.cumsum(held) - 1)[extracted.recording[~inside.numpy()]]
        held_out = {view: values[~inside] for view, values in features.items()}
        scored = fitted.score(held_out) if held.any() else ViewScores(np.empty(0), {})
    else:
        windows = recording
        labels = np.unique(groups.labels, return_inverse=True)[1]
        left_out = labels[recording] if by_group else recording
        scored = left_out_scores(bank_features, flags, left_out, recipe, fitted.scorer)
    entries: tuple[NormalScore, ...] = ()
    if scored.fused.size:
        chosen = [
            (clip, label) for clip, label, out in zip(clips, groups.labels, held, strict=True) if out == is_split
        ]
        scored_clips, names = zip(*chosen, strict=True)
        entries = normal_scores(scored_clips, _highest(windows, scored), names if by_group else None)
    return fitted, Calibration(
        machine=unit[0],
        section=unit[1],
        method="split" if is_split else "leave-one-out",
        guaranteed=(is_split or is_guaranteed(recipe)) and groups.remark is None,
        recordings=entries,
        grouped_by=groups.found_by,
        remark=groups.remark,
        in_training=trains_on_normals(recipe) and not is_split,
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
