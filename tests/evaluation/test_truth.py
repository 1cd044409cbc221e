"""Ground truth from clips, names, truth.csv and the evaluator's folders: the same results, and precise errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nearfar.data.clips import Clip, parse_clip
from nearfar.errors import InputError
from nearfar.evaluation.published import PUBLISHED
from nearfar.evaluation.results import evaluate_decisions, evaluate_scores
from nearfar.evaluation.scorefiles import MachineDecisions, MachineScores, read_scores
from nearfar.evaluation.truth import DEVELOPMENT_MACHINES_2026, GroundTruth, TrueClip, is_dcase2026_development_set

FOLDERS = ("ground_truth_data", "ground_truth_domain", "ground_truth_attributes")
CLIPS = [("source", "normal"), ("target", "anomaly"), ("target", "normal"), ("source", "anomaly")]


def write_truth(root, machine, names, hidden):
    """The three files of a machine: ``names`` encode labels, ``hidden`` are the names in the files."""
    columns = (
        ["1" if "_anomaly_" in name else "0" for name in names],
        ["1" if "_target_" in name else "0" for name in names],
        [name.removesuffix(".wav") for name in names],
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
    names = [f"section_00_{d}_test_{y}_{9 - i:04d}_spd_{i}.wav" for i, (d, y) in enumerate(CLIPS)]
    write_truth(tmp_path, "fan", names, hidden_names(4))
    return tmp_path


def fan(names, scores=(0.1, 0.9, 0.3, 0.2)):
    return MachineScores("fan", "00", tuple(names), np.array(scores[: len(names)]))


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_hidden_clips_get_their_label_and_domain(truth, suffix):
    order = [2, 0, 3, 1]
    names = [hidden_names(4)[place].replace(".wav", suffix) for place in order]
    labels = GroundTruth.from_evaluator(truth).labels(fan(names))
    assert list(labels.domains) == [CLIPS[place][0] for place in order]
    assert labels.anomalous.tolist() == [CLIPS[place][1] == "anomaly" for place in order]


def test_decisions_are_judged_as_well(truth):
    decisions = MachineDecisions("fan", "00", hidden_names(4), np.array([1, 1, 0, 0]))
    (row,) = evaluate_decisions([decisions], GroundTruth.from_evaluator(truth)).machines
    assert row.source == (0, 0, 0), "the one false alarm and the one missed anomaly"
    assert row.target == (1, 1, 1)


def test_score_files_may_list_the_names_of_the_attributes(truth):
    lines = (truth / FOLDERS[2] / "ground_truth_fan_section_00_test.csv").read_text().split()
    names = [line.split(",")[1] + ".wav" for line in lines]
    found = GroundTruth.from_evaluator(truth)
    for hidden, by_attributes in zip(found.labels(fan(hidden_names(4))), found.labels(fan(names)), strict=True):
        assert by_attributes.tolist() == hidden.tolist()


@pytest.mark.parametrize("system", ["mse", "mahala"])
@pytest.mark.parametrize("hide", [True, False])
def test_real_scores_give_the_same_numbers_as_by_their_names(golden_arrays, tmp_path, system, hide):
    entries = read_scores(golden_arrays / "ae_rerun_scores" / system)
    given = []
    for entry in entries:
        names = hidden_names(len(entry.names)) if hide else entry.names
        write_truth(tmp_path, entry.machine, entry.names, names)
        given.append(MachineScores(entry.machine, entry.section, names[::-1], entry.scores[::-1]))
    truth = GroundTruth.from_evaluator(tmp_path)
    truth.require_every_machine(given)
    results, expected = evaluate_scores(given, truth), evaluate_scores(entries, GroundTruth.from_names(entries))
    assert results == expected
    assert results.official_score == pytest.approx({"mse": 0.57194, "mahala": 0.57205}[system], abs=5e-6)


def test_attributes_may_be_absent(truth):
    (truth / FOLDERS[2] / "ground_truth_fan_section_00_test.csv").unlink()
    (truth / FOLDERS[2]).rmdir()
    labels = GroundTruth.from_evaluator(truth).labels(fan(hidden_names(4)))
    assert labels.anomalous.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (hidden_names(3), "found 1 clip of the ground truth missing, such as section_00_0003"),
        (hidden_names(5), "found 1 clip that the ground truth lacks, such as section_00_0004.wav"),
        ((*hidden_names(4), "section_00_0001.flac"), "found 1 clip more than once, such as section_00_0001"),
    ],
)
def test_clips_that_do_not_match(truth, names, complaint):
    with pytest.raises(InputError, match=complaint):
        GroundTruth.from_evaluator(truth).labels(fan(names, (0.1,) * 5))


def test_machines_that_do_not_match(truth):
    found = GroundTruth.from_evaluator(truth)
    other = MachineScores("pump", "00", hidden_names(1), np.array([1.0]))
    with pytest.raises(InputError, match="pump section 00: found no ground truth"):
        found.labels(other)
    with pytest.raises(InputError, match="found no scores of fan section 00"):
        found.require_every_machine([other])
    assert found.evaluable([other]) == [other], (
        "an evaluation machine without ground truth is an error, not left out"
    )


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
        GroundTruth.from_evaluator(truth)
    assert str(path) in str(error.value)


def test_folders_that_are_not_there(truth):
    with pytest.raises(InputError, match="no folder ground_truth_data and no folder ground_truth_domain"):
        GroundTruth.from_evaluator(truth / "ground_truth_data")
    (truth / FOLDERS[1] / "ground_truth_fan_section_00_test.csv").rename(
        truth / FOLDERS[1] / "ground_truth_pump_section_00_test.csv"
    )
    with pytest.raises(InputError, match="in only one of ground_truth_data and ground_truth_domain"):
        GroundTruth.from_evaluator(truth)


# --- clips, names and truth.csv ---------------------------------------------------------------------------------

HEAD = "machine,file_name,label,domain"


def clip(name, label="normal", domain="source"):
    return Clip(Path("x") / name, "pump, old", "00", "test", domain, label, None, (), name)


def own_truth(clips):
    """Of one's own folder, from (machine, file name, label)."""
    return GroundTruth.from_clips(
        (
            Clip(Path(name), machine, "00", "test", "source", label, None, (), name)
            for machine, name, label in clips
        ),
        "own",
    )


def test_what_is_written_comes_back(tmp_path):
    clips = [clip("normal/1.wav"), clip("worn, loud/1.wav", "anomaly", "target"), clip("q/1.wav", None)]
    truth = GroundTruth.from_clips(clips, "own")
    expected = {
        "normal/1": TrueClip("normal", "source", "normal/1.wav"),
        "worn, loud/1": TrueClip("anomaly", "target", "worn, loud/1.wav"),
    }
    assert truth.clips == {("pump, old", "00"): expected}
    assert truth.write_csv(tmp_path / "scores") == tmp_path / "scores" / "truth.csv"
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["truth.csv"]
    assert (tmp_path / "scores" / "truth.csv").read_text() == (
        f'{HEAD}\n"pump, old",normal/1.wav,normal,source\n"pump, old","worn, loud/1.wav",anomaly,target\n'
    )
    back = GroundTruth.from_csv(tmp_path / "scores")
    assert (back.edition, list(back.clips.values())) == ("own", [expected])
    entry = MachineScores("pump, old", "03", ("worn, loud/1.flac", "normal/1.wav"), np.zeros(2))
    assert back.labels(entry).anomalous.tolist() == [True, False], "the table counts for every section"


def test_a_table_is_read_where_names_encode_no_label(tmp_path):
    own = MachineScores("pump", "00", ("normal/1.wav",), np.zeros(1))
    named = MachineScores("fan", "00", ("section_00_source_test_normal_0000_noAttribute.wav",), np.zeros(1))
    assert GroundTruth.of_score_folder(tmp_path, [own]).hides(own), "there is none"
    own_truth([("pump", "normal/1.wav", "normal"), ("fan", named.names[0], "anomaly")]).write_csv(tmp_path)
    assert not GroundTruth.of_score_folder(tmp_path, [own]).hides(own)
    by_name = GroundTruth.of_score_folder(tmp_path, [named])
    assert (by_name.edition, by_name.labels(named).anomalous.tolist()) == ("dcase2022", [False])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no such file"),
        ("", "not CSV text"),
        ("file,label\n", "the header 'file,label'"),
        (f"{HEAD}\npump,a.wav,normal\n", "'pump,a.wav,normal' in row 2"),
        (f"{HEAD}\npump,a.wav,fine,source\n", "in row 2"),
        (f"{HEAD}\npump,a.wav,normal,here\n", "in row 2"),
        (f"{HEAD}\npump,a.wav,normal,source\npump,a.wav,anomaly,source\n", "a.wav of pump again in row 3"),
    ],
)
def test_other_forms_are_refused(tmp_path, text, found):
    if text is not None:
        (tmp_path / "truth.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        GroundTruth.from_csv(tmp_path)
    assert found in caught.value.found
    assert HEAD in caught.value.expected


def test_machines_with_clips_of_one_label_are_left_out_and_named(caplog):
    truth = own_truth(
        [("a", "normal/1.wav", "normal"), ("b", "normal/1.wav", "normal"), ("b", "worn/1.wav", "anomaly")]
    )
    a, b, hidden = (
        MachineScores(machine, "00", names, np.zeros(len(names)))
        for machine, names in (
            ("a", ("normal/1.wav",)),
            ("b", ("normal/1.wav", "worn/1.wav")),
            ("d", ("section_00_0000.wav",)),
        )
    )
    assert truth.evaluable([a, b, hidden]) == [b]
    assert caplog.messages == [
        "a: all test clips are normal, so they are scored but not evaluated",
        "d: all test clips hide their labels, so they are scored but not evaluated",
    ]
    caplog.clear()
    assert truth.evaluable([hidden, hidden]) == []
    assert caplog.messages == [], "an evaluation set is as it should be"
    normals = MachineScores("c", "00", ("section_00_source_test_normal_0000_noAttribute.wav",), np.zeros(1))
    named = GroundTruth.from_names([normals, hidden])
    assert named.evaluable([normals, hidden]) == [normals], "challenge data without anomalies is an error later"
    with pytest.raises(InputError, match="no normal target clips"):
        evaluate_scores([normals], named)


def test_clips_and_their_names_give_the_same_truth():
    names = [f"section_01_{d}_test_{y}_{i:04d}_spd_{i}.wav" for i, (d, y) in enumerate(CLIPS)]
    clips = [parse_clip(Path("data/fan/test") / name, "fan", "test") for name in names]
    training = parse_clip(Path("data/fan/train/section_01_source_train_normal_0000_spd_1.wav"), "fan", "train")
    entry = MachineScores("fan", "01", tuple(names), np.zeros(4))
    assert GroundTruth.from_clips([*clips, training], "dcase2022") == GroundTruth.from_names([entry])


def development_set(machines=DEVELOPMENT_MACHINES_2026, per_group=50):
    names = tuple(
        f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav"
        for domain, label in CLIPS
        for index in range(per_group)
    )
    return [MachineScores(machine, "00", names, np.arange(len(names), dtype=float)) for machine in machines]


def test_the_development_set_of_2026_is_recognised():
    entries = development_set()
    assert is_dcase2026_development_set(entries, GroundTruth.from_names(entries))
    assert set(DEVELOPMENT_MACHINES_2026) == set(PUBLISHED[0].machines)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(development_set(("fan",)), id="one machine of that name"),
        pytest.param(development_set(DEVELOPMENT_MACHINES_2026[:-1]), id="six machines"),
        pytest.param(development_set((*DEVELOPMENT_MACHINES_2026, "pump")), id="an eighth machine"),
        pytest.param(development_set(per_group=49), id="other numbers of clips"),
    ],
)
def test_other_data_is_not_the_development_set_of_2026(entries):
    assert not is_dcase2026_development_set(entries, GroundTruth.from_names(entries))


def test_unbalanced_groups_are_not_the_development_set():
    entries = development_set()
    names = tuple(
        name.replace("_source_test_normal_0000", "_source_test_normal_9999") for name in entries[0].names
    )
    names = (names[0].replace("_normal_", "_anomaly_"), *names[1:])
    entries[0] = MachineScores(entries[0].machine, "00", names, entries[0].scores)
    assert not is_dcase2026_development_set(entries, GroundTruth.from_names(entries))
