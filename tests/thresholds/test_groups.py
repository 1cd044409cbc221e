"""Thresholds where recordings of one session are alike."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.thresholds import (
    RULES,
    Calibration,
    NormalScore,
    conformal_threshold,
    empirical_threshold,
    gamma_threshold,
    p_values,
    usable_threshold,
)


def calibration(scores: np.ndarray, groups: list[str | None]) -> Calibration:
    return Calibration(
        machine="fan",
        section="00",
        method="leave-one-out",
        guaranteed=True,
        recordings=tuple(
            NormalScore(file=f"{index}.wav", domain="source", score=float(score), channels={}, group=group)
            for index, (score, group) in enumerate(zip(scores, groups, strict=True))
        ),
    )


def test_p_values_of_groups_by_hand() -> None:
    scores, groups = [1.0, 2.0, 3.0, 4.0, 9.0], ["a", "a", "a", "a", "b"]
    # of a 2 / 4 and of b 1 are at least 3: (1 + 0.5 + 1) / 3
    assert p_values([3.0, 5.0, 10.0, 0.0], scores, groups) == pytest.approx([2.5 / 3, 2 / 3, 1 / 3, 1.0])


def test_groups_of_one_recording_change_nothing() -> None:
    scores = np.random.default_rng(0).gamma(3.0, size=40)
    for rule in RULES.values():
        assert rule.find(scores, 0.1, range(40)) == rule.find(scores, 0.1, None)
    assert p_values(scores, scores, range(40)) == pytest.approx(p_values(scores, scores))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25, 0.5])
def test_above_the_threshold_and_only_there_p_is_at_most_the_rate(rate: float) -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(24), rng.integers(1, 9, size=24))
    scores = rng.normal(size=groups.size)
    threshold = conformal_threshold(scores, rate, groups)
    assert p_values([np.nextafter(threshold, np.inf)], scores, groups)[0] <= rate + 1e-9
    assert p_values([threshold], scores, groups)[0] > rate


def test_the_promised_rate_holds_for_new_sessions() -> None:
    """Sessions differ three times as much as recordings of one: recordings alone would promise too much."""
    rng = np.random.default_rng(2)
    alarms: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(400):
        level = 3.0 * rng.normal(size=20)
        scores = np.repeat(level[:19], 5) + rng.normal(size=95)
        new = level[19] + rng.normal(size=5)
        groups = np.repeat(np.arange(19), 5)
        alarms[True].append(float((new > conformal_threshold(scores, 0.1, groups)).mean()))
        alarms[False].append(float((new > conformal_threshold(scores, 0.1)).mean()))
    assert np.mean(alarms[True]) <= 0.1 + 2 * np.std(alarms[True]) / 20
    assert np.mean(alarms[True]) > 0.05


def test_a_long_session_counts_as_much_as_a_short_one() -> None:
    scores = np.concatenate([np.full(500, 10.0), np.arange(9.0)])
    groups = ["long"] * 500 + [f"day {day}" for day in range(9)]
    assert empirical_threshold(scores, 0.2) == 10.0
    assert empirical_threshold(scores, 0.2, groups) < 9.0
    assert conformal_threshold(scores, 0.2, groups) == 8.0


def test_few_sessions_promise_what_they_can() -> None:
    scores = np.random.default_rng(3).normal(size=60)
    threshold = usable_threshold(calibration(scores, [f"day {i // 15}" for i in range(60)]), "conformal", 0.05)
    assert (threshold.false_alarm_rate, threshold.groups, threshold.recordings) == (pytest.approx(0.3), 4, 60)
    # half of one session's recordings, 7.5 of 15, may lie above
    assert (scores > threshold.value).sum() <= 8
    assert "record on more days" in threshold.remark
    two = usable_threshold(calibration(scores, [f"day {i // 30}" for i in range(60)]), "conformal", 0.05)
    assert two.value is None
    assert "2 independent" in two.remark


def test_one_outlier_does_not_make_the_gamma_quantile_the_median() -> None:
    """The search for the maximum likelihood ends far off; it is tried from other starts, or refused."""
    rng = np.random.default_rng(4)
    for _ in range(100):
        scores = rng.gamma(9.0, 0.01, size=40)
        scores[0] = scores.max() * rng.uniform(3, 30)
        threshold = usable_threshold(calibration(scores, [None] * 40), "gamma", 0.1)
        assert 1 <= (scores > threshold.value).sum() <= 8
        assert threshold.value <= 2 * scores.max()


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_a_gamma_threshold_agrees_with_the_scores_or_is_refused(rate: float) -> None:
    rng = np.random.default_rng(5)
    for shape in (0.3, 1.0, 4.0, 50.0):
        for _ in range(10):
            scores = rng.gamma(shape, size=30) + rng.uniform(0, 10)
            try:
                threshold = gamma_threshold(scores, rate)
            except InputError:
                continue
            assert (scores > threshold).mean() <= 2 * rate + 0.2
            assert threshold <= scores.max() + np.ptp(scores)


def test_a_threshold_that_rests_on_one_recording_names_it() -> None:
    scores = np.append(np.random.default_rng(6).gamma(9.0, 0.01, size=19), 3.0)
    resting = usable_threshold(calibration(scores, [None] * 20), "conformal", 0.05)
    assert (resting.value, resting.rests_on) == (3.0, "19.wav")
    plain = usable_threshold(calibration(scores[:19], [None] * 19), "conformal", 0.05)
    assert plain.rests_on is None
