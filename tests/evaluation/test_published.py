"""The report's Table 1: what adds up and what does not."""

from dataclasses import replace

import pytest
from scipy.stats import hmean

from nearfar.evaluation.published import PUBLISHED, check_published


def test_finds_what_does_not_add_up_and_nothing_else():
    found = {
        (problem.column, problem.machine, problem.quantity, problem.where): (
            problem.printed,
            round(problem.computed, 2),
        )
        for problem in check_published()
    }
    assert found == {
        ("Baseline MSE", "valveEmu", "score", "Table 1"): (56.66, 63.22),
        ("Baseline MSE", None, "auc_target", "section 4"): (48.73, 50.85),
        ("Best Submitted System", None, "score", "Table 1"): (64.49, 64.47),
        ("Best Submitted System", None, "score", "section 4"): (64.49, 64.47),
    }


def test_a_figure_off_by_two_hundredths_is_found():
    column = PUBLISHED[1]
    machines = {**column.machines, "fan": column.machines["fan"]._replace(score=51.77)}
    problems = check_published((replace(column, machines=machines),))
    assert [(problem.machine, problem.quantity) for problem in problems] == [("fan", "score")]


@pytest.mark.parametrize(("place", "official"), [(0, 56.66), (1, 57.66)])
def test_computed_official_scores_are_the_published_totals(place, official):
    column = PUBLISHED[place]
    figures = [figure for row in column.machines.values() for figure in row[:3]]
    assert 100 * column.results().official_score == pytest.approx(hmean(figures), abs=1e-9)
    assert round(100 * column.results().official_score, 2) == official


def test_every_column_has_the_seven_development_machines():
    machines = ["bearingEmu", "fan", "gearboxEmu", "sliderEmu", "ToyCar", "ToyCarEmu", "valveEmu"]
    assert [list(column.machines) for column in PUBLISHED] == [machines] * 3


def test_agrees_with_the_specification_of_the_challenge(shared):
    """The challenge's own table of the baselines, read off another source than the report."""
    lines = (shared / "spec" / "dcase2026.md").read_text(encoding="utf-8").splitlines()
    rows = {cells[1].strip(): cells for line in lines if len(cells := line.split("|")) == 9}
    for place, column in ((2, PUBLISHED[0]), (4, PUBLISHED[1])):
        for machine, row in column.machines.items():
            assert tuple(map(float, rows[machine][place].split("/"))) == row[:3], machine
