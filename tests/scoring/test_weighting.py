"""Weights of views from normal clips alone, by cases by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nearfar.scoring import FUSIONS, MachineScorer, ScoringPlan
from nearfar.scoring.settings import NearestSettings
from nearfar.scoring.weighting import cancelled_weight, view_weights


@pytest.mark.parametrize(
    ("removed_db", "weight"),
    [(-1.0, 0.5), (0.0, 0.5), (1.5, 0.75), (3.0, 1.0), (5.0, 1.0), (6.5, 0.65), (8.0, 0.3), (30.0, 0.3)],
)
def test_the_weight_of_cancelled_rises_with_the_noise_removed_and_falls_where_the_machine_is(
    removed_db: float, weight: float
) -> None:
    assert cancelled_weight(removed_db) == pytest.approx(weight)


def scorers(**levels: list[float]) -> dict[str, SimpleNamespace]:
    return {view: SimpleNamespace(levels=np.array(values)) for view, values in levels.items()}


def test_weights_follow_the_median_difference_of_levels() -> None:
    found = view_weights(scorers(near=[-20.0, -30.0, -25.0], cancelled=[-21.5, -31.5, -60.0]))
    assert found.by_view == pytest.approx({"near": 0.25, "cancelled": 0.75})
    assert "removes 1.5 dB (29 %)" in found.reason
    mean = found.mean({"near": np.array([0.0, 4.0]), "cancelled": np.array([1.0, 0.0])})
    np.testing.assert_allclose(mean, [0.75, 1.0])


def test_a_far_channel_near_the_machine_leaves_most_of_the_weight_to_near() -> None:
    found = view_weights(scorers(near=[-20.0] * 3, cancelled=[-30.0] * 3))
    assert found.by_view == pytest.approx({"near": 0.7, "cancelled": 0.3})
    assert "records the machine as well" in found.reason


def test_other_views_count_equally_and_one_alone_wholly() -> None:
    assert view_weights(scorers(far=[0.0])).by_view == {"far": 1.0}
    assert view_weights(scorers(near=[0.0], far=[9.0])).by_view == {"near": 0.5, "far": 0.5}
    assert view_weights({"near": object(), "cancelled": object()}).by_view == {"near": 0.5, "cancelled": 0.5}


def test_a_machine_of_another_back_end_is_the_plain_mean() -> None:
    features = {view: torch.randn(6, 1, 4, generator=torch.manual_seed(1)) for view in ("near", "cancelled")}
    target = torch.zeros(6, dtype=torch.bool)
    weighted, mean = (
        MachineScorer(features, target, ScoringPlan("nearest-neighbours", NearestSettings(), fusion))
        for fusion in ("weighted", "mean")
    )
    np.testing.assert_allclose(weighted.score(features).fused, mean.score(features).fused)
    np.testing.assert_allclose(weighted.normal.fused, mean.normal.fused)
    assert weighted.reason == "equal weights of the views"
    assert mean.reason is None
    assert FUSIONS["mean"].weigh is None
