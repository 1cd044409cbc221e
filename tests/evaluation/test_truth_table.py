"""truth.csv: written, read back, and refused where it is of another form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfar.data.clips import Clip
from nearfar.errors import InputError
from nearfar.evaluation.decision_tables import decisions_to_rich, decisions_to_tree
from nearfar.evaluation.decisions import evaluate_decisions
from nearfar.evaluation.scorefiles import MachineScores
from nearfar.evaluation.truth_table import evaluable, read_truth_table, told_by, write_truth_table
from nearfar.thresholds.rules import MachineDecisions

HEAD = "machine,file_name,label,domain"


def clip(name, label="normal", domain="source"):
    return Clip(Path("x") / name, "pump, old", "00", "test", domain, label, None, (), name)


def test_what_is_written_comes_back(tmp_path):
    told = told_by([clip("normal/1.wav"), clip("worn, loud/1.wav", "anomaly", "target"), clip("q/1.wav", None)])
    assert told == {
        ("pump, old", "normal/1.wav"): ("normal", "source"),
        ("pump, old", "worn, loud/1.wav"): ("anomaly", "target"),
    }
    assert write_truth_table(tmp_path / "scores", told) == tmp_path / "scores" / "truth.csv"
    assert read_truth_table(tmp_path / "scores") == told
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["truth.csv"]


def test_there_may_be_none(tmp_path):
    assert read_truth_table(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not CSV text"),
        ("file,label\n", "the header 'file,label'"),
        (f"{HEAD}\npump,a.wav,normal\n", "'pump,a.wav,normal' in row 2"),
        (f"{HEAD}\npump,a.wav,fine,source\n", "in row 2"),
        (f"{HEAD}\npump,a.wav,normal,here\n", "in row 2"),
        (f"{HEAD}\npump,a.wav,normal,source\npump,a.wav,anomaly,source\n", "a.wav of pump again in row 3"),
    ],
)
def test_other_forms_are_refused(tmp_path, text, found):
    (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_truth_table(tmp_path)
    assert found in caught.value.found
    assert HEAD in caught.value.expected


def test_machines_with_clips_of_one_label_are_left_out_and_named(caplog):
    told = {("a", "normal/1.wav"): ("normal", "source"), ("b", "normal/1.wav"): ("normal", "source")}
    told |= {("b", "worn/1.wav"): ("anomaly", "source")}
    a, b = (
        MachineScores(machine, "00", tuple(name for key, name in told if key == machine), np.zeros(1))
        for machine in ("a", "b")
    )
    of_the_challenge = MachineScores(
        "c", "00", ("section_00_source_test_normal_0000_noAttribute.wav",), np.zeros(1)
    )
    hidden = MachineScores("d", "00", ("section_00_0000.wav",), np.zeros(1))
    assert evaluable([a, b, of_the_challenge, hidden], told) == [b, of_the_challenge]
    assert caplog.messages == [
        "a: all test clips are normal, so they are scored but not evaluated",
        "d: all test clips hide their labels, so they are scored but not evaluated",
    ]
    caplog.clear()
    assert evaluable([hidden, hidden], told) == []
    assert caplog.messages == [], "an evaluation set is as it should be"


def test_decisions_on_a_single_domain():
    told = {("b", "normal/1.wav"): ("normal", "source"), ("b", "worn/1.wav"): ("anomaly", "source")}
    decided = MachineDecisions("b", "00", ("normal/1.wav", "worn/1.wav"), np.array([1, 1]))
    results = evaluate_decisions([decided], told)
    assert results.machines[0].target is None
    assert results.harmonic_means == results.machines[0].source == pytest.approx((0.5, 1.0, 2 / 3))
    assert decisions_to_tree(results)["machines"]["b"]["target"] is None
    assert decisions_to_rich(results).row_count == 4
