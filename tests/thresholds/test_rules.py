"""Thresholds against scipy and closed forms; decision files."""

import numpy as np
import pytest
from scipy.stats import gamma

from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.thresholds.rules import (
    THRESHOLDS,
    MachineDecisions,
    decide,
    empirical_threshold,
    gamma_threshold,
    read_decisions,
    write_decisions,
)


def test_gamma_threshold_is_the_officials():
    scores = np.random.default_rng(0).gamma(4.0, 2.0, size=500) + 1.0
    shape, location, scale = gamma.fit(scores)
    assert gamma_threshold(scores) == gamma.ppf(0.9, shape, location, scale)


@pytest.mark.parametrize("kind", sorted(THRESHOLDS))
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_threshold_lets_its_share_of_new_normal_clips_pass(kind, quantile):
    rng = np.random.default_rng(1)
    threshold = THRESHOLDS[kind](rng.gamma(3.0, 0.5, size=4000), quantile)
    assert np.mean(rng.gamma(3.0, 0.5, size=50_000) <= threshold) == pytest.approx(quantile, abs=0.02)


def test_empirical_threshold_by_hand():
    assert empirical_threshold([0.0, 1.0, 2.0, 3.0, 4.0, 10.0], 0.9) == 7.0  # halfway from 4 to 10
    assert empirical_threshold([5.0, 5.0]) == 5.0


@pytest.mark.parametrize("kind", sorted(THRESHOLDS))
@pytest.mark.parametrize(
    ("scores", "quantile"), [([1.0], 0.9), ([1.0, np.nan], 0.9), ([1.0, 2.0], 1.0), ([[1.0, 2.0]], 0.9)]
)
def test_no_threshold_without_scores_to_take_it_from(kind, scores, quantile):
    with pytest.raises(InputError):
        THRESHOLDS[kind](scores, quantile)


def test_scores_of_clips_against_themselves_have_no_gamma():
    """Every clip is its own nearest neighbour: all scores are 0, and the message says what to do."""
    with pytest.raises(InputError, match="Score each training clip against the others"):
        gamma_threshold(np.zeros(100))


@pytest.mark.parametrize("spread", [1e-12, 1e-6, 1e6])
def test_a_gamma_is_finite_or_refused(spread):
    scores = 1.0 + spread * np.random.default_rng(2).uniform(size=50)
    try:
        threshold = gamma_threshold(scores)
    except InputError:
        return
    assert np.isfinite(threshold)


def test_a_gamma_distribution_far_from_the_scores_is_refused(monkeypatch):
    scores = np.random.default_rng(3).gamma(4.0, 0.01, size=36)
    monkeypatch.setattr("scipy.stats.gamma.fit", lambda values: (4.0, 0.0, 0.1))  # ten times too wide
    with pytest.raises(InputError, match="far from"):
        gamma_threshold(scores)
    few = scores[:20]  # 0.9 to the power of 20 is 0.12: that none lies above says nothing yet
    assert gamma_threshold(few) > few.max()


NAMES = ("section_00_0000.wav", "section_00_0001.wav", "section_00_0002.wav")


def test_only_a_score_above_the_threshold_is_an_anomaly():
    decided = decide(MachineScores("fan", "00", NAMES, np.array([0.1, 0.5, 0.9])), 0.5)
    assert (decided.machine, decided.section, decided.names) == ("fan", "00", NAMES)
    assert decided.decisions.tolist() == [0, 0, 1]


def test_decision_files_are_the_evaluators_and_come_back(tmp_path):
    (path,) = write_decisions(tmp_path, [MachineDecisions("fan", "00", NAMES, np.array([0, 1, 1]))])
    assert path.name == "decision_result_fan_section_00_test.csv"
    assert path.read_text() == "section_00_0000.wav,0\nsection_00_0001.wav,1\nsection_00_0002.wav,1\n"
    (back,) = read_decisions(tmp_path)
    assert (back.machine, back.section, back.names) == ("fan", "00", NAMES)
    assert back.decisions.tolist() == [0, 1, 1]


@pytest.mark.parametrize("text", ["2", "0.5", "", "true", " 1"])
def test_a_decision_is_nought_or_one(tmp_path, text):
    (tmp_path / "decision_result_fan_section_00_test.csv").write_text(f"section_00_0000.wav,0\na.wav,{text}\n")
    with pytest.raises(InputError) as error:
        read_decisions(tmp_path)
    assert error.value.found == f"the decision {text!r} in row 2"
