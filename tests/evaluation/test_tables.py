"""Tables: the right figure in the right cell, in all four renderings."""

import csv
import io
import json
import statistics

import pytest
from rich.console import Console

from nearfar.evaluation.published import PUBLISHED
from nearfar.evaluation.results import MachineResult, Results
from nearfar.evaluation.tables import published_table, results_table, to_csv, to_json, to_markdown, to_rich
from nearfar.evaluation.uncertainty import Interval, Uncertainty
from nearfar.metrics import QUANTITIES, MachineMetrics


def results_of(*machines):
    return Results(tuple(MachineResult(name, "00", MachineMetrics(*values)) for name, values in machines))


PUMP_A = results_of(("pump", (0.5, 0.75, 0.6)), ("fan", (0.8, 0.7, 0.55)))
PUMP_B = results_of(("pump", (0.6, 0.7, 0.6)), ("fan", (0.7, 0.7, 0.65)))


def cells(text):
    """Markdown lines as lists of cells, the machine's name repeated on its four rows."""
    rows = [
        [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")
    ]
    machine = ""
    for row in rows:
        machine = row[0] = row[0] or machine
    return rows


def test_one_seed_in_markdown():
    rows = cells(to_markdown(results_table({"eat-near": [PUMP_A]}, published=False)))
    assert rows[0][2:] == ["eat-near"]
    assert rows[2:] == [
        ["pump", "AUC (source)", "50.00"],
        ["pump", "AUC (target)", "75.00"],
        ["pump", "pAUC", "60.00"],
        ["pump", "score", "60.00"],  # 3 / (1/0.5 + 1/0.75 + 1/0.6)
        ["fan", "AUC (source)", "80.00"],
        ["fan", "AUC (target)", "70.00"],
        ["fan", "pAUC", "55.00"],
        ["fan", "score", "66.71"],
        ["All (hmean)", "AUC (source)", "61.54"],  # 2 / (1/0.5 + 1/0.8)
        ["All (hmean)", "AUC (target)", "72.41"],
        ["All (hmean)", "pAUC", "57.39"],
        ["All (hmean)", "score", "63.18"],
    ]


def test_seeds_give_mean_and_sample_deviation_of_each_cell():
    table = results_table({"eat-near": [PUMP_A, PUMP_B], "eat-fusion": [PUMP_A]}, published=False)
    rows = {(row[0], row[1]): row[2:] for row in cells(to_markdown(table))[2:]}
    assert rows["pump", "AUC (source)"] == ["55.00 ± 7.07", "50.00"]
    assert rows["pump", "pAUC"] == ["60.00 ± 0.00", "60.00"]
    scores = [100 * run.official_score for run in (PUMP_A, PUMP_B)]
    assert rows["All (hmean)", "score"][0] == f"{statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f}"


def test_published_columns_stand_beside_the_development_set_only():
    machines = [(name, (0.8, 0.7, 0.55)) for name in PUBLISHED[0].machines]
    recognised = Results(results_of(*machines).machines, is_dcase2026_development_set=True)
    rows = {(row[0], row[1]): row[2:] for row in cells(to_markdown(results_table({"eat-near": [recognised] * 2})))}
    assert rows["machine", ""] == [
        "eat-near",
        "Baseline MSE (published)",
        "Baseline MAHALA (published)",
        "Best Submitted System (published)",
    ]
    assert rows["fan", "score"] == ["66.71 ± 0.00", "53.26", "51.75", "60.55"]
    assert rows["valveEmu", "score"][1] == "63.22", "scores are computed, not as printed"
    assert rows["All (hmean)", "score"][1:] == ["56.66", "57.66", "64.47"]
    for runs in ([results_of(*machines)], [recognised, results_of(*machines)]):
        table = results_table({"eat-near": runs})
        assert [column.name for column in table.columns] == ["eat-near"], "machines of these names are not enough"
    assert len(results_table({"eat-near": [recognised]}, published=False).columns) == 1


def test_sections_of_one_machine_have_rows_of_their_own():
    results = Results(
        tuple(MachineResult("fan", section, MachineMetrics(0.5, 0.5, 0.5)) for section in ("00", "01"))
    )
    assert results_table({"eat-near": [results]}, published=False).machines == ("fan 00", "fan 01")


def test_the_note_is_in_every_rendering():
    note = "Simulated data [seed 0]: no real machine was recorded."
    table = results_table({"eat-near": [PUMP_A]}, notes=[note])
    console = Console(width=200, file=io.StringIO())
    console.print(to_rich(table))
    assert note in " ".join(console.file.getvalue().split())
    assert note in to_markdown(table)
    assert all(row["notes"] == note for row in csv.DictReader(io.StringIO(to_csv(table))))
    assert json.loads(to_json(table))["notes"] == [note]


def test_csv_gives_percent_and_its_spread():
    table = results_table({"eat-near": [PUMP_A, PUMP_B], "eat-fusion": [PUMP_A]}, published=False)
    rows = {(row["machine"], row["quantity"]): row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    assert len(rows) == 12
    row = rows["pump", "auc_source"]
    assert (row["eat-near"], row["eat-near std"], row["eat-fusion"]) == ("55.00", "7.07", "50.00")
    assert "eat-fusion std" not in row


def test_json_gives_all_digits():
    tree = json.loads(to_json(results_table({"eat-near": [PUMP_A, PUMP_B]}, published=False)))
    assert tree["unit"] == "fraction"
    (system,) = tree["systems"]
    assert (system["name"], system["seeds"]) == ("eat-near", 2)
    assert system["machines"]["pump"]["auc_source"]["mean"] == 0.55
    assert system["all"]["score"]["mean"] == pytest.approx(
        (PUMP_A.official_score + PUMP_B.official_score) / 2, abs=0
    )


def test_intervals_stand_beside_the_cells():
    def interval(value):
        return {quantity: Interval(value, value - 0.1, value + 0.1) for quantity in QUANTITIES}

    spread = Uncertainty({"pump": interval(0.5), "fan": interval(0.8)}, interval(0.6), 100, 0.95)
    systems = {"eat-near": [PUMP_A], "eat-fusion": [PUMP_B]}
    table = results_table(systems, published=False, intervals={"eat-near": spread})
    rows = {(row[0], row[1]): row[2:] for row in cells(to_markdown(table))}
    assert rows["pump", "AUC (source)"] == ["50.00 [40.00, 60.00]", "60.00"]
    assert rows["All (hmean)", "score"][0] == "63.18 [50.00, 70.00]"
    (row,) = (
        row
        for row in csv.DictReader(io.StringIO(to_csv(table)))
        if (row["machine"], row["quantity"]) == ("fan", "pauc")
    )
    assert (row["eat-near"], row["eat-near low"], row["eat-near high"]) == ("55.00", "70.00", "90.00")
    assert "eat-fusion low" not in row
    tree = json.loads(to_json(table))
    assert tree["systems"][0]["machines"]["pump"]["score"]["interval"] == [0.4, 0.6]
    assert tree["systems"][1]["machines"]["pump"]["score"]["interval"] is None
    with pytest.raises(ValueError, match="several seeds"):
        results_table({"eat-near": [PUMP_A, PUMP_B]}, intervals={"eat-near": spread})


def test_terminal_shows_the_same_figures():
    table = results_table({"eat-near": [PUMP_A, PUMP_B]}, published=False)
    console = Console(width=100, file=io.StringIO())
    console.print(to_rich(table, title="Table 1"))
    shown = console.file.getvalue()
    assert "Table 1" in shown
    assert all(row[-1] in shown for row in cells(to_markdown(table))[2:])


def test_seeds_over_different_machines_are_refused():
    with pytest.raises(ValueError, match="same machines"):
        results_table({"eat-near": [PUMP_A, results_of(("pump", (0.5, 0.5, 0.5)))]})
    with pytest.raises(ValueError, match="same machines"):
        results_table({"eat-near": []})


def test_published_table_prints_and_marks():
    text = to_markdown(published_table())
    rows = {(row[0], row[1]): row[2:] for row in cells(text)}
    assert rows["valveEmu", "score"] == ["56.66 †", "54.26", "74.60"]
    assert rows["All (hmean)", "score"] == ["56.66", "57.66", "64.49 †"]
    assert rows["All (hmean)", "AUC (target)"] == ["50.85 †", "54.24", "68.48"]
    assert text.count("†") == 3 + 4
    assert "valveEmu, score: Table 1 prints 56.66, but the figures in Table 1 give 63.22." in text
    assert "section 4 prints 48.73, but the figures in Table 1 give 50.85." in text
