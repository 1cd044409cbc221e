"""Shifts of all scores against sessions, faults and chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from nearfar.thresholds import Calibration, NormalScore, find_threshold
from nearfar.thresholds.drift import LEVEL, find_drift


def calibration(scores: np.ndarray, groups: np.ndarray | None = None) -> Calibration:
    recordings = tuple(
        NormalScore(
            file=f"{index}.wav",
            domain="source",
            score=float(score),
            channels={},
            group=None if groups is None else f"session {groups[index]}",
        )
        for index, score in enumerate(scores)
    )
    return Calibration(machine="fan", section="00", method="leave-one-out", guaranteed=True, recordings=recordings)


def test_a_shift_of_all_recordings_is_a_change() -> None:
    random = np.random.default_rng(0)
    normal = calibration(random.normal(size=60))
    threshold = find_threshold(normal, "conformal", 0.05).value
    shifted = find_drift("fan", normal, (4 + random.normal(size=30)).tolist(), threshold)
    assert shifted is not None
    assert shifted.changed
    assert "has changed since the detector was fitted" in shifted.message


def test_a_fault_in_some_recordings_is_none() -> None:
    random = np.random.default_rng(1)
    normal = calibration(random.normal(size=60))
    threshold = find_threshold(normal, "conformal", 0.05).value
    scores = random.normal(size=30)
    scores[:8] += 10
    found = find_drift("fan", normal, scores.tolist(), threshold)
    assert found is not None
    assert not found.changed
    assert found.anomalous >= 8


def test_the_p_value_is_that_of_the_mann_whitney_test() -> None:
    random = np.random.default_rng(2)
    scores, recent = random.normal(size=40), random.normal(size=12)
    found = find_drift("fan", calibration(scores), recent.tolist(), 0.0)
    assert found is not None
    expected = mannwhitneyu(scores, recent, alternative="less", method="asymptotic").pvalue
    assert found.p_value == pytest.approx(expected)


@pytest.mark.parametrize("between", [0.0, 2.0])
def test_a_new_session_alone_is_rarely_a_change(between: float) -> None:
    """The probability of a false report stays at its level, also where sessions differ more than recordings."""
    random = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 5)
    reports = []
    for _ in range(400):
        scores = between * random.normal(size=30)[groups] + random.normal(size=150)
        recent = between * random.normal() + random.normal(size=15)
        found = find_drift("fan", calibration(scores, groups), recent.tolist(), float(np.quantile(scores, 0.9)))
        assert found is not None
        reports.append(found.p_value <= found.level)
    level = max(LEVEL, 1 / 31)
    assert np.mean(reports) <= level + 2 * np.sqrt(level / 400)


def test_few_recordings_are_not_tested() -> None:
    normal = calibration(np.arange(30.0))
    assert find_drift("fan", normal, [100.0] * 9, 5.0) is None
    assert find_drift("fan", normal, [100.0] * 20, None) is None
