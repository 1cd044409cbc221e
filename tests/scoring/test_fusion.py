"""Score-level averaging of near and far."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.scoring.fusion import FUSIONS, mean_of_views, standardised_mean


def test_it_is_the_plain_mean_clip_by_clip() -> None:
    near, far = np.array([0.1, 0.5, 2.0]), np.array([0.3, 0.1, 0.0])
    fused = mean_of_views({"near": near, "far": far})
    np.testing.assert_allclose(fused, [0.2, 0.3, 1.0], rtol=1e-15)
    assert fused.dtype == np.float64
    np.testing.assert_array_equal(mean_of_views({"far": far, "near": near}), fused)


@pytest.mark.parametrize("view", ["near", "far"])
def test_a_single_view_passes_unchanged(view: str) -> None:
    scores = np.random.default_rng(0).random(20)
    np.testing.assert_array_equal(mean_of_views({view: scores}), scores)


def test_the_scores_that_come_in_stay_as_they_are() -> None:
    near, far = np.array([0.1, 0.5]), np.array([0.3, 0.1])
    fused = mean_of_views({"near": near, "far": far})
    fused[:] = 9.0
    assert near.tolist() == [0.1, 0.5]
    assert far.tolist() == [0.3, 0.1]
    alone = mean_of_views({"near": near})
    alone[:] = 9.0
    assert near.tolist() == [0.1, 0.5]


def test_no_view_and_views_of_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="one or more views"):
        mean_of_views({})
    with pytest.raises(ValueError, match="all of the same clips"):
        mean_of_views({"near": np.zeros(3), "far": np.zeros(2)})
    with pytest.raises(ValueError, match="all of the same clips"):
        mean_of_views({"near": np.zeros(1), "far": np.zeros(5)})  # numpy would broadcast it


def test_the_standardised_mean_is_that_of_z_scores_on_normal_clips() -> None:
    rng = np.random.default_rng(0)
    normal = {"near": rng.gamma(2.0, size=50), "far": 100.0 + 7.0 * rng.random(50)}
    scores = {"near": rng.random(6), "far": 100.0 * rng.random(6)}
    expected = []
    for clip in range(6):
        z = [(scores[c][clip] - np.mean(normal[c])) / np.sqrt(np.var(normal[c])) for c in ("near", "far")]
        expected.append(sum(z) / 2)
    np.testing.assert_allclose(standardised_mean(scores, normal), expected, rtol=1e-12)
    fuse = FUSIONS["standardised"].fuse
    np.testing.assert_array_equal(fuse(scores, normal), standardised_mean(scores, normal))
    assert fuse(normal, normal).mean() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_array_equal(FUSIONS["mean"].fuse(scores, normal), mean_of_views(scores))


def test_standardised_scores_do_not_depend_on_a_view_s_unit() -> None:
    rng = np.random.default_rng(1)
    normal, scores = ({name: rng.random(9) for name in ("near", "far")} for _ in range(2))
    other = {"near": 1e3 * scores["near"] - 5.0, "far": scores["far"]}
    as_well = {"near": 1e3 * normal["near"] - 5.0, "far": normal["far"]}
    np.testing.assert_allclose(standardised_mean(other, as_well), standardised_mean(scores, normal), rtol=1e-9)


def test_normal_clips_that_do_not_differ_or_are_missing_leave_the_scale_alone() -> None:
    scores = {"near": np.array([1.0, 4.0])}
    assert standardised_mean(scores, {"near": np.array([2.0, 2.0])}).tolist() == [-1.0, 2.0]
    assert standardised_mean(scores, {"near": np.empty(0)}).tolist() == [1.0, 4.0]


def test_normal_scores_of_other_views_are_refused() -> None:
    with pytest.raises(ValueError, match="expected normal scores of near, got those of far"):
        standardised_mean({"near": np.zeros(2)}, {"far": np.zeros(2)})
