"""The scorers of one machine, one per scored view, and their scores as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Scoring
from nearfar.scoring.fusion import fuse
from nearfar.scoring.scorer import fit_scorer

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ViewScores:
    """Scores of some clips of a machine.

    Attributes:
        fused: (clips,) float64, higher is more anomalous.
        views: the same of every scored view alone, before fusion.
        nearest: (clips,) int64, which normal clip is nearest in the first scored view; empty for normal clips.
    """

    fused: Scores
    views: dict[str, Scores]
    nearest: NDArray[np.int64]


class MachineScorer:
    """Scores clips of one machine against its normal clips.

    Args:
        features: (normals, parts, dim) float32 of every scored view, all of the same clips.
        target: (normals,) bool, true for clips of the target domain.
        scoring: the recipe's table.
        seed: the recipe's.
        alone: leave-one-out scores of the normal clips by view, where they are known from before; they take as
            long as all the rest.

    Raises:
        ValueError: as :func:`nearfar.scoring.scorer.fit_scorer`.
    """

    def __init__(
        self,
        features: Mapping[str, Tensor],
        target: Tensor,
        scoring: Scoring,
        seed: int = 0,
        *,
        alone: Mapping[str, Scores] | None = None,
    ) -> None:
        self._fusion = scoring.fusion
        self._scorers = {view: fit_scorer(normals, target, scoring, seed) for view, normals in features.items()}
        if alone is None:
            several = len(target) > 1
            alone = {
                view: scorer.leave_one_out() if several else np.empty(0) for view, scorer in self._scorers.items()
            }
        alone = dict(alone)
        self.normal = ViewScores(fuse(alone, alone, self._fusion)[1], alone, np.empty(0, np.int64))
        """Leave-one-out scores of the normal clips; empty where there is a single one."""

    def score(self, features: Mapping[str, Tensor]) -> ViewScores:
        """Score clips from their features, (clips, parts, dim) of every scored view."""
        scored = {view: scorer.score(features[view]) for view, scorer in self._scorers.items()}
        views = {view: scores for view, (scores, _) in scored.items()}
        fused, _ = fuse(views, self.normal.views, self._fusion)
        return ViewScores(fused, views, next(iter(scored.values()))[1])
