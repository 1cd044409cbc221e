"""Metrics of arrays against scikit-learn, hand-computed values and the official scores of 18 systems."""

import csv
import gzip
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from nearfar.metrics import (
    auc,
    auc_source_target,
    bootstrap_interval,
    harmonic_mean,
    official_score,
    partial_auc,
    roc_curve,
)

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
    source, target = auc_source_target(labels, domains, scores)
    assert source == 1.0  # the domain's own anomalies alone would give the same, so see the target
    assert target == (0 + 0 + 0 + 2) / 8  # own anomalies alone: 2 of 4


def test_harmonic_means():
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == pytest.approx(2 * sys.float_info.epsilon)
    expected = pytest.approx(6 / (1 / 0.6 + 1 / 0.5 + 1 / 0.4 + 1 / 0.8 + 1 / 0.7 + 1 / 0.9))
    machines = [(0.6, 0.5, 0.4), (0.8, 0.7, 0.9)]
    assert official_score(machines) == expected
    assert official_score(np.array(machines)) == expected
    assert official_score(np.ravel(machines)) == expected
    with pytest.raises(ValueError, match="no values"):
        official_score([])


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


@pytest.mark.parametrize("function", [auc_source_target, bootstrap_interval])
@pytest.mark.parametrize(
    ("labels", "domains", "complaint"),
    [
        ([0, 0, 1], ["source", "source", "target"], "both normal and anomalous"),
        ([0, 0, 1], ["source", "target"], "not of one length"),
    ],
)
def test_undefined_domains_are_refused(function, labels, domains, complaint):
    with pytest.raises(ValueError, match=complaint):
        function(labels, domains, [0.0, 1.0, 2.0])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
def test_the_roc_curve_is_scikit_learns(clips):
    labels = np.array([True, False] + [label for label, _ in clips])
    scores = np.array([3, 3] + [score for _, score in clips], dtype=float)
    alarms, hits, _ = sklearn_roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.array(roc_curve(labels, scores)), np.array([alarms, hits]), atol=1e-15)


def test_official_scores_of_18_systems_on_the_development_set(golden_arrays):
    """Scores of real recordings; the expected values were computed with scikit-learn from the definition."""
    folder = golden_arrays / "dcase2026_real"
    with gzip.open(folder / "scores.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    machines = np.array([row["file_id"].split("/")[0] for row in rows])
    anomalous = np.array([row["condition"] == "anomaly" for row in rows])
    domains = np.array([row["domain"] for row in rows])
    expected = json.loads((folder / "official_scores.json").read_text(encoding="utf-8"))
    assert (len(rows), anomalous.sum(), len(expected)) == (1400, 700, 18)
    for system, values in expected.items():
        scores = np.array([float(row[system]) for row in rows])
        found = {}
        for machine in values["machines"]:
            of = machines == machine
            source, target = auc_source_target(anomalous[of], domains[of], scores[of])
            both = partial_auc(anomalous[of], scores[of])
            found[machine] = {"auc_source": source, "auc_target": target, "pauc": both}
        assert set(found) == set(machines)
        for machine, metrics in found.items():
            assert metrics == pytest.approx(values["machines"][machine], abs=1e-12), (system, machine)
        score = official_score(metrics.values() for metrics in found.values())
        assert score == pytest.approx(values["official_score"], abs=1e-12), system
