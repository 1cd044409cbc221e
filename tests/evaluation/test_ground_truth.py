"""Ground-truth folders: the same results as from names that tell, and precise complaints."""

import numpy as np
import pytest

from nearfar.errors import InputError
from nearfar.evaluation.decisions import evaluate_decisions
from nearfar.evaluation.ground_truth import read_truth, require_every_machine, with_true_names
from nearfar.evaluation.metrics import evaluate_scores, truth_from_names
from nearfar.evaluation.scorefiles import MachineScores, read_scores
from nearfar.thresholds.rules import MachineDecisions

FOLDERS = ("ground_truth_data", "ground_truth_domain", "ground_truth_attributes")
CLIPS = [("source", "normal"), ("target", "anomaly"), ("target", "normal"), ("source", "anomaly")]


def write_truth(root, machine, told, hidden):
    """The three files of a machine: ``told`` are names that tell, ``hidden`` the names they go by."""
    columns = (
        ["1" if "_anomaly_" in name else "0" for name in told],
        ["1" if "_target_" in name else "0" for name in told],
        [name.removesuffix(".wav") for name in told],
    )
    for folder, column in zip(FOLDERS, columns, strict=True):
        path = root / folder / f"ground_truth_{machine}_section_00_test.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name},{text}\n" for name, text in zip(hidden, column, strict=True)))


def hidden_names(count):
    return tuple(f"section_00_{index:04d}.wav" for index in range(count))


@pytest.fixture
def truth(tmp_path):
    """Four clips of a fan; hidden number and number within the group are not the same."""
    told = [f"section_00_{d}_test_{y}_{9 - i:04d}_spd_{i}.wav" for i, (d, y) in enumerate(CLIPS)]
    write_truth(tmp_path, "fan", told, hidden_names(4))
    return tmp_path


def fan(names, scores=(0.1, 0.9, 0.3, 0.2)):
    return MachineScores("fan", "00", tuple(names), np.array(scores[: len(names)]))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_hidden_clips_get_their_label_and_domain(truth, suffix):
    order = [2, 0, 3, 1]
    names = [hidden_names(4)[place].replace(".wav", suffix) for place in order]
    (entry,) = with_true_names([fan(names)], read_truth(truth))
    told = truth_from_names(entry)
    assert list(told.domains) == [CLIPS[place][0] for place in order]
    assert told.anomalous.tolist() == [CLIPS[place][1] == "anomaly" for place in order]
    assert entry.scores.tolist() == [0.1, 0.9, 0.3, 0.2]
    assert len(set(entry.names)) == 4


def test_decisions_are_judged_as_well(truth):
    decisions = MachineDecisions("fan", "00", hidden_names(4), np.array([1, 1, 0, 0]))
    (row,) = evaluate_decisions(with_true_names([decisions], read_truth(truth))).machines
    assert row.source == (0, 0, 0), "the one false alarm and the one missed anomaly"
    assert row.target == (1, 1, 1)


def test_scores_may_go_by_the_names_of_the_attributes(truth):
    told = (truth / FOLDERS[2] / "ground_truth_fan_section_00_test.csv").read_text().split()
    names = [line.split(",")[1] + ".wav" for line in told]
    hidden, by_attributes = with_true_names([fan(hidden_names(4)), fan(names)], read_truth(truth))
    assert by_attributes.names == hidden.names


@pytest.mark.parametrize("system", ["mse", "mahala"])
@pytest.mark.parametrize("hide", [True, False])
def test_real_scores_give_the_same_numbers_as_by_their_names(golden, tmp_path, system, hide):
    entries = read_scores(golden / "ae_rerun_scores" / system)
    given = []
    for entry in entries:
        names = hidden_names(len(entry.names)) if hide else entry.names
        write_truth(tmp_path, entry.machine, entry.names, names)
        given.append(MachineScores(entry.machine, entry.section, names[::-1], entry.scores[::-1]))
    truth = read_truth(tmp_path)
    require_every_machine(given, truth)
    results, expected = evaluate_scores(with_true_names(given, truth)), evaluate_scores(entries)
    assert results == expected
    assert results.official_score == pytest.approx({"mse": 0.57194, "mahala": 0.57205}[system], abs=5e-6)


def test_attributes_may_be_absent(truth):
    (truth / FOLDERS[2] / "ground_truth_fan_section_00_test.csv").unlink()
    (truth / FOLDERS[2]).rmdir()
    (entry,) = with_true_names([fan(hidden_names(4))], read_truth(truth))
    assert truth_from_names(entry).anomalous.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (hidden_names(3), "found 1 clip of the ground truth missing, such as section_00_0003"),
        (hidden_names(5), "found 1 clip that the ground truth does not have, such as section_00_0004.wav"),
        ((*hidden_names(4), "section_00_0001.flac"), "found 1 clip more than once, such as section_00_0001"),
    ],
)
def test_clips_that_do_not_match(truth, names, complaint):
    with pytest.raises(InputError, match=complaint):
        with_true_names([fan(names, (0.1,) * 5)], read_truth(truth))


def test_machines_that_do_not_match(truth):
    known = read_truth(truth)
    stranger = MachineScores("pump", "00", hidden_names(1), np.array([1.0]))
    with pytest.raises(InputError, match="pump section 00: found no ground truth"):
        with_true_names([stranger], known)
    with pytest.raises(InputError, match="found no scores of fan section 00"):
        require_every_machine([stranger], known)


@pytest.mark.parametrize(
    ("folder", "old", "new", "complaint"),
    [
        (FOLDERS[0], "0001.wav,1", "0001.wav,2", "'2' in row 2; expected rows of a file name and 0"),
        (FOLDERS[1], "0001.wav,1", "0001.wav,target", "'target' in row 2"),
        (FOLDERS[0], "section_00_0001", "section_00_0000", "section_00_0000.wav more than once"),
        (FOLDERS[1], "section_00_0001.wav,1\n", "", "section_00_0001 missing; expected the same clips"),
        (FOLDERS[1], "section_00_0001", "section_00_0007", "section_00_0001 missing"),
        (FOLDERS[2], "target_test_anomaly", "target_test_normal", "in row 2; expected target and anomaly"),
        (FOLDERS[2], "section_00_0003", "section_00_0004", "section_00_0003 missing"),
    ],
)
def test_files_that_cannot_be_right(truth, folder, old, new, complaint):
    path = truth / folder / "ground_truth_fan_section_00_test.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=complaint) as error:
        read_truth(truth)
    assert str(path) in str(error.value)


def test_folders_that_are_not_there(truth):
    with pytest.raises(InputError, match="no folder ground_truth_data and no folder ground_truth_domain"):
        read_truth(truth / "ground_truth_data")
    (truth / FOLDERS[1] / "ground_truth_fan_section_00_test.csv").rename(
        truth / FOLDERS[1] / "ground_truth_pump_section_00_test.csv"
    )
    with pytest.raises(InputError, match="in only one of ground_truth_data and ground_truth_domain"):
        read_truth(truth)
