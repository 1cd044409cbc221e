"""Weights of views from normal clips alone, by cases by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nearfar.scoring import FUSIONS, MachineScorer, ScoringPlan
from nearfar.scoring.settings import NearestSettings
from nearfar.scoring.weighting import cancelled_weight, removed_and_change, view_weights


@pytest.mark.parametrize(
    ("removed_db", "change", "weight"),
    [
        (-1.0, 0.0, 0.5), (0.0, 0.3, 0.5),  # nothing removed
        (1.5, -0.1, 0.75), (3.0, -0.2, 1.0), (5.0, 0.0, 1.0),  # noise
        (2.5, 0.2, 0.3), (5.0, 0.1, 0.1), (4.0, 0.5, 0.18),  # the machine
        (1.5, 0.05, 0.565), (6.5, -0.2, 0.55), (8.0, -0.2, 0.1), (30.0, 0.2, 0.1),
    ],
)  # fmt: skip
def test_the_weight_of_cancelled_rises_where_it_makes_clips_alike_and_falls_where_it_removes_the_machine(
    removed_db: float, change: float, weight: float
) -> None:
    assert cancelled_weight(removed_db, change) == pytest.approx(weight)


def test_the_weight_has_no_steps() -> None:
    removed, change = np.linspace(-1.0, 10.0, 221), np.linspace(-0.2, 0.3, 101)
    table = np.array([[cancelled_weight(r, c) for c in change] for r in removed])
    assert np.abs(np.diff(table, axis=0)).max() < 0.02  # 0.05 dB
    assert np.abs(np.diff(table, axis=1)).max() < 0.06  # 0.005
    assert (np.diff(table, axis=1) <= 1e-12).all()


def scorers(variation: float = 1.0, **levels: list[float]) -> dict[str, SimpleNamespace]:
    """Scorers by view; normal clips vary by ``variation`` in cancelled and by 1 in near."""
    by_view = {"cancelled": variation}
    return {
        view: SimpleNamespace(levels=np.array(values), variation=np.array([0.0, by_view.get(view, 1.0), 1.0]))
        for view, values in levels.items()
    }


def test_weights_follow_the_median_difference_of_levels_and_the_mean_change_of_the_variation() -> None:
    found = view_weights(scorers(near=[-20.0, -30.0, -25.0], cancelled=[-21.5, -31.5, -60.0]))
    assert found.by_view == pytest.approx({"near": 0.25, "cancelled": 0.75})
    assert "removes 1.5 dB (29 %)" in found.reason
    mean = found.mean({"near": np.array([0.0, 4.0]), "cancelled": np.array([1.0, 0.0])})
    np.testing.assert_allclose(mean, [0.75, 1.0])
    less_alike = scorers(np.exp(0.4), near=[-20.0, -30.0], cancelled=[-22.5, -32.5])  # the mean of 0.4 and 0
    found = view_weights(less_alike)
    assert found.by_view == pytest.approx({"near": 0.7, "cancelled": 0.3})
    assert "makes their spectra differ by 22 % more" in found.reason
    assert removed_and_change(less_alike["near"], less_alike["cancelled"]) == pytest.approx((2.5, 0.2))


def test_strong_noise_is_removed_and_a_machine_in_far_is_kept() -> None:
    noise = view_weights(scorers(np.exp(-0.4), near=[-20.0] * 3, cancelled=[-24.0] * 3))
    assert noise.by_view == pytest.approx({"near": 0.0, "cancelled": 1.0})
    assert noise.reason.endswith("by 18 % less: strong background noise")
    for far_too in (scorers(np.exp(0.4), near=[-20.0] * 3, cancelled=[-25.0] * 3),
                    scorers(near=[-20.0] * 3, cancelled=[-30.0] * 3)):  # fmt: skip
        found = view_weights(far_too)
        assert found.by_view == pytest.approx({"near": 0.9, "cancelled": 0.1})
        assert "records the machine as well" in found.reason


def test_clips_that_do_not_vary_say_nothing_about_the_change() -> None:
    one = SimpleNamespace(levels=np.array([-20.0]), variation=np.zeros(3))
    assert removed_and_change(one, one) == (0.0, 0.0)


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
