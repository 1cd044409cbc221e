"""The scorers of one machine, one per scored view, fused into one score per clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.backends import BACKENDS, Indices, Scorer, Scores, Workspace
from nearfar.scoring.contributions import Contributions, ViewContributions
from nearfar.scoring.fusion import FUSIONS
from nearfar.scoring.weighting import Weights
from nearfar.settings import Settings
from nearfar.threads import one_thread


@dataclass(frozen=True, slots=True, eq=False)
class ViewScores:
    """Scores of some clips of a machine.

    Attributes:
        fused: (clips,) float64, higher is more anomalous.
        views: (clips,) float64 of every scored view, before fusion.
        nearest: (clips,) int64, the nearest normal clip in the first scored view; None for back-ends without
            nearest clips, and for the normal clips themselves.
        choices: (clips,) int64 of each view whose back-end chooses among several comparisons, such as speeds.
    """

    fused: Scores
    views: dict[str, Scores]
    nearest: Indices | None = None
    choices: Mapping[str, Indices] = field(default_factory=dict)

    def rows(self, rows: slice) -> ViewScores:
        """Those of some of the clips."""
        return ViewScores(
            self.fused[rows],
            {view: values[rows] for view, values in self.views.items()},
            None if self.nearest is None else self.nearest[rows],
            {view: values[rows] for view, values in self.choices.items()},
        )


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

    @one_thread()
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
    @one_thread()
    def normal(self) -> ViewScores:
        """Leave-one-out scores of the normal clips, computed on first use; empty for a single clip."""
        views = dict(self._given or {}) or {
            view: scorer.leave_one_out() if self._normals > 1 else np.empty(0)
            for view, scorer in self.scorers.items()
        }
        return ViewScores(self._fused(views, views), views)

    @one_thread()
    def score(self, features: Mapping[str, Tensor]) -> ViewScores:
        """Score clips from their features, (clips, parts, dim) of every scored view."""
        nearest: Indices | None = None
        views: dict[str, Scores] = {}
        choices: dict[str, Indices] = {}
        for view, scorer in self.scorers.items():
            if hasattr(scorer, "match"):
                found = scorer.match(features[view])
                nearest = nearest if views else found.nearest
                views[view], choices[view] = found.scores, found.choices
            elif not views and hasattr(scorer, "score_and_nearest"):
                views[view], nearest = scorer.score_and_nearest(features[view])
            else:
                views[view] = scorer.score(features[view])
        normals = self.normal.views if self._fusion.uses_normals else {}
        return ViewScores(self._fused(views, normals), views, nearest, choices)

    @one_thread()
    def contributions(
        self, features: Mapping[str, Tensor], scored: ViewScores | None = None
    ) -> dict[str, ViewContributions] | None:
        """The parts of the fused scores of :meth:`score`, by view; None where the fusion is no sum over views.

        Args:
            features: (clips, parts, dim) of every scored view.
            scored: the result of :meth:`score` for these clips, if it is at hand: nothing is scored again then.
        """
        terms = self.terms
        if terms is None:
            return None
        out = {}
        for view, scorer in self.scorers.items():
            weight, constant = terms[view]
            explain: Callable[..., Contributions] | None = getattr(scorer, "contributions", None)
            if explain is not None:
                chosen = () if scored is None or view not in scored.choices else (scored.choices[view],)
                found = explain(features[view], *chosen)
                out[view] = ViewContributions(weight * found.shares, found.difference, constant, found.reference)
            else:
                scores = scorer.score(features[view]) if scored is None else scored.views[view]
                whole = torch.from_numpy(weight * scores).reshape(-1, 1, 1)
                out[view] = ViewContributions(whole, None, constant)
        return out

    @property
    def terms(self) -> dict[str, tuple[float, float]] | None:
        """The weight of every view and the constant that is added for it; None where scores are no such sum."""
        if self.weights is not None:
            return {view: (weight, 0.0) for view, weight in self.weights.by_view.items()}
        if self._fusion.terms is None:
            return None
        return self._fusion.terms([*self.scorers], self.normal.views if self._fusion.uses_normals else {})

    @cached_property
    def weights(self) -> Weights | None:
        """The weights of the views, for a fusion that finds them from the normal clips."""
        return None if self._fusion.weigh is None else self._fusion.weigh(self.scorers)

    @property
    def reason(self) -> str | None:
        """The choices that were made for this machine and why, in a line; None where nothing is chosen."""
        own = getattr(next(iter(self.scorers.values())), "reason", None)  # of back-ends that choose
        of_views = None if self.weights is None else self.weights.reason
        return "; ".join(filter(None, [of_views, own])) or None

    def _fused(self, views: Mapping[str, Scores], normals: Mapping[str, Scores]) -> Scores:
        return self._fusion.fuse(views, normals) if self.weights is None else self.weights.mean(views)
