"""Metrics against scikit-learn, hand-computed values and the official baseline's published scores."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import MachineScores, read_scores
from nearfar.evaluation.truth import GroundTruth
from nearfar.metrics import (
    MachineMetrics,
    auc,
    harmonic_mean,
    machine_metrics,
    official_score,
    partial_auc,
)


def evaluate_by_name(entries):
    return evaluate_scores(entries, GroundTruth.from_names(entries))


few_values = st.sampled_from([-1.5, -0.0, 0.0, 1e-300, 0.25, 0.5, 1.0, 3.0])  # so that ties abound
any_value = st.floats(-1e6, 1e6)


@st.composite
def labelled_scores(draw):
    value = draw(st.sampled_from([few_values, any_value]))
    normal = draw(st.lists(value, min_size=1, max_size=60))
    anomalous = draw(st.lists(value, min_size=1, max_size=60))
    order = draw(st.permutations(range(len(normal) + len(anomalous))))
    labels = np.array([0] * len(normal) + [1] * len(anomalous))[order]
    return labels, np.array(normal + anomalous)[order]


@settings(max_examples=300, deadline=None)
@given(labelled_scores(), st.sampled_from([0.01, 0.1, 0.3, 0.999]))
def test_agrees_with_scikit_learn_under_ties(case, max_fpr):
    labels, scores = case
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert partial_auc(labels, scores, max_fpr) == pytest.approx(
        roc_auc_score(labels, scores, max_fpr=max_fpr), abs=1e-12
    )
    assert partial_auc(labels, scores, 1.0) == pytest.approx(auc(labels, scores), abs=1e-12)


def test_constant_perfect_and_inverted_scores():
    labels = np.repeat([0, 1], 50)
    assert auc(labels, np.zeros(100)) == 0.5
    assert partial_auc(labels, np.zeros(100)) == pytest.approx(0.5, abs=1e-15)
    assert auc(labels, labels) == 1.0
    assert partial_auc(labels, labels) == pytest.approx(1.0, abs=1e-15)
    assert auc(labels, -labels) == 0.0
    assert partial_auc(labels, -labels) == pytest.approx(0.5 * (1 - 0.005 / 0.095))


def test_by_hand():
    # Anomalies 2 and 4 against normals 1, 2, 3: wins 1 + 3, one tie, of six pairs.
    assert auc([0, 0, 0, 1, 1], [1, 2, 3, 2, 4]) == (1 + 0.5 + 3) / 6
    # Up to a rate of 0.1 only the anomaly above all normals counts: area 0.5 * 0.1.
    assert partial_auc([0, 0, 0, 1, 1], [1, 2, 3, 2, 4]) == pytest.approx(
        0.5 * (1 + (0.05 - 0.005) / (0.1 - 0.005))
    )


def test_a_domain_is_judged_against_the_anomalies_of_both():
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    domains = np.repeat(["source", "target"], 4)
    scores = np.array([0, 1, 5, 6, 8, 9, 2, 10])
    source, target, both = machine_metrics(labels, domains, scores)
    assert source == 1.0  # the domain's own anomalies alone would give the same, so see the target
    assert target == (0 + 0 + 0 + 2) / 8  # own anomalies alone: 2 of 4
    assert both == pytest.approx(roc_auc_score(labels, scores, max_fpr=0.1), abs=1e-12)


def test_harmonic_means():
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == pytest.approx(2 * sys.float_info.epsilon)
    assert official_score([(0.6, 0.5, 0.4), (0.8, 0.7, 0.9)]) == pytest.approx(
        6 / (1 / 0.6 + 1 / 0.5 + 1 / 0.4 + 1 / 0.8 + 1 / 0.7 + 1 / 0.9)
    )


@pytest.mark.parametrize(
    ("labels", "scores", "complaint"),
    [
        ([0, 0], [1.0, 2.0], "both normal and anomalous"),
        ([1, 1], [1.0, 2.0], "both normal and anomalous"),
        ([0, 1], [1.0, np.nan], "not finite"),
        ([0, 1], [1.0], "not of one length"),
    ],
)
@pytest.mark.parametrize("metric", [auc, partial_auc])
def test_undefined_areas_are_refused(metric, labels, scores, complaint):
    with pytest.raises(ValueError, match=complaint):
        metric(labels, scores)


def test_pauc_needs_a_rate():
    with pytest.raises(ValueError, match="not in"):
        partial_auc([0, 1], [0.0, 1.0], max_fpr=0.0)


RERUNS = {
    # spec of the challenge, section 4.5: AUC source, AUC target, pAUC of the rescored reruns, in percent
    "mse": {
        "ToyCar": (73.74, 39.74, 53.05),
        "ToyCarEmu": (71.60, 62.50, 54.00),
        "bearingEmu": (61.56, 59.18, 59.53),
        "fan": (62.10, 48.34, 52.89),
        "gearboxEmu": (67.22, 49.56, 52.32),
        "sliderEmu": (67.80, 46.48, 50.68),
        "valveEmu": (72.12, 71.68, 57.16),
    },
    "mahala": {
        "ToyCar": (75.78, 55.20, 57.21),
        "ToyCarEmu": (64.94, 63.64, 52.32),
        "bearingEmu": (65.38, 63.00, 60.26),
        "fan": (59.42, 45.32, 52.47),
        "gearboxEmu": (70.80, 52.04, 52.79),
        "sliderEmu": (67.70, 50.24, 50.32),
        "valveEmu": (58.12, 54.68, 49.89),
    },
}
REALMIX = {
    "mse": {"uav": (74.56, 82.11, 62.57), "motor": (66.72, 66.80, 58.74)},
    "mahala": {"uav": (66.67, 86.17, 58.92), "motor": (75.04, 66.56, 58.53)},
}


def percent(metrics):
    return tuple(round(100 * value, 2) for value in metrics)


@pytest.mark.parametrize(("kind", "official"), [("mse", 0.57194), ("mahala", 0.57205)])
def test_official_baseline_on_the_development_set(golden_arrays, kind, official):
    results = evaluate_by_name(read_scores(golden_arrays / "ae_rerun_scores" / kind))
    assert results.official_score == pytest.approx(official, abs=1e-5)
    assert {row.machine: percent(row.metrics) for row in results.machines} == RERUNS[kind]


@pytest.mark.parametrize(("kind", "official"), [("mse", 67.8), ("mahala", 67.4)])
def test_official_baseline_on_real_machines(golden_arrays, kind, official):
    results = evaluate_by_name(read_scores(golden_arrays / "ae_official_on_realmix" / kind))
    assert round(100 * results.official_score, 1) == official
    assert {row.machine: percent(row.metrics) for row in results.machines} == REALMIX[kind]


def test_the_official_score_is_the_mean_of_means_both_ways(golden_arrays):
    results = evaluate_by_name(read_scores(golden_arrays / "ae_rerun_scores" / "mse"))
    assert results.official_score == pytest.approx(harmonic_mean(row.score for row in results.machines))
    assert results.official_score == pytest.approx(harmonic_mean(results.means))
    assert results.means == MachineMetrics(
        *(harmonic_mean(row.metrics[place] for row in results.machines) for place in range(3))
    )


def entry_of(names):
    return MachineScores("fan", "00", tuple(names), np.arange(len(names), dtype=np.float64))


def test_truth_comes_from_the_names():
    entry = entry_of(
        ["section_00_source_test_normal_0000_spd_1.wav", "section_00_target_test_anomaly_0001_spd_1.flac"]
    )
    truth = GroundTruth.from_names([entry]).labels(entry)
    assert truth.anomalous.tolist() == [False, True]
    assert truth.domains.tolist() == ["source", "target"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["section_00_0000.wav"], "section_00_0000.wav, an evaluation clip whose name hides domain and label"),
        (["fan.wav"], "the name 'fan.wav'"),
        (["section_00_source_train_normal_0000_spd_1.wav"], "a name that says 'train'"),
        (
            ["section_00_source_test_normal_0000_spd_1.wav", "section_00_target_test_normal_0000_spd_1.wav"],
            "no anomalies",
        ),
        (
            ["section_00_source_test_normal_0000_spd_1.wav", "section_00_source_test_anomaly_0000_spd_1.wav"],
            "no normal target clips",
        ),
    ],
)
def test_scores_that_cannot_be_evaluated(names, complaint):
    with pytest.raises(InputError) as error:
        evaluate_by_name([entry_of(names)])
    assert complaint in error.value.found


def test_no_scores_cannot_be_evaluated():
    with pytest.raises(InputError):
        evaluate_by_name([])
