"""Score-level averaging of near and far."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.scoring.fusion import mean_of_channels


def test_it_is_the_plain_mean_clip_by_clip() -> None:
    near, far = np.array([0.1, 0.5, 2.0]), np.array([0.3, 0.1, 0.0])
    fused = mean_of_channels({"near": near, "far": far})
    np.testing.assert_allclose(fused, [0.2, 0.3, 1.0], rtol=1e-15)
    assert fused.dtype == np.float64
    np.testing.assert_array_equal(mean_of_channels({"far": far, "near": near}), fused)


@pytest.mark.parametrize("channel", ["near", "far"])
def test_a_single_channel_passes_unchanged(channel: str) -> None:
    scores = np.random.default_rng(0).random(20)
    np.testing.assert_array_equal(mean_of_channels({channel: scores}), scores)  # type: ignore[dict-item]


def test_the_scores_that_come_in_stay_as_they_are() -> None:
    near, far = np.array([0.1, 0.5]), np.array([0.3, 0.1])
    fused = mean_of_channels({"near": near, "far": far})
    fused[:] = 9.0
    assert near.tolist() == [0.1, 0.5]
    assert far.tolist() == [0.3, 0.1]
    alone = mean_of_channels({"near": near})
    alone[:] = 9.0
    assert near.tolist() == [0.1, 0.5]


def test_no_channel_and_channels_of_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="one or more channels"):
        mean_of_channels({})
    with pytest.raises(ValueError, match="all of the same clips"):
        mean_of_channels({"near": np.zeros(3), "far": np.zeros(2)})
    with pytest.raises(ValueError, match="all of the same clips"):
        mean_of_channels({"near": np.zeros(1), "far": np.zeros(5)})  # numpy would broadcast it
