"""Results: the official baseline's scores, precision, recall and F1, and entries that cannot be evaluated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_decisions, evaluate_scores, precision_recall_f1
from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores, read_scores
from nearfar.evaluation.tables import decisions_to_text, decisions_to_tree
from nearfar.evaluation.truth import GroundTruth, TrueClip
from nearfar.metrics import MachineMetrics, harmonic_mean, machine_metrics


def evaluate_by_name(entries):
    return evaluate_scores(entries, GroundTruth.from_names(entries))


def decisions_by_name(entries):
    return evaluate_decisions(entries, GroundTruth.from_names(entries))


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
    assert results.is_dcase2026_development_set
    assert {row.machine: percent(row.metrics) for row in results.machines} == RERUNS[kind]


@pytest.mark.parametrize(("kind", "official"), [("mse", 67.8), ("mahala", 67.4)])
def test_official_baseline_on_real_machines(golden_arrays, kind, official):
    results = evaluate_by_name(read_scores(golden_arrays / "ae_official_on_realmix" / kind))
    assert round(100 * results.official_score, 1) == official
    assert not results.is_dcase2026_development_set
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
        (["section_00_source_train_normal_0000_spd_1.wav"], "a name with 'train'"),
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


def test_the_three_metrics_of_a_machine():
    rng = np.random.default_rng(0)
    labels, domains = np.tile([0, 1], 20), np.repeat(["source", "target"], 20)
    scores = rng.normal(size=40) + labels
    source, target, both = machine_metrics(labels, domains, scores)
    for area, domain in ((source, "source"), (target, "target")):
        rows = (domains == domain) | (labels == 1)
        assert area == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-12)
    assert both == pytest.approx(roc_auc_score(labels, scores, max_fpr=0.1), abs=1e-12)


# --- decisions -------------------------------------------------------------------------------------------------


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
    results = decisions_by_name([MachineDecisions("fan", "00", tuple(names), np.array(decisions))])
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

    results = decisions_by_name([entry("fan", (1, 1), (1, 0)), entry("pump", (1, 0), (1, 1))])
    assert results.arithmetic_means.recall == pytest.approx(0.75)  # 1, 1/2, 1/2, 1
    assert results.harmonic_means.recall == pytest.approx(4 / (1 + 2 + 2 + 1))
    assert results.arithmetic_means.precision == 1


def test_what_cannot_be_judged():
    with pytest.raises(InputError):
        evaluate_decisions([], GroundTruth({}))
    with pytest.raises(InputError, match="hides domain and label"):
        decisions_by_name([MachineDecisions("fan", "00", ("section_00_0000.wav",), np.array([1]))])
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
