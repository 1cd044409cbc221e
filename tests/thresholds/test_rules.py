"""Thresholds against scipy and closed forms."""

import numpy as np
import pytest
from scipy.stats import gamma

from nearfar.errors import InputError
from nearfar.thresholds import RULES, empirical_threshold, gamma_threshold


def test_gamma_threshold_is_the_officials():
    scores = np.random.default_rng(0).gamma(4.0, 2.0, size=500) + 1.0
    shape, location, scale = gamma.fit(scores)
    assert gamma_threshold(scores, 0.1) == gamma.ppf(0.9, shape, location, scale)


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_threshold_lets_its_share_of_new_normal_clips_pass(rule, quantile):
    rng = np.random.default_rng(1)
    threshold = RULES[rule].find(rng.gamma(3.0, 0.5, size=4000), 1 - quantile)
    assert np.mean(rng.gamma(3.0, 0.5, size=50_000) <= threshold) == pytest.approx(quantile, abs=0.02)


def test_empirical_threshold_by_hand():
    assert empirical_threshold([0.0, 1.0, 2.0, 3.0, 4.0, 10.0], 0.1) == pytest.approx(7.0)  # halfway from 4 to 10
    assert empirical_threshold([5.0, 5.0], 0.1) == 5.0


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize(
    ("scores", "rate"),
    [([], 0.5), ([1.0, np.nan], 0.5), ([1.0, 2.0], 0.0), ([1.0, 2.0], 1.0), ([[1.0, 2.0]], 0.5)],
)
def test_no_threshold_without_scores_to_take_it_from(rule, scores, rate):
    with pytest.raises(InputError):
        RULES[rule].find(scores, rate)


def test_scores_of_clips_against_themselves_have_no_gamma():
    """Every clip is its own nearest neighbour: all scores are 0, which no gamma distribution fits."""
    with pytest.raises(InputError, match="scores that are all equal"):
        gamma_threshold(np.zeros(100), 0.1)


@pytest.mark.parametrize("spread", [1e-12, 1e-6, 1e6])
def test_a_gamma_is_finite_or_refused(spread):
    scores = 1.0 + spread * np.random.default_rng(2).uniform(size=50)
    try:
        threshold = gamma_threshold(scores, 0.1)
    except InputError:
        return
    assert np.isfinite(threshold)


def test_a_search_that_ends_far_off_is_replaced_by_the_moments(monkeypatch):
    scores = np.random.default_rng(3).gamma(4.0, 0.01, size=36)
    expected = gamma_threshold(scores, 0.1)
    monkeypatch.setattr("scipy.stats.gamma.fit", lambda values, *start, **more: (4.0, 0.0, 0.1))  # too wide
    assert gamma_threshold(scores, 0.1) == pytest.approx(expected, rel=0.1)


def test_a_gamma_distribution_far_from_the_scores_is_refused():
    with pytest.raises(InputError, match="far from"):
        gamma_threshold(np.repeat([1.0, 1.1, 50.0], 12), 0.1)
