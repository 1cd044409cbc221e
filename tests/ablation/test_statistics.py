"""Ranks, leave-one-machine-out and paired differences of an ablation, against loops over the same numbers."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from nearfar.ablation.grid import Skipped
from nearfar.ablation.statistics import Ablation, ablation
from nearfar.ablation.tables import to_csv, to_json, to_markdown
from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import compare

MACHINES = ("drill", "fan", "pump")
RESAMPLES = 200


def scored(seed: int, help_on: str = "") -> list[MachineScores]:
    """Scores of 8 clips per machine, domain and label; anomalies score higher, more so on one machine."""
    random = np.random.default_rng(seed)
    out = []
    for machine in MACHINES:
        names, values = [], []
        for domain in ("source", "target"):
            for label, shift in (("normal", 0.0), ("anomaly", 2.0 if machine == help_on else 0.5)):
                for index in range(8):
                    names.append(f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav")
                    values.append(shift + random.standard_normal())
        out.append(MachineScores(machine, "00", tuple(names), np.array(values)))
    return out


POINTS = [({"a": str(seed), "b": helped}, scored(seed, helped)) for seed in (1, 2) for helped in MACHINES]
REFERENCE = scored(9)
TRUTH = GroundTruth.from_names(REFERENCE)


@pytest.fixture(scope="module")
def table() -> Ablation:
    return ablation(POINTS, "reference", REFERENCE, TRUTH, resamples=RESAMPLES)


def official(scores: list[MachineScores]) -> float:
    return evaluate_scores(scores, TRUTH).official_score


def test_rows_are_ranked_by_official_score(table: Ablation) -> None:
    totals = sorted((official(scores) for _, scores in POINTS), reverse=True)
    assert [row.results.official_score for row in table.rows] == totals
    assert [row.rank for row in table.rows] == [1, 2, 3, 4, 5, 6]


def test_each_difference_is_that_of_a_comparison_alone(table: Ablation) -> None:
    for values, scores in POINTS:
        (row,) = (row for row in table.rows if row.values == values)
        assert [row.difference] == compare([[scores]], [REFERENCE], TRUTH, resamples=RESAMPLES)


def test_scores_and_ranks_without_a_machine(table: Ablation) -> None:
    for machine in MACHINES:
        without = {
            tuple(values.values()): official([entry for entry in scores if entry.machine != machine])
            for values, scores in POINTS
        }
        for row in table.rows:
            own = without[tuple(row.values.values())]
            assert row.without[machine] == own
            assert row.ranks_without[machine] == 1 + sum(other > own for other in without.values())


def test_the_choice_without_a_machine_is_looked_at_on_it(table: Ablation) -> None:
    assert [entry.machine for entry in table.left_out] == list(MACHINES)
    for entry in table.left_out:
        others = [official([s for s in scores if s.machine != entry.machine]) for _, scores in POINTS]
        on_it = [official([s for s in scores if s.machine == entry.machine]) for _, scores in POINTS]
        choice = int(np.argmax(others))
        assert entry.chosen == POINTS[choice][0]
        assert entry.score == pytest.approx(on_it[choice])
        assert entry.best == pytest.approx(max(on_it))
        assert entry.rank == 1 + sum(value > on_it[choice] + 1e-12 for value in on_it)
        assert entry.against == pytest.approx(official([s for s in REFERENCE if s.machine == entry.machine]))


def test_equal_scores_share_a_rank() -> None:
    twice = [({"a": "x"}, scored(1)), ({"a": "y"}, scored(1)), ({"a": "z"}, scored(1, "fan"))]
    ranks = {row.values["a"]: row.rank for row in ablation(twice, "r", REFERENCE, TRUTH, resamples=10).rows}
    assert ranks == {"z": 1, "x": 2, "y": 2}


def test_one_machine_alone_has_nothing_to_leave_out() -> None:
    alone = [({"a": "x"}, scored(1)[:1])]
    table = ablation(alone, "r", REFERENCE[:1], TRUTH, resamples=10)
    assert table.left_out == ()
    assert "left out" not in to_markdown(table, (), ())


def test_the_files_say_the_same(table: Ablation) -> None:
    skipped = (Skipped({"a": "3", "b": "fan"}, "no such layer"),)
    tree = json.loads(to_json(table, skipped, ("Made-up scores.",)))
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["values"] for row in tree["rows"]] == [{"a": row["a"], "b": row["b"]} for row in rows]
    for ours, line, row in zip(tree["rows"], rows, table.rows, strict=True):
        assert ours["score"] == row.results.official_score == pytest.approx(float(line["score"]) / 100)
        assert ours["machines"]["fan"]["auc_target"] == pytest.approx(float(line["fan auc_target"]) / 100)
        assert ours["difference"]["interval"][0] == pytest.approx(float(line["difference_low"]) / 100)
        assert ours["without"]["pump"]["rank"] == int(line["rank without pump"])
    assert tree["skipped"] == [{"values": {"a": "3", "b": "fan"}, "reason": "no such layer"}]
    text = to_markdown(table, skipped, ("Made-up scores.",))
    assert text.startswith("Made-up scores.")
    assert f"{100 * table.rows[0].results.official_score:.2f}" in text
    assert "1 × no such layer" in text


def test_no_points_or_other_clips_are_refused() -> None:
    with pytest.raises(InputError, match="no combination"):
        ablation([], "r", REFERENCE, TRUTH)
    with pytest.raises(InputError, match="only one of them"):
        ablation(POINTS[:1], "r", REFERENCE[:2], TRUTH, resamples=10)
