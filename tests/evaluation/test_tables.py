"""Tables: the right figure in the right cell, as text, Markdown, CSV and JSON, and in the terminal."""

import csv
import io
import json
import statistics

import pytest

from nearfar.evaluation.published import PUBLISHED
from nearfar.evaluation.results import MachineResult, Results
from nearfar.evaluation.tables import (
    comparison_to_text,
    comparison_to_tree,
    published_table,
    results_table,
    to_csv,
    to_json,
    to_markdown,
    to_text,
)
from nearfar.evaluation.uncertainty import Comparison, Difference, Interval, Uncertainty
from nearfar.metrics import QUANTITIES, MachineMetrics
from nearfar.rendering import TextRow, TextTable, csv_text, markdown
from nearfar.terminal import show


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
    rows = cells(to_markdown(results_table({"eat-near": [PUMP_A]})))
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
    table = results_table({"eat-near": [PUMP_A, PUMP_B], "eat-fusion": [PUMP_A]})
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


def test_sections_of_one_machine_have_rows_of_their_own():
    results = Results(
        tuple(MachineResult("fan", section, MachineMetrics(0.5, 0.5, 0.5)) for section in ("00", "01"))
    )
    assert results_table({"eat-near": [results]}).machines == ("fan 00", "fan 01")


def test_the_note_is_in_every_rendering(capsys):
    note = "Simulated data [seed 0]: no real machine was recorded."
    table = results_table({"eat-near": [PUMP_A]}, notes=[note])
    show(to_text(table))
    assert note in capsys.readouterr().out
    assert note in to_markdown(table)
    assert all(row["notes"] == note for row in csv.DictReader(io.StringIO(to_csv(table))))
    assert json.loads(to_json(table))["notes"] == [note]


def test_csv_gives_percent_and_its_spread():
    table = results_table({"eat-near": [PUMP_A, PUMP_B], "eat-fusion": [PUMP_A]})
    rows = {(row["machine"], row["quantity"]): row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    assert len(rows) == 12
    row = rows["pump", "auc_source"]
    assert (row["eat-near"], row["eat-near std"], row["eat-fusion"]) == ("55.00", "7.07", "50.00")
    assert "eat-fusion std" not in row


def test_json_gives_all_digits():
    tree = json.loads(to_json(results_table({"eat-near": [PUMP_A, PUMP_B]})))
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
    table = results_table(systems, intervals={"eat-near": spread})
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


def test_terminal_shows_the_same_figures(capsys):
    table = results_table({"eat-near": [PUMP_A, PUMP_B]})
    show(to_text(table, title="Table 1"))
    shown = capsys.readouterr().out
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


COMPARISON = Comparison(
    machines={"fan": Difference(0.02, -0.01, 0.05, 0.9), "pump": Difference(-0.04, -0.08, 0.0, 0.025)},
    overall=Difference(-0.0125, -0.03, 0.01, 0.2),
    without={"fan": Difference(-0.04, -0.08, 0.0, 0.025), "pump": Difference(0.02, -0.01, 0.05, 0.9)},
    resamples=10_000,
    level=0.95,
)


def test_a_comparison_gives_points(capsys):
    table = comparison_to_text(COMPARISON, "eat-near", "ae-mse")
    assert table.headings == ("machine", "difference", "95 % interval", "probability that eat-near is better")
    assert [row.cells for row in table.rows] == [
        ("fan", "+2.00", "[-1.00, +5.00]", "0.900"),
        ("pump", "-4.00", "[-8.00, +0.00]", "0.025"),
        ("All (official score)", "-1.25", "[-3.00, +1.00]", "0.200"),
        ("All without fan", "-4.00", "[-8.00, +0.00]", "0.025"),
        ("All without pump", "+2.00", "[-1.00, +5.00]", "0.900"),
    ]
    show(table)
    shown = capsys.readouterr().out
    for text in ("eat-near minus ae-mse", "[-3.00, +1.00]", "All without pump", "10,000 resamples"):
        assert text in shown


def test_a_comparison_s_tree_gives_fractions():
    tree = comparison_to_tree(COMPARISON, "eat-near", "ae-mse")
    assert tree["all"] == {"difference": -0.0125, "interval": [-0.03, 0.01], "a_better": 0.2}
    assert list(tree["machines"]) == list(tree["without"]) == ["fan", "pump"]
    assert (tree["a"], tree["b"], tree["resamples"], tree["level"]) == ("eat-near", "ae-mse", 10_000, 0.95)


PLAIN = TextTable(
    ("name", "value", "remark"),
    (TextRow(("a|b", "1", "[x]")), TextRow(("c", "2", ""), "strong", ends_group=True)),
    text_columns=(0, 2),
    title="A title",
    notes=("One note.", "Another [note]."),
)


def test_a_text_table_in_markdown():
    assert markdown(PLAIN) == (
        "A title\n\n| name | value | remark |\n| --- | ---: | --- |\n| a\\|b | 1 | [x] |\n| c | **2** |  |\n"
        "\nOne note.\n\nAnother [note].\n"
    )


def test_a_text_table_in_the_terminal(capsys):
    show(PLAIN)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == list(PLAIN.notes)
    assert [line.split() for line in lines if line.split()[:1] in (["a|b"], ["c"])] == [
        ["a|b", "1", "[x]"],
        ["c", "2"],
    ]


def test_csv_quotes_what_it_must():
    assert csv_text(["a", "b"], [["x, y", 0.1], ["", 2]]) == 'a,b\n"x, y",0.1\n,2\n'
