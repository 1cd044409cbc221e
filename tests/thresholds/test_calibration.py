"""Thresholds from normal scores, and what they become where the scores do not suffice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma

from nearfar.errors import InputError
from nearfar.thresholds import (
    Calibration,
    NormalScore,
    Threshold,
    changed_thresholds,
    domains_of,
    find_threshold,
    given_threshold,
    threshold_of,
    usable_threshold,
)


def calibration(scores, machine: str = "fan", target: int = 0, guaranteed: bool = True) -> Calibration:
    domains = ["source"] * (len(scores) - target) + ["target"] * target
    return Calibration(
        machine=machine,
        section="00",
        method="split",
        guaranteed=guaranteed,
        recordings=tuple(
            NormalScore(file=f"{index}.wav", domain=domain, score=score, channels={"near": score})
            for index, (score, domain) in enumerate(zip(scores, domains, strict=True))
        ),
    )


def test_three_rules_against_their_definitions() -> None:
    scores = np.random.default_rng(0).gamma(3.0, size=99)
    normal = calibration(scores.tolist())
    conformal, fitted, empirical = (
        find_threshold(normal, rule, 0.1) for rule in ("conformal", "gamma", "empirical")
    )
    assert conformal.value == np.sort(scores)[89]  # the ceil(100 * 0.9) = 90th smallest
    assert fitted.value == pytest.approx(gamma.ppf(0.9, *gamma.fit(scores)))
    assert empirical.value == pytest.approx(np.quantile(scores, 0.9))
    assert (conformal.guaranteed, fitted.guaranteed, empirical.guaranteed) == (True, False, False)
    assert not find_threshold(calibration(scores.tolist(), guaranteed=False), "conformal", 0.1).guaranteed


def test_a_rate_that_is_finer_than_the_scores_is_refused_or_becomes_the_finest() -> None:
    normal = calibration([float(x) for x in range(24)])
    with pytest.raises(
        InputError, match=r"0\.01 with 24 independent normal.*at least .* = 0\.04.*record 99 of them"
    ):
        find_threshold(normal, "conformal", 0.01)
    second_best = usable_threshold(normal, "conformal", 0.01)
    assert (second_best.value, second_best.false_alarm_rate) == (23.0, 0.04)
    assert second_best.guaranteed
    assert (
        "24 independent normal recordings or groups support no false-alarm rate below 0.04" in second_best.remark
    )
    assert find_threshold(normal, "gamma", 0.01).value > 23


def test_without_enough_scores_there_is_the_next_best_or_none() -> None:
    bimodal = usable_threshold(calibration([1.0, 1.01, 1.02] * 10 + [50.0] * 10), "gamma", 0.1)
    assert (bimodal.rule, bimodal.value) == ("empirical", 50.0)
    assert "no gamma threshold" in bimodal.remark
    for rule in ("conformal", "gamma", "empirical"):
        alike = usable_threshold(calibration([2.0, 2.0, 2.0]), rule, 0.3)
        assert alike.value is None
        assert alike.remark == "no threshold (normal recordings that all have the same score)"
    for rule in ("conformal", "gamma", "empirical"):
        none = usable_threshold(calibration([]), rule, 0.1)
        assert (none.value, none.recordings, none.guaranteed) == (None, 0, False)
        assert none.remark == "no threshold (0 scores of normal recordings): record at least 3"


def test_domains_are_pooled_or_apart_and_a_domain_without_scores_stays_pooled() -> None:
    normal = calibration([1.0, 2.0, 3.0, 10.0, 20.0, 30.0], target=3)
    assert domains_of(normal, "pooled") == (None,)
    assert domains_of(normal, "separate") == ("source", "target")
    assert domains_of(calibration([1.0, 2.0]), "separate") == (None,)
    with pytest.raises(InputError, match="domains: found 'both'"):
        domains_of(normal, "both")
    target = find_threshold(normal, "conformal", 0.5, "target")
    assert (target.value, target.recordings, target.domain) == (20.0, 3, "target")
    source = find_threshold(normal, "conformal", 0.5, "source")
    assert threshold_of([source, target], "fan", "00", "target") == target
    assert threshold_of([source, target], "fan", "00", "source") == source
    assert threshold_of([source, target], "pump", "00", "source") is None
    pooled = find_threshold(normal, "conformal", 0.5)
    assert threshold_of([pooled], "fan", "00", "target") == pooled


def test_the_thresholds_of_one_machine_change_alone() -> None:
    normals = [calibration([1.0, 2.0, 3.0]), calibration([4.0, 5.0, 6.0], "pump")]
    old = [usable_threshold(entry, "conformal", 0.25) for entry in normals]
    new = changed_thresholds(
        normals, old, lambda entry, domain: given_threshold(entry, 7.5, domain), machine="pump"
    )
    assert [(t.machine, t.value, t.rule, t.false_alarm_rate) for t in new] == [
        ("fan", 3.0, "conformal", 0.25),
        ("pump", 7.5, "given", None),
    ]
    assert (
        changed_thresholds(normals, new, lambda entry, d: find_threshold(entry, "empirical", 0.5, d))[1].value == 5
    )
    with pytest.raises(InputError, match="machine: found 'lathe'; expected one of fan, pump"):
        changed_thresholds(
            normals, old, lambda entry, d: find_threshold(entry, "empirical", 0.5, d), machine="lathe"
        )


def test_files_of_earlier_versions_name_the_rule_method() -> None:
    threshold = find_threshold(calibration([1.0, 2.0, 3.0]), "conformal", 0.25)
    old = {("method" if key == "rule" else key): value for key, value in threshold.model_dump().items()}
    assert Threshold.model_validate(old) == threshold
