"""Scores of normal recordings that the bank they are compared with does not hold, for thresholds and p-values.

Two ways. ``split`` holds recordings out of the bank (and out of training, where there is any): their scores are
exchangeable with those of new normal recordings, so that conformal p-values are exact, and the bank is smaller.
``leave-one-out`` scores every recording against all others. Its p-values are exact as well where a bank can only
lower a score by growing (:func:`only_falls`): against the others *and* the new recording, every recording scores
at most what it scores here, and with those scores the p-value would be the full conformal one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Recipe, Scoring
from nearfar.config.tables import Table
from nearfar.data.clips import Clip
from nearfar.scoring.machine import MachineScorer

FOLDS = 25
"""Where leaving one recording out takes a new fit, recordings are left out in at most this many groups."""

Scores = NDArray[np.float64]


class NormalScore(Table):
    """One normal recording, scored by a bank that does not hold it; the score is of its most anomalous window."""

    file: str
    domain: Literal["source", "target"]
    score: float
    channels: dict[str, float]


class Calibration(Table):
    """The normal scores of one machine and section.

    ``guaranteed`` is whether conformal p-values made of them are exact (see this module) and not only close.
    """

    machine: str
    section: str
    method: Literal["leave-one-out", "split"]
    guaranteed: bool
    recordings: tuple[NormalScore, ...]

    def scores(self, domain: str | None = None) -> Scores:
        """(recordings,) float64, of one domain or of both."""
        return np.array([entry.score for entry in self.recordings if domain in (None, entry.domain)], np.float64)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains there are scores of."""
        return tuple(sorted({entry.domain for entry in self.recordings}))


def held_out(clips: Sequence[Clip], share: float, seed: int) -> NDArray[np.bool_]:
    """Which recordings of one machine to hold out, (clips,) bool: about this share of each domain, drawn anew.

    At least one recording of a domain stays in the bank, and one at least is held out where there are several.
    """
    random = np.random.default_rng(seed)
    domains = np.array([clip.domain for clip in clips])
    out = np.zeros(len(clips), dtype=np.bool_)
    for domain in sorted(set(domains.tolist())):
        members = np.flatnonzero(domains == domain)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        out[random.permutation(members)[:count]] = True
    return out


def only_falls(scoring: Scoring) -> bool:
    """Whether another normal clip in the bank can lower a score and never raise it.

    So it is of plain cosine distances to the nearest clips, averaged over parts and views.
    """
    return (
        scoring.distance == "cosine"
        and scoring.normalisation == "none"
        and scoring.domains != "standardised"
        and scoring.enrichment == "none"
        and scoring.prototypes is None
        and scoring.fusion == "mean"
    )


def most_anomalous(recording: NDArray[np.int64], scores: Scores) -> NDArray[np.int64]:
    """The window with the highest score of every recording, (recordings,); the first of those that tie.

    Args:
        recording: (windows,) which recording each is of, rising from 0 without a gap.
        scores: (windows,).
    """
    order = np.lexsort((-np.arange(len(scores)), scores, recording))
    last = np.flatnonzero(np.diff(recording[order], append=recording.max(initial=-1) + 1))
    highest: NDArray[np.int64] = order[last]
    return highest


def not_needed(features: dict[str, Tensor], scoring: Scoring) -> dict[str, Scores] | None:
    """No leave-one-out scores in place of those that take long and that a plain mean of views does not look at."""
    return {view: np.empty(0) for view in features} if scoring.fusion == "mean" else None


def left_out_scores(
    features: dict[str, Tensor], target: Tensor, recording: NDArray[np.int64], recipe: Recipe
) -> tuple[Scores, dict[str, Scores]]:
    """Scores of normal windows in banks without any window of their recordings: fused, and by view.

    One clip is left out at a time where its scorer does that exactly: recordings of one window, distances that
    are not scaled by the clips themselves, and views that are not standardised. Otherwise recordings are left out
    in up to :data:`FOLDS` groups, and all that is fitted is fitted without them: scores are then a little higher
    than against all others, which errs towards fewer alarms.

    Args:
        features: (windows, parts, dim) of every scored view.
        target: (windows,) bool.
        recording: (windows,) which recording each window is of, from 0.
        recipe: its scoring is read, and its seed.

    Returns:
        (windows,) float64 each; none at all where there is one recording only.
    """
    count = int(recording.max()) + 1
    if count == 1:
        return np.empty(0), {view: np.empty(0) for view in features}
    scoring = recipe.scoring
    if count == len(recording) and scoring.distance == "cosine" and scoring.fusion == "mean":
        normal = MachineScorer(features, target, scoring, recipe.seed).normal
        return normal.fused, normal.views
    folds = min(count, FOLDS)
    fold = torch.from_numpy((np.random.default_rng(recipe.seed).permutation(count) % folds)[recording])
    fused = np.empty(len(recording))
    views = {view: np.empty(len(recording)) for view in features}
    for left in range(folds):
        inside, outside = fold != left, (fold == left).numpy()
        others = {view: values[inside] for view, values in features.items()}
        scorer = MachineScorer(others, target[inside], scoring, recipe.seed, alone=not_needed(features, scoring))
        scored = scorer.score({view: values[~inside] for view, values in features.items()})
        fused[outside] = scored.fused
        for view, values in scored.views.items():
            views[view][outside] = values
    return fused, views
