"""The bootstrap: weighted metrics against scikit-learn on explicit resamples, strata, intervals, pairing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from nearfar.errors import InputError
from nearfar.evaluation import results
from nearfar.evaluation import uncertainty as bootstrap
from nearfar.evaluation.scorefiles import MachineScores, read_scores
from nearfar.evaluation.truth import ClipLabels, GroundTruth
from nearfar.metrics import bootstrap_interval, draw_counts, harmonic_mean, machine_metrics, weighted_metrics


def evaluate_scores(entries):
    return results.evaluate_scores(entries, GroundTruth.from_names(entries))


def uncertainty(entries, **options):
    return bootstrap.uncertainty(entries, GroundTruth.from_names(entries), **options)


def compare(a, b, **options):
    return bootstrap.compare([[a]], [b], GroundTruth.from_names(a), **options)[0]


def compare_seeds(a, b, **options):
    return bootstrap.compare([a], b, GroundTruth.from_names(a[0]), **options)[0]


def truth_of(per_group):
    """The four groups, each with its number of clips: source and target normal, source and target anomalous."""
    anomalous = np.repeat([False, False, True, True], per_group)
    return ClipLabels(anomalous, np.repeat(["source", "target", "source", "target"], per_group))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=4, max_size=4), st.integers(1, 9), st.integers(0, 10**6))
def test_weighted_metrics_are_scikit_learns_on_the_repeated_clips(per_group, distinct, seed):
    rng = np.random.default_rng(seed)
    truth = truth_of(per_group)
    scores = rng.integers(distinct, size=truth.anomalous.size) / 7  # few values, so that ties abound
    counts = draw_counts(*truth, 2, rng)
    for row, metrics in zip(counts, weighted_metrics(*truth, scores, counts).T, strict=True):
        clips = np.repeat(np.arange(row.size), row.astype(int))
        y, domain, s = truth.anomalous[clips], truth.domains[clips], scores[clips]
        for place, name in enumerate(("source", "target")):
            mine = y | (domain == name)
            assert metrics[place] == pytest.approx(roc_auc_score(y[mine], s[mine]), abs=1e-12)
        assert metrics[2] == pytest.approx(roc_auc_score(y, s, max_fpr=0.1), abs=1e-12)


def test_weights_need_not_be_whole():
    rng = np.random.default_rng(0)
    truth = truth_of([9, 8, 7, 6])
    scores, weights = rng.normal(size=30), rng.uniform(0.1, 3, size=(1, 30))
    source, _, both = weighted_metrics(*truth, scores, weights)[:, 0]
    mine = truth.anomalous | (truth.domains == "source")
    expected = roc_auc_score(truth.anomalous[mine], scores[mine], sample_weight=weights[0, mine])
    assert source == pytest.approx(expected, abs=1e-12)
    expected = roc_auc_score(truth.anomalous, scores, max_fpr=0.1, sample_weight=weights[0])
    assert both == pytest.approx(expected, abs=1e-12)


def test_each_domain_and_label_keeps_its_number_of_clips():
    truth = truth_of([5, 3, 4, 1])
    counts = draw_counts(*truth, 2000, np.random.default_rng(0))
    for domain in ("source", "target"):
        for anomalous in (False, True):
            members = (truth.domains == domain) & (truth.anomalous == anomalous)
            assert (counts[:, members].sum(axis=1) == members.sum()).all()
    # Within a group of 5, a clip is drawn Binomial(5, 1/5) times: mean 1, variance 0.8.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(counts[:, :5].var(axis=0), 0.8, atol=0.1)


def machine_scores(machine, separation, seed=0, clips=50):
    """A machine of the development set's size with normally distributed scores."""
    rng = np.random.default_rng(seed)
    names, scores = [], []
    for domain in ("source", "target"):
        for label in ("normal", "anomaly"):
            names += [f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav" for index in range(clips)]
            scores += list(rng.normal(size=clips) + separation * (label == "anomaly"))
    return MachineScores(machine, "00", tuple(names), np.array(scores))


SYSTEM = [machine_scores("fan", 0.8, 1), machine_scores("pump", 0.4, 2)]


def test_values_are_the_results_and_lie_in_their_intervals():
    expected = evaluate_scores(SYSTEM)
    found = uncertainty(SYSTEM, resamples=500)
    assert list(found.machines) == ["fan", "pump"]
    for row, intervals in zip(expected.machines, found.machines.values(), strict=True):
        assert [interval.value for interval in intervals.values()] == pytest.approx([*row.metrics, row.score])
    overall = found.all_machines
    assert [interval.value for interval in overall.values()] == pytest.approx(
        [*expected.means, expected.official_score]
    )
    for intervals in (*found.machines.values(), overall):
        assert all(interval.low < interval.value < interval.high for interval in intervals.values())


def test_intervals_against_a_loop_over_resamples():
    """The same quantiles, to within the noise of 1,000 resamples, as drawing clips one resample at a time."""
    (entry,) = SYSTEM[:1]
    truth = truth_of([50] * 4)
    order = np.r_[
        0:50, 100:150, 50:100, 150:200
    ]  # normal source, normal target, anomalous source, anomalous target
    scores, rng = entry.scores[order], np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        clips = np.concatenate([rng.integers(50, size=50) + start for start in (0, 50, 100, 150)])
        drawn.append(harmonic_mean(machine_metrics(truth.anomalous[clips], truth.domains[clips], scores[clips])))
    found = uncertainty([entry], resamples=4000).machines["fan"]["score"]
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([found.low, found.high], abs=0.008)


def test_the_width_follows_hanley_and_mcneil():
    """Source and target are alike here, so the AUC's standard error is known in closed form (1982)."""
    entry = machine_scores("fan", 1.0, seed=3, clips=400)
    interval = uncertainty([entry], resamples=2000).machines["fan"]["auc_source"]
    area, normals, faults = interval.value, 400, 800
    above, below = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    error = np.sqrt((area * (1 - area) + (faults - 1) * above + (normals - 1) * below) / (normals * faults))
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("metric", ["auc_source", "auc_target", "pauc", "score"])
def test_the_interval_of_arrays_is_that_of_one_machine(metric):
    (entry,) = SYSTEM[:1]
    labels = GroundTruth.from_names([entry]).labels(entry)
    expected = uncertainty([entry], resamples=300, level=0.8, seed=3).machines["fan"][metric]
    found = bootstrap_interval(*labels, entry.scores, metric, resamples=300, level=0.8, seed=3)
    assert found == (expected.low, expected.high)


def test_an_interval_of_something_else_is_refused():
    labels, scores = truth_of([3] * 4), np.arange(12.0)
    with pytest.raises(ValueError, match="metric is 'f1', not one of auc_source"):
        bootstrap_interval(*labels, scores, "f1")
    with pytest.raises(ValueError, match="both normal and anomalous"):
        bootstrap_interval(np.ones(12), labels.domains, scores)


def test_same_seed_same_intervals():
    once, again, other = (uncertainty(SYSTEM, resamples=300, seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_comparing_a_system_with_itself_is_a_draw():
    comparison = compare(SYSTEM, SYSTEM, resamples=200)
    for difference in (*comparison.machines.values(), comparison.overall, *comparison.without.values()):
        assert (difference.value, difference.low, difference.high, difference.a_better) == (0, 0, 0, 0.5)


def test_comparison_sees_who_is_better_and_where():
    better = [machine_scores("fan", 2.5, 1), SYSTEM[1]]
    comparison = compare(better, SYSTEM, resamples=500)
    ahead = evaluate_scores(better).official_score - evaluate_scores(SYSTEM).official_score
    assert comparison.overall.value == pytest.approx(ahead)
    assert comparison.overall.low > 0
    assert comparison.overall.a_better == comparison.machines["fan"].a_better == 1.0
    assert comparison.machines["pump"].value == 0
    assert comparison.without["fan"] == comparison.machines["pump"], "without fan only pump is left"
    assert comparison.without["pump"] == comparison.machines["fan"]
    reverse = compare(SYSTEM, better, resamples=500)
    assert reverse.overall.low == pytest.approx(-comparison.overall.high)


def test_seeds_are_averaged_resample_by_resample():
    """Against the three metrics of every seed in every resample, averaged by hand."""
    a = [[machine_scores("fan", 1.5, seed, 30), machine_scores("pump", 0.5, seed + 9, 30)] for seed in range(3)]
    b = [[machine_scores("fan", 1.0, seed, 30), machine_scores("pump", 0.7, seed + 9, 30)] for seed in (3, 4)]
    found = compare_seeds(a, b, resamples=150, seed=2)

    def official(system):
        return np.mean([evaluate_scores(scores).official_score for scores in system])

    assert found.overall.value == pytest.approx(official(a) - official(b))
    truth = GroundTruth.from_names(a[0]).labels(a[0][0])
    counts = [draw_counts(*truth, 150, np.random.default_rng((2, place))) for place in range(2)]

    def resampled(system):
        metrics = [
            np.concatenate(
                [weighted_metrics(*truth, entry.scores, counts[place]) for place, entry in enumerate(scores)]
            )
            for scores in system
        ]
        return np.mean([len(values) / np.sum(1 / values, axis=0) for values in metrics], axis=0)

    drawn = resampled(a) - resampled(b)
    assert [found.overall.low, found.overall.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1e-12)
    assert found.overall.a_better == pytest.approx(np.mean(drawn > 0))
    assert compare_seeds(a[:1], b[:1], resamples=50) == compare(a[0], b[0], resamples=50)


def test_pairing_is_what_makes_a_small_difference_visible():
    """The same clips for both: their luck cancels, so the interval is far narrower than a system's own."""
    nudged = [MachineScores(entry.machine, "00", entry.names, entry.scores.copy()) for entry in SYSTEM]
    nudged[0].scores[:100] -= 0.05 * np.repeat([1, 0], 50)
    comparison, alone = compare(nudged, SYSTEM, resamples=500), uncertainty(SYSTEM, resamples=500)
    width = comparison.machines["fan"].high - comparison.machines["fan"].low
    own = alone.machines["fan"]["score"]
    assert width < 0.2 * (own.high - own.low)


def test_clips_are_matched_by_name_whatever_their_order_and_suffix():
    order = np.random.default_rng(0).permutation(200)
    shuffled = [
        MachineScores(
            entry.machine, "00", tuple(entry.names[i].replace(".wav", ".flac") for i in order), entry.scores[order]
        )
        for entry in reversed(SYSTEM)
    ]
    comparison = compare(SYSTEM, shuffled, resamples=100)
    assert list(comparison.machines) == ["fan", "pump"]
    assert comparison.overall.low == comparison.overall.high == 0


def test_a_single_machine_leaves_nothing_out():
    assert compare(SYSTEM[:1], SYSTEM[:1], resamples=50).without == {}


def test_systems_on_different_clips_are_refused():
    with pytest.raises(InputError, match="pump section 00 in only one"):
        compare(SYSTEM, SYSTEM[:1], resamples=10)
    (entry,) = SYSTEM[:1]
    fewer = MachineScores("fan", "00", entry.names[:-1], entry.scores[:-1])
    with pytest.raises(InputError, match=r"target_test_anomaly_0049_noAttribute in only one"):
        compare([entry], [fewer], resamples=10)
    twin = MachineScores("fan", "00", (*entry.names, entry.names[0].replace(".wav", ".flac")), np.zeros(201))
    with pytest.raises(InputError, match="differ only in the audio suffix"):
        compare([entry], [twin], resamples=10)


def test_evaluation_clips_have_no_intervals():
    with pytest.raises(InputError, match="hides domain and label"):
        uncertainty([MachineScores("fan", "00", ("section_00_0000.wav",), np.zeros(1))], resamples=10)


def test_official_baselines_cannot_be_told_apart_overall(golden_arrays):
    """On the real development set MSE and MAHALA differ by machine, not in the official score."""
    mse, mahala = (read_scores(golden_arrays / "ae_rerun_scores" / kind) for kind in ("mse", "mahala"))
    comparison = compare(mse, mahala, resamples=2000)
    assert comparison.overall.value == pytest.approx(0.57194 - 0.57205, abs=1e-5)
    assert comparison.overall.low < 0 < comparison.overall.high
    assert comparison.machines["ToyCar"].high < 0 < comparison.machines["valveEmu"].low
    assert len(comparison.without) == 7
