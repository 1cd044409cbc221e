"""The commands on score files, as a person calls them: what they print and how they exit."""

import csv
import json

import numpy as np
import pytest

from nearfar.evaluation.published import PUBLISHED, check_published
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores, write_decisions, write_scores
from nearfar.evaluation.truth import GroundTruth

PUBLISHED_NAMES = [column.name for column in PUBLISHED]


@pytest.fixture
def nearfar(nearfar_command):
    return nearfar_command


NAMES = tuple(
    f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav"
    for domain in ("source", "target")
    for label in ("normal", "anomaly")
    for index in range(4)
)


def evaluate_by_name(entries):
    return evaluate_scores(entries, GroundTruth.from_names(entries))


def write_system(folder, seed, machines=("fan", "pump")):
    """Scores of 16 clips per machine; half of them called anomalous."""
    rng = np.random.default_rng(seed)
    entries = []
    for machine in machines:
        scores = rng.normal(size=16) + np.array(["anomaly" in name for name in NAMES])
        entries.append(MachineScores(machine, "00", NAMES, scores))
    write_scores(folder, entries)
    return entries


def hide(folder, truth):
    """Give the clips of score and decision files hidden names, and write what they are into ``truth``."""
    for path in folder.glob("*.csv"):
        rows = list(csv.reader(path.read_text().splitlines()))
        hidden = [f"section_00_{index:04d}.wav" for index in range(len(rows))]
        path.write_text("".join(f"{name},{row[1]}\n" for name, row in zip(hidden, rows, strict=True)))
        for kind, word in (("data", "_anomaly_"), ("domain", "_target_")):
            file = truth / f"ground_truth_{kind}" / f"ground_truth_{path.name.split('_')[2]}_section_00_test.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{name},{int(word in row[0])}\n" for name, row in zip(hidden, rows, strict=True)]
            file.write_text("".join(lines))


@pytest.mark.parametrize(("system", "score"), [("mse", 0.57194), ("mahala", 0.57205)])
def test_the_baselines_rerun_has_its_known_official_score(nearfar, golden_arrays, system, score):
    code, out, _ = nearfar("evaluate", "--scores", golden_arrays / "ae_rerun_scores" / system, "--json")
    tree, *published = json.loads(out)["systems"]
    assert (code, tree["name"]) == (0, system)
    assert [column["name"] for column in published] == [f"{name} (published)" for name in PUBLISHED_NAMES]
    assert tree["all"]["score"]["mean"] == pytest.approx(score, abs=5e-6)
    assert "decisions" not in json.loads(out)


def test_evaluate_prints_a_table_in_percent(nearfar, tmp_path):
    expected = evaluate_by_name(write_system(tmp_path / "mine", 0)).official_score
    code, out, _ = nearfar("evaluate", "--scores", tmp_path / "mine", "--note", "made up [by a test]")
    assert code == 0
    assert f"{100 * expected:.2f}" in out
    assert "made up [by a test]" in out


def test_a_run_folder_stands_for_its_scores(nearfar, tmp_path):
    write_system(tmp_path / "my-run" / "scores", 0)
    for folder in ("my-run", "my-run/scores"):
        assert json.loads(nearfar("evaluate", "--scores", tmp_path / folder, "--json")[1])["systems"][0][
            "name"
        ] == ("my-run")


def test_what_a_run_says_of_its_data_is_not_left_out(nearfar, tmp_path):
    write_system(tmp_path / "scores", 0)
    plain = json.loads(nearfar("evaluate", "--scores", tmp_path, "--json")[1])
    assert plain["notes"] == []
    assert len(plain["systems"]) == 1, "a machine called fan is not the report's data"
    (tmp_path / "results.json").write_text(json.dumps({"notes": ["Simulated data."], "systems": []}))
    for folder in (tmp_path, tmp_path / "scores"):
        noted = json.loads(nearfar("evaluate", "--scores", folder, "--json")[1])
        assert noted["notes"] == ["Simulated data."]
        assert noted["systems"] == plain["systems"][:1], "the report's figures are of other data"


def test_machines_that_hide_their_labels_are_left_out_and_said(nearfar, tmp_path, caplog):
    """As a run on development and evaluation machines together leaves them."""
    entries = write_system(tmp_path / "both", 0)
    write_decisions(
        tmp_path / "both", [MachineDecisions(e.machine, "00", e.names, np.ones(16, dtype=int)) for e in entries]
    )
    for kind in ("anomaly_score", "decision_result"):
        file = tmp_path / "both" / f"{kind}_pump_section_00_test.csv"
        rows = [line.rpartition(",")[2] for line in file.read_text().splitlines()]
        file.write_text("".join(f"section_00_{index:04d}.wav,{row}\n" for index, row in enumerate(rows)))
    code, out, _ = nearfar("evaluate", "--scores", tmp_path / "both", "--json")
    tree = json.loads(out)
    assert code == 0
    assert tree["systems"][0]["machines"].keys() == {"fan"}
    assert tree["decisions"]["machines"].keys() == {"fan"}
    assert caplog.messages == ["pump: all test clips hide their labels, so they are scored but not evaluated"]
    (tmp_path / "both" / "anomaly_score_fan_section_00_test.csv").unlink()
    code, _, err = nearfar("evaluate", "--scores", tmp_path / "both")
    assert code == 2
    assert "found test clips that hide their labels" in err
    assert "--truth" in err


def test_development_machines_of_a_run_on_both_sets_are_not_held_to_the_ground_truth(nearfar, tmp_path, caplog):
    write_system(tmp_path / "run" / "scores", 0)
    plain = json.loads(nearfar("evaluate", "--scores", tmp_path / "run", "--json")[1])["systems"][0]["machines"]
    other = write_system(tmp_path / "fan" / "scores", 1, machines=("fan",))
    hide(tmp_path / "run" / "scores", tmp_path / "truth")
    (tmp_path / "truth" / "ground_truth_data" / "ground_truth_fan_section_00_test.csv").unlink()
    (tmp_path / "truth" / "ground_truth_domain" / "ground_truth_fan_section_00_test.csv").unlink()
    write_scores(tmp_path / "run" / "scores", other)
    code, out, _ = nearfar("evaluate", "--scores", tmp_path / "run", "--truth", tmp_path / "truth", "--json")
    assert code == 0
    assert json.loads(out)["systems"][0]["machines"] == {"pump": plain["pump"]}
    assert caplog.messages == ["left out, as the ground truth is not of them: fan"]


def test_intervals_hold_their_values(nearfar, tmp_path):
    write_system(tmp_path / "mine", 0)
    tree = json.loads(nearfar("evaluate", "--scores", tmp_path / "mine", "--intervals", "--json")[1])
    for cells in (tree["systems"][0]["all"], tree["systems"][0]["machines"]["pump"]):
        for cell in cells.values():
            low, high = cell["interval"]
            assert low <= cell["mean"] <= high
            assert low < high
    assert (
        json.loads(nearfar("evaluate", "--scores", tmp_path / "mine", "--json")[1])["systems"][0]["all"]["score"][
            "interval"
        ]
        is None
    )


def test_below_a_bar_is_exit_code_1(nearfar, tmp_path):
    score = evaluate_by_name(write_system(tmp_path / "mine", 0)).official_score
    for bar, code in (
        (100 * score - 0.1, 0),
        (100 * score + 0.1, 1),
        (score - 0.001, 0),
        (score + 0.001, 1),
        (0, 0),
    ):
        assert nearfar("evaluate", "--scores", tmp_path / "mine", "--below", bar)[0] == code, bar
    _, out, error = nearfar("evaluate", "--scores", tmp_path / "mine", "--json", "--below", 99)
    assert json.loads(out)
    assert f"{100 * score:.2f} is below 99" in error
    for nonsense in ("-1", "101", "nan"):
        assert nearfar("evaluate", "--scores", tmp_path / "mine", "--below", nonsense)[0] == 2


def test_decisions_beside_the_scores_are_judged(nearfar, tmp_path):
    write_system(tmp_path, 0)
    calls = np.array([0, 0, 0, 1, 1, 1, 1, 0] + [1] * 8)
    write_decisions(tmp_path, [MachineDecisions("fan", "00", NAMES, calls)])
    tree = json.loads(nearfar("evaluate", "--scores", tmp_path, "--json")[1])["decisions"]
    assert tree["machines"]["fan"]["source"] == pytest.approx({"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4})
    assert tree["machines"]["fan"]["target"] == pytest.approx({"precision": 1 / 2, "recall": 1, "f1": 2 / 3})
    assert tree["all"]["mean"]["recall"] == pytest.approx(7 / 8)
    assert tree["all"]["hmean"]["precision"] == pytest.approx(2 / (4 / 3 + 2))
    _, out, _ = nearfar("evaluate", "--scores", tmp_path)
    assert "precision" in out
    assert "66.67" in out


def test_truth_of_an_evaluation_set(nearfar, tmp_path):
    write_system(tmp_path / "system", 0)
    calls = [MachineDecisions(machine, "00", NAMES, np.arange(16) % 2) for machine in ("fan", "pump")]
    write_decisions(tmp_path / "system", calls)
    before = json.loads(nearfar("evaluate", "--scores", tmp_path / "system", "--json")[1])
    hide(tmp_path / "system", tmp_path / "truth")
    code, _, error = nearfar("evaluate", "--scores", tmp_path / "system")
    assert (code, "hide their labels" in error, "--truth" in error) == (2, True, True)
    code, out, _ = nearfar("evaluate", "--scores", tmp_path / "system", "--truth", tmp_path / "truth", "--json")
    assert (code, json.loads(out)) == (0, before)
    (tmp_path / "system" / "anomaly_score_pump_section_00_test.csv").unlink()
    code, _, error = nearfar("evaluate", "--scores", tmp_path / "system", "--truth", tmp_path / "truth")
    assert (code, "no scores of pump section 00" in error) == (2, True)


def test_compare_is_the_difference_of_the_two_tables(nearfar, tmp_path):
    a, b = (evaluate_by_name(write_system(tmp_path / run / "scores", seed)) for seed, run in enumerate("ab"))
    arguments = ("compare", tmp_path / "a", tmp_path / "b" / "scores", "--json", "--resamples", 200)
    code, out, _ = nearfar(*arguments)
    tree = json.loads(out)
    assert (code, tree["a"], tree["b"], tree["resamples"]) == (0, "a", "b", 200)
    assert tree["all"]["difference"] == pytest.approx(a.official_score - b.official_score)
    fan = tree["machines"]["fan"]
    assert fan["difference"] == pytest.approx(a.machines[0].score - b.machines[0].score)
    assert fan["interval"][0] <= fan["difference"] <= fan["interval"][1]
    assert set(tree["without"]) == {"fan", "pump"}
    assert nearfar(*arguments)[1] == out, "the seed decides the resamples"
    assert nearfar(*arguments, "--seed", 1)[1] != out
    _, shown, _ = nearfar("compare", tmp_path / "a", tmp_path / "b", "--resamples", 200)
    assert "a minus b" in shown
    assert "200 resamples" in shown


def test_compare_averages_seeds(nearfar, tmp_path):
    scores = [
        evaluate_by_name(write_system(tmp_path / f"seed_{seed}" / "run", seed)).official_score for seed in range(3)
    ]
    one, others = tmp_path / "seed_0/run", f"{tmp_path / 'seed_1/run'},{tmp_path / 'seed_2/run'}"
    code, out, _ = nearfar("compare", one, others, "--json", "--resamples", 10)
    assert (code, json.loads(out)["a"], json.loads(out)["b"]) == (0, "run", "run (+1 of other seeds)")
    assert json.loads(out)["all"]["difference"] == pytest.approx(scores[0] - (scores[1] + scores[2]) / 2)


@pytest.mark.parametrize("ending", [",", ",,a", ",a"])
def test_compare_refuses_lists_that_are_none(ending, nearfar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_system(tmp_path / "a", 0)
    code, _, error = nearfar("compare", f"a{ending}", "a")
    assert (code, "A: found a," in error, "each once" in error) == (2, True, True)


def test_compare_takes_a_folder_with_a_comma_and_names_one_that_is_missing(nearfar, tmp_path):
    write_system(tmp_path / "pump, old", 0)
    assert nearfar("compare", tmp_path / "pump, old", tmp_path / "pump, old", "--resamples", 5)[0] == 0
    code, _, error = nearfar("compare", tmp_path / "pump, old", f"{tmp_path / 'pump, old'}/.,nowhere")
    assert (code, f"{tmp_path}/pump" in error) == (2, True), "a comma separates, and the error says what was read"


def test_compare_tells_folders_of_one_name_apart(nearfar, tmp_path):
    for seed, parent in enumerate("xy"):
        write_system(tmp_path / parent / "run", seed)
    tree = json.loads(nearfar("compare", tmp_path / "x/run", tmp_path / "y/run", "--json", "--resamples", 10)[1])
    assert (tree["a"], tree["b"]) == (str(tmp_path / "x/run"), str(tmp_path / "y/run"))


def test_compare_on_an_evaluation_set(nearfar, tmp_path):
    for seed, system in enumerate("ab"):
        write_system(tmp_path / system, seed)
    arguments = ("compare", tmp_path / "a", tmp_path / "b", "--json", "--resamples", 50)
    before = json.loads(nearfar(*arguments)[1])
    for system in "ab":
        hide(tmp_path / system, tmp_path / "truth")
    code, out, _ = nearfar(*arguments, "--truth", tmp_path / "truth")
    assert (code, json.loads(out)) == (0, before)


def test_compare_refuses_other_clips(nearfar, tmp_path):
    write_system(tmp_path / "a", 0)
    write_system(tmp_path / "b", 0, machines=("fan",))
    code, _, error = nearfar("compare", tmp_path / "a", tmp_path / "b")
    assert (code, "pump section 00 in only one of them" in error) == (2, True)
    assert nearfar("compare", tmp_path / "a", tmp_path / "a", "--resamples", 0)[0] == 2


def test_the_published_table_says_what_does_not_add_up(nearfar):
    code, out, _ = nearfar("table", "--published")
    assert code == 0
    for figure in ("56.66 †", "50.85 †", "64.49", "63.22", "48.73"):
        assert figure in out, figure
    assert "61.73 †" not in out
    tree = json.loads(nearfar("table", "--published", "--json")[1])
    assert tree["systems"][0]["machines"]["valveEmu"]["score"]["mean"] == pytest.approx(0.5666)
    found = {(entry["machine"], entry["quantity"], entry["printed"]) for entry in tree["discrepancies"]}
    assert ("valveEmu", "score", 56.66) in found
    assert (None, "auc_target", 48.73) in found
    assert len(tree["discrepancies"]) == len(check_published())
    code, _, error = nearfar("table")
    assert (code, "--published" in error) == (2, True)
