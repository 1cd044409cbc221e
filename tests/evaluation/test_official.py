"""The official score of each year, against scikit-learn, naive sums and what the organisers publish."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from nearfar.charts import machine_figure
from nearfar.errors import InputError
from nearfar.evaluation import results as evaluation
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.tables import results_table, to_json, to_markdown
from nearfar.evaluation.truth import GroundTruth, TrueClip
from nearfar.evaluation.uncertainty import compare, uncertainty
from nearfar.metrics import (
    CURRENT,
    OFFICIAL_RULES,
    column_means,
    draw_counts,
    machine_metrics,
    overall_score,
    section_scores,
    weighted_metrics,
)

Y2020, Y2021, OWN = (OFFICIAL_RULES[layout] for layout in ("dcase2020", "dcase2021", "own"))


def evaluate_scores(entries, truth=None):
    return evaluation.evaluate_scores(entries, truth or GroundTruth.from_names(entries))


def scored(machine, section, names, seed):
    """Random scores, rounded so that there are ties, higher for anomalies."""
    random = np.random.default_rng(seed)
    lift = np.array([0.7 * ("anomaly" in name) for name in names])
    return MachineScores(machine, section, tuple(names), np.round(random.standard_normal(len(names)) + lift, 1))


def of_2020(machine, machine_id, seed, normal=30, anomalous=20):
    names = [f"normal_id_{machine_id}_{n:08d}.wav" for n in range(normal)]
    return scored(
        machine, machine_id, names + [f"anomaly_id_{machine_id}_{n:08d}.wav" for n in range(anomalous)], seed
    )


def of_sections(machine, section, seed, tail, per_group=(12, 9, 15, 11)):
    """Test names of 2021 (no tail) or of 2022 on."""
    groups = [(domain, label) for domain in ("source", "target") for label in ("normal", "anomaly")]
    names = [
        f"section_{section}_{domain}_test_{label}_{n:04d}{tail}.wav"
        for (domain, label), count in zip(groups, per_group, strict=True)
        for n in range(count)
    ]
    return scored(machine, section, names, seed)


def labels_of(entry):
    anomalous = np.array(["anomaly" in name for name in entry.names])
    return anomalous, np.array(["target" if "target" in name else "source" for name in entry.names])


# --- whole scores from the names of each year ------------------------------------------------------------------


def test_2020_averages_over_ids_and_then_over_machines():
    entries = [
        of_2020("fan", "00", 0),
        of_2020("fan", "02", 1),
        of_2020("fan", "04", 2),
        of_2020("ToyCar", "01", 3),
    ]
    results = evaluate_scores(entries)
    values = []
    for entry, row in zip(entries, results.machines, strict=True):
        anomalous, _ = labels_of(entry)
        auc, pauc = roc_auc_score(anomalous, entry.scores), roc_auc_score(anomalous, entry.scores, max_fpr=0.1)
        assert row.metrics.auc_source == pytest.approx(auc, abs=1e-12)
        assert np.isnan(row.metrics.auc_target)
        assert row.metrics.pauc == pytest.approx(pauc, abs=1e-12)
        assert row.score == pytest.approx((auc + pauc) / 2)
        values.append((auc, pauc))
    averages = [np.mean(values[:3], axis=0), np.array(values[3])]
    assert results.means[0] == pytest.approx(np.mean([average[0] for average in averages]))
    assert results.means[2] == pytest.approx(np.mean([average[1] for average in averages]))
    assert results.official_score == pytest.approx(np.mean(averages))
    assert results.official_score != pytest.approx(np.mean(values)), "ids of a machine count less than machines"


def test_2021_takes_each_domain_with_its_own_anomalies():
    entries = [of_sections("fan", f"0{section}", section, "") for section in range(3)]
    results = evaluate_scores(entries)
    assert results.rule == Y2021
    everything = []
    for entry, row in zip(entries, results.machines, strict=True):
        anomalous, domain = labels_of(entry)
        values = {}
        for name in ("source", "target"):
            rows = domain == name
            for kind, max_fpr in (("auc", None), ("pauc", 0.1)):
                values[name, kind] = roc_auc_score(anomalous[rows], entry.scores[rows], max_fpr=max_fpr)
        assert row.metrics.auc_source == pytest.approx(values["source", "auc"], abs=1e-12)
        assert row.metrics.auc_target == pytest.approx(values["target", "auc"], abs=1e-12)
        assert row.metrics.pauc == pytest.approx(hmean([values["source", "pauc"], values["target", "pauc"]]))
        assert row.score == pytest.approx(hmean(list(values.values())))
        everything += values.values()
    assert len(everything) == 12
    assert results.official_score == pytest.approx(hmean(everything))


def test_2022_is_the_current_rule_over_sections():
    entries = [of_sections("valve", f"0{section}", section, f"_pat_0{section}") for section in range(3)]
    results = evaluate_scores(entries)
    assert results.rule == CURRENT
    everything = []
    for entry in entries:
        anomalous, domain = labels_of(entry)
        for name in ("source", "target"):
            rows = (domain == name) | anomalous
            everything.append(roc_auc_score(anomalous[rows], entry.scores[rows]))
        everything.append(roc_auc_score(anomalous, entry.scores, max_fpr=0.1))
    assert results.official_score == pytest.approx(hmean(everything))
    assert results.notes == ()


# --- means against published tables ----------------------------------------------------------------------------


def test_2020_means_are_the_baseline_s_published_averages():
    """AUC and pAUC of ToyCar by id, and their averages, as the organisers' baseline documents them."""
    values = [
        (0.828474, np.nan, 0.678514), (0.866307, np.nan, 0.762236),
        (0.639396, np.nan, 0.546659), (0.869477, np.nan, 0.701461),
    ]  # fmt: skip
    auc, absent, pauc = column_means(Y2020, ["ToyCar"] * 4, values)
    assert (auc, pauc) == pytest.approx((0.800914, 0.672218), abs=1e-6)
    assert np.isnan(absent)


def test_2021_means_are_the_evaluator_s_published_ones():
    """Six pairs of AUC and pAUC of fan, and their harmonic means, as the organisers' evaluator documents them."""
    source = [(0.6669, 0.5273684210526316), (0.7014, 0.52), (0.5834, 0.5352631578947369)]
    target = [(0.5229, 0.49315789473684213), (0.5357, 0.5063157894736842), (0.448452380952381, 0.4805764411027569)]
    values = [(s[0], t[0], hmean([s[1], t[1]])) for s, t in zip(source, target, strict=True)]
    auc_source, auc_target, pauc = column_means(Y2021, ["fan"] * 3, values)
    assert hmean([auc_source, auc_target]) == pytest.approx(0.5634700058286667)
    assert pauc == pytest.approx(0.5097204125946903)
    assert overall_score(Y2021, ["fan"] * 3, values) == pytest.approx(
        hmean([0.5634700058286667, 0.5097204125946903])
    )


def test_the_current_score_is_that_of_the_evaluator_of_2023():
    """Harmonic means over all machines of AUC (source), AUC (target) and pAUC, and the official score of them, as
    the organisers' evaluator documents them; the AUC there is of both domains together."""
    means = [0.7423494890244248, 0.5253826834789426, 0.5517419647782388]
    assert hmean(means[:2]) == pytest.approx(0.6152996272906976, abs=1e-12)
    assert overall_score(CURRENT, ["all"], [means]) == pytest.approx(0.5925469043549957, abs=1e-12)


def test_2020_averages_are_those_of_the_year_s_evaluator():
    """AUC and pAUC of two machine types by id, and their averages, as the organisers' evaluator documents them."""
    values = {
        "fan": [
            (0.7939877300613497, 0.6181788827897966), (0.8663687150837989, 0.6768597471331961),
            (0.869850950290476, 0.7075731309293712),
        ],
        "valve": [
            (0.57725, 0.5109649122807017), (0.5424166666666665, 0.5166666666666667),
            (0.551825, 0.49144736842105263),
        ],
    }  # fmt: skip
    averages = {"fan": (0.8434024651452082, 0.6675372536174548), "valve": (0.5571638888888889, 0.506359649122807)}
    for machine, rows in values.items():
        auc, _, pauc = column_means(Y2020, [machine] * 3, [(auc, np.nan, pauc) for auc, pauc in rows])
        assert (auc, pauc) == pytest.approx(averages[machine], abs=1e-12)
    rows = [(auc, np.nan, pauc) for machine in values.values() for auc, pauc in machine]
    both = overall_score(Y2020, ["fan"] * 3 + ["valve"] * 3, rows)
    assert both == pytest.approx(np.mean(list(averages.values())), abs=1e-12)


def test_means_pass_over_what_is_absent():
    values = np.array([[0.8, np.nan, 0.6], [0.7, 0.5, 0.55]])
    assert section_scores(OWN, values) == pytest.approx([hmean([0.8, 0.6]), hmean([0.7, 0.5, 0.55])])
    assert column_means(OWN, ["a", "b"], values) == pytest.approx([hmean([0.8, 0.7]), 0.5, hmean([0.6, 0.55])])
    assert overall_score(OWN, ["a", "b"], values) == pytest.approx(hmean([0.8, 0.6, 0.7, 0.5, 0.55]))


def test_a_value_of_zero_is_clamped_and_not_divided_by():
    assert 0 < overall_score(CURRENT, ["a"], [[0.0, 1.0, 1.0]]) < 1e-15


# --- one's own folder ------------------------------------------------------------------------------------------


def own(domains=("source",), seed=0):
    names, clips = [], {}
    for domain in domains:
        for folder, count in (("normal", 14), ("worn", 6), ("section_00_source_test_normal_0000_noAttribute", 5)):
            for n in range(count):
                name = f"{folder}/{domain}/{n}.wav"
                names.append(name)
                label = "normal" if folder == "normal" else "anomaly"
                clips[name.removesuffix(".wav")] = TrueClip(label, domain, name)
    lift = np.array([0.0 if name.startswith("normal") else 0.8 for name in names])
    scores = np.round(np.random.default_rng(seed).standard_normal(len(names)) + lift, 1)
    return MachineScores("pump", "00", tuple(names), scores), GroundTruth({("pump", "00"): clips}, "own")


def test_a_single_domain_has_no_target_auc_and_says_so():
    entry, truth = own()
    results = evaluate_scores([entry], truth)
    anomalous = np.array(["normal/" not in name for name in entry.names])
    auc, pauc = (roc_auc_score(anomalous, entry.scores, max_fpr=most) for most in (None, 0.1))
    (row,) = results.machines
    assert (row.metrics.auc_source, row.metrics.pauc) == pytest.approx((auc, pauc))
    assert np.isnan(row.metrics.auc_target)
    assert row.score == results.official_score == pytest.approx(hmean([auc, pauc]))
    assert results.notes == (
        "Without normal test clips of the target domain there is no AUC (target); means are of the rest.",
    )
    table = results_table({"system": [results]})
    assert table.notes == results.notes
    assert [column.name for column in table.columns] == ["system"]
    assert "| AUC (target) | – |" in to_markdown(table)
    assert "NaN" not in to_json(table)


def test_both_domains_are_evaluated_as_the_challenge_does():
    entry, truth = own(("source", "target"))
    labels = truth.labels(entry)
    results = evaluate_scores([entry], truth)
    assert results.machines[0].metrics == machine_metrics(*labels, entry.scores)
    assert results.notes == ()


def test_clips_without_a_label():
    entry, truth = own()
    assert GroundTruth.from_names([entry]).hides(entry)
    assert not truth.hides(entry)
    with pytest.raises(InputError, match=r"normal/source/0\.wav, a clip of one's own folder.*truth\.csv"):
        evaluate_scores([entry])
    clips = {name: clip for name, clip in truth.clips["pump", "00"].items() if name != "worn/source/0"}
    with pytest.raises(InputError, match=r"pump section 00: found worn/source/0\.wav"):
        evaluate_scores([entry], GroundTruth({("pump", "00"): clips}, "own"))


# --- what cannot be evaluated ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (of_2020("fan", "00", 0, anomalous=0), "no anomalies"),
        (of_2020("fan", "00", 0, normal=0), "no normal clips"),
        (of_sections("fan", "00", 0, "", (3, 3, 3, 0)), "no target anomalies"),
        (of_sections("fan", "00", 0, "", (3, 3, 0, 3)), "no normal target clips"),
        (MachineScores("fan", "05", ("id_05_00000000.wav",), np.zeros(1)), "hides domain and label"),
        (MachineScores("fan", "05", ("section_05_source_test_0000.wav",), np.zeros(1)), "hides domain and label"),
    ],
)
def test_scores_of_earlier_years_that_cannot_be_evaluated(entry, complaint):
    with pytest.raises(InputError) as caught:
        evaluate_scores([entry])
    assert complaint in caught.value.found


def test_years_that_differ_are_not_averaged():
    with pytest.raises(InputError, match="years that are evaluated differently"):
        evaluate_scores([of_2020("fan", "00", 0), of_sections("fan", "00", 0, "")])


def test_tables_of_earlier_years_state_their_rule():
    for entry in (of_sections("fan", "00", 0, ""), of_2020("fan", "00", 0)):
        results = evaluate_scores([entry])
        table = results_table({"system": [results, results]}, notes=results.notes)
        assert len(table.columns) == 1
        assert table.notes == (results.rule.statement,)


# --- intervals, comparisons and figures ------------------------------------------------------------------------


def with_names(*entries):
    return list(entries), GroundTruth.from_names(entries)


ENTRIES = {
    "2020": with_names(of_2020("fan", "00", 0), of_2020("fan", "02", 1), of_2020("pump", "00", 2)),
    "2021": with_names(of_sections("fan", "00", 0, ""), of_sections("fan", "01", 1, "")),
    "own": ([own()[0]], own()[1]),
}


@pytest.mark.parametrize("year", ENTRIES)
def test_intervals_hold_the_values_of_every_year(year):
    entries, truth = ENTRIES[year]
    results, intervals = evaluate_scores(entries, truth), uncertainty(entries, truth, resamples=200)
    rows = [(*row.metrics, row.score) for row in results.machines]
    for cells, values in zip(
        (*intervals.machines.values(), intervals.all_machines),
        (*rows, (*results.means, results.official_score)),
        strict=True,
    ):
        for interval, value in zip(cells.values(), values, strict=True):
            assert interval.value == pytest.approx(value, nan_ok=True)
            assert np.isnan(value) or interval.low < value < interval.high


@pytest.mark.parametrize("year", ENTRIES)
def test_resampled_values_are_those_of_repeated_clips(year):
    """With every clip drawn twice, each value is what it was; with other counts, scikit-learn's on copies."""
    entries, truth = ENTRIES[year]
    labels = truth.labels(entries[0])
    counts = draw_counts(*labels, 4, np.random.default_rng(5))
    drawn = weighted_metrics(*labels, entries[0].scores, counts, truth.rule)
    for row, values in zip(counts.astype(int), drawn.T, strict=True):
        copies = np.repeat(np.arange(len(row)), row)
        again = machine_metrics(
            labels.anomalous[copies], labels.domains[copies], entries[0].scores[copies], truth.rule
        )
        assert values == pytest.approx(again, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("year", ENTRIES)
def test_a_comparison_takes_the_difference_of_the_year_s_scores(year):
    entries, truth = ENTRIES[year]
    worse = [
        MachineScores(e.machine, e.section, e.names, np.random.default_rng(9).random(len(e.names)))
        for e in entries
    ]
    (found,) = compare([[entries]], [worse], truth, resamples=50)
    expected = evaluate_scores(entries, truth).official_score - evaluate_scores(worse, truth).official_score
    assert found.overall.value == pytest.approx(expected)


def test_clips_of_one_name_in_two_folders_are_two_clips():
    names = ("normal/1.wav", "worn/1.wav", "normal/2.wav", "worn/2.wav")
    clips = {
        name.removesuffix(".wav"): TrueClip("normal" if "normal" in name else "anomaly", "source", name)
        for name in names
    }
    truth = GroundTruth({("pump", "00"): clips}, "own")
    a = MachineScores("pump", "00", names, np.array([0.0, 1.0, 0.1, 0.9]))
    b = MachineScores("pump", "00", names[::-1], np.array([0.0, 1.0, 0.1, 0.9]))
    assert compare([[[a]]], [[b]], truth, resamples=5)[0].overall.value > 0.4


@pytest.mark.parametrize("year", ENTRIES)
def test_figures_of_every_year(year, tmp_path):
    entries, truth = ENTRIES[year]
    path = tmp_path / "figure.png"
    machine_figure("fan", *truth.labels(entries[0]), entries[0].scores, year, path, truth.rule)
    assert path.read_bytes().startswith(b"\x89PNG")
