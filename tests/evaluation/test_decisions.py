"""Precision, recall and F1 per domain, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_decisions, precision_recall_f1
from nearfar.evaluation.scorefiles import MachineDecisions
from nearfar.evaluation.tables import decisions_to_text, decisions_to_tree
from nearfar.evaluation.truth import GroundTruth, TrueClip


def by_name(entries):
    return evaluate_decisions(entries, GroundTruth.from_names(entries))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_agrees_with_scikit_learn(clips):
    labels, decisions = np.array(clips).T
    expected = precision_recall_fscore_support(
        labels, decisions, pos_label=True, average="binary", zero_division=0
    )
    assert precision_recall_f1(labels, decisions) == pytest.approx(expected[:3], abs=1e-12)


def test_each_domain_is_judged_on_its_own_clips():
    names, decisions = [], []
    for domain, calls in (("source", {"normal": (0, 0, 1), "anomaly": (1, 1, 0)}), ("target", {"normal": (1, 1)})):
        for label, called in calls.items():
            names += [
                f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav" for index in range(len(called))
            ]
            decisions += called
    results = by_name([MachineDecisions("fan", "00", tuple(names), np.array(decisions))])
    (row,) = results.machines
    assert (row.machine, row.section) == ("fan", "00")
    assert row.source == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert row.target == (0, 0, 0)
    assert results.arithmetic_means == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert max(results.harmonic_means) < 1e-15


def test_means_run_over_both_domains_of_all_machines():
    def entry(machine, source, target):
        names = [
            f"section_00_{d}_test_anomaly_{i:04d}_noAttribute.wav" for d in ("source", "target") for i in range(2)
        ]
        return MachineDecisions(machine, "00", tuple(names), np.array([*source, *target]))

    results = by_name([entry("fan", (1, 1), (1, 0)), entry("pump", (1, 0), (1, 1))])
    assert results.arithmetic_means.recall == pytest.approx(0.75)  # 1, 1/2, 1/2, 1
    assert results.harmonic_means.recall == pytest.approx(4 / (1 + 2 + 2 + 1))
    assert results.arithmetic_means.precision == 1


def test_what_cannot_be_judged():
    with pytest.raises(InputError):
        evaluate_decisions([], GroundTruth({}))
    with pytest.raises(InputError, match="hides domain and label"):
        by_name([MachineDecisions("fan", "00", ("section_00_0000.wav",), np.array([1]))])
    with pytest.raises(ValueError, match="not of one length"):
        precision_recall_f1([0, 1], [1])


def test_decisions_on_a_single_domain():
    clips = {
        "normal/1": TrueClip("normal", "source", "normal/1.wav"),
        "worn/1": TrueClip("anomaly", "source", "worn/1.wav"),
    }
    decided = MachineDecisions("b", "00", ("normal/1.wav", "worn/1.wav"), np.array([1, 1]))
    results = evaluate_decisions([decided], GroundTruth({("b", "00"): clips}, "own"))
    assert results.machines[0].target is None
    assert results.harmonic_means == results.machines[0].source == pytest.approx((0.5, 1.0, 2 / 3))
    assert decisions_to_tree(results)["machines"]["b"]["target"] is None
    rows = [row.cells for row in decisions_to_text(results).rows]
    assert rows == [
        ("b", "source", "50.00", "100.00", "66.67"),
        ("", "target", "–", "–", "–"),
        ("All", "mean", "50.00", "100.00", "66.67"),
        ("", "hmean", "50.00", "100.00", "66.67"),
    ]
