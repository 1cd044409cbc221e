"""Conformal p-values and thresholds: by hand, and their guarantee by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.thresholds import conformal_threshold, p_values


def test_p_values_by_hand():
    calibration = [1.0, 2.0, 2.0, 5.0]
    assert p_values([0.0, 1.0, 2.0, 3.0, 5.0, 6.0], calibration).tolist() == [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("count", [19, 20, 99])
def test_a_score_above_the_threshold_has_a_p_value_of_at_most_the_rate_and_the_next_lower_has_not(rate, count):
    scores = np.random.default_rng(count).normal(size=count)
    threshold = conformal_threshold(scores, rate)
    assert threshold in scores
    assert p_values([np.nextafter(threshold, np.inf)], scores)[0] <= rate + 1e-12
    assert p_values([threshold], scores)[0] > rate - 1e-12


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
def test_the_false_alarm_rate_of_held_out_normals_is_inside_the_guarantee(rate):
    """Of a new normal clip P(alarm) <= rate, and >= rate - 1 / (n + 1) where scores do not tie."""
    random = np.random.default_rng(0)
    alarms, trials, count = 0, 4_000, 39
    for _ in range(trials):
        scores = random.lognormal(size=count + 25)
        alarms += int((scores[count:] > conformal_threshold(scores[:count], rate)).sum())
    measured = alarms / (25 * trials)
    spread = 4 * np.sqrt(rate * (1 - rate) / trials)
    assert rate - 1 / (count + 1) - spread < measured < rate + spread


def test_rates_that_the_clips_do_not_support_are_refused():
    with pytest.raises(InputError, match=r"0\.01 with 50 independent.*0\.0196.*record 99 of them"):
        conformal_threshold(np.arange(50), 0.01)
    assert conformal_threshold(np.arange(99), 0.01) == 98
    with pytest.raises(InputError, match="between 0 and 1"):
        conformal_threshold([1.0], 1.0)
    with pytest.raises(InputError, match="found 0 scores of normal recordings"):
        conformal_threshold([], 0.1)
    with pytest.raises(InputError, match="not finite"):
        conformal_threshold([1.0, np.nan], 0.5)
