"""The scorers of one machine, one per scored view, fused into one score per clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from nearfar.scoring.backends import BACKENDS, Indices, Scorer, Scores, Workspace
from nearfar.scoring.fusion import FUSIONS
from nearfar.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class ViewScores:
    """Scores of some clips of a machine.

    Attributes:
        fused: (clips,) float64, higher is more anomalous.
        views: (clips,) float64 of every scored view, before fusion.
        nearest: (clips,) int64, the nearest normal clip in the first scored view; None for back-ends without
            nearest clips, and for the normal clips themselves.
    """

    fused: Scores
    views: dict[str, Scores]
    nearest: Indices | None = None


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """The back-end, its settings, the fusion of views, and a seed."""

    backend: str
    settings: Settings
    fusion: str
    seed: int = 0


class MachineScorer:
    """Scores clips of one machine against its normal clips.

    Args:
        features: (normals, parts, dim) float32 of every scored view, all of the same clips.
        target: (normals,) bool, true for clips of the target domain.
        plan: back-end and fusion.
        normal_scores: leave-one-out scores of the normal clips by view, if already computed.
        workspace: for back-ends that save a model.

    Raises:
        ValueError: as the back-end's ``fit``.
    """

    def __init__(
        self,
        features: Mapping[str, Tensor],
        target: Tensor,
        plan: ScoringPlan,
        *,
        normal_scores: Mapping[str, Scores] | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        backend = BACKENDS[plan.backend]
        self._fusion, self._normals, self._given = FUSIONS[plan.fusion], len(target), normal_scores
        self.scorers: dict[str, Scorer] = {
            view: backend.fit(normals, target, plan.settings, plan.seed, workspace)
            for view, normals in features.items()
        }

    @cached_property
    def normal(self) -> ViewScores:
        """Leave-one-out scores of the normal clips, computed on first use; empty for a single clip."""
        views = dict(self._given or {}) or {
            view: scorer.leave_one_out() if self._normals > 1 else np.empty(0)
            for view, scorer in self.scorers.items()
        }
        return ViewScores(self._fusion.fuse(views, views), views)

    def score(self, features: Mapping[str, Tensor]) -> ViewScores:
        """Score clips from their features, (clips, parts, dim) of every scored view."""
        nearest: Indices | None = None
        views: dict[str, Scores] = {}
        for view, scorer in self.scorers.items():
            if not views and hasattr(scorer, "score_and_nearest"):
                views[view], nearest = scorer.score_and_nearest(features[view])
            else:
                views[view] = scorer.score(features[view])
        normals = self.normal.views if self._fusion.uses_normals else {}
        return ViewScores(self._fusion.fuse(views, normals), views, nearest)
