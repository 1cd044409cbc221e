"""Score files: the evaluator's form, exact round trips, and every way a file can be wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import (
    MachineDecisions,
    MachineScores,
    clip_name,
    holds_scores,
    read_decisions,
    read_scores,
    remove_others,
    write_decisions,
    write_scores,
)


def scores_of(
    machine="fan", section="00", names=("section_00_0000.wav", "section_00_0001.wav"), values=(2.5, -1.0)
):
    return MachineScores(machine, section, tuple(names), np.array(values))


def test_writes_the_evaluators_form(tmp_path):
    (path,) = write_scores(tmp_path / "new" / "folder", [scores_of()])
    assert path.name == "anomaly_score_fan_section_00_test.csv"
    assert path.read_bytes() == b"section_00_0000.wav,2.5\nsection_00_0001.wav,-1.0\n"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no scratch file stays behind"


def test_scores_come_back_bit_for_bit(tmp_path_factory):
    @given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
    def check(values):
        folder = tmp_path_factory.mktemp("scores")
        names = tuple(f"section_00_{index:04d}.wav" for index in range(len(values)))
        write_scores(folder, [scores_of(names=names, values=values)])
        (back,) = read_scores(folder)
        assert (back.machine, back.section, back.names) == ("fan", "00", names)
        np.testing.assert_array_equal(back.scores.view(np.uint64), np.array(values).view(np.uint64))

    check()


def test_a_folder_of_several_runs_is_sent_to_one(tmp_path):
    write_scores(tmp_path / "seed_0" / "ae-mse" / "scores", [scores_of()])
    with pytest.raises(InputError) as caught:
        read_scores(tmp_path)
    assert caught.value.remedy == f"Give the folder of one run, such as {tmp_path / 'seed_0' / 'ae-mse'}"


def test_a_folder_holds_the_very_scores_or_not(tmp_path):
    assert not holds_scores(tmp_path, [scores_of()])
    write_scores(tmp_path, [scores_of(), scores_of("pump")])
    assert holds_scores(tmp_path, [scores_of("pump"), scores_of()])
    assert not holds_scores(tmp_path, [scores_of()])
    assert not holds_scores(tmp_path, [scores_of(), scores_of("valve")])
    almost = scores_of("pump")
    almost.scores[0] = np.nextafter(almost.scores[0], 9)
    assert not holds_scores(tmp_path, [scores_of(), almost])
    renamed = tuple(f"section_00_{index:04d}.wav" for index in range(5, 5 + len(almost.names)))
    assert not holds_scores(tmp_path, [scores_of(), scores_of("pump", names=renamed)])


def test_files_of_other_machines_and_sections_are_removed(tmp_path):
    write_scores(tmp_path, [scores_of(), scores_of("pump"), scores_of("fan", "01")])
    kept = {"decision_result_fan_section_00_test.csv", "truth.csv", "anomaly_score_notes.csv"}
    for name in (*kept, "decision_result_pump_section_00_test.csv"):
        (tmp_path / name).write_text("")
    remove_others(tmp_path, [scores_of()])
    assert {path.name for path in tmp_path.iterdir()} == kept | {"anomaly_score_fan_section_00_test.csv"}


def test_reads_machines_in_the_order_of_the_reports_table(tmp_path):
    for machine in ("valveEmu", "ToyCarEmu", "bearingEmu", "ToyCar", "fan"):
        write_scores(tmp_path, [scores_of(machine)])
    write_scores(tmp_path, [scores_of("fan", "01")])
    (tmp_path / "decision_result_fan_section_00_test.csv").write_text("not a score file")
    order = [(entry.machine, entry.section) for entry in read_scores(tmp_path)]
    assert order == [
        ("bearingEmu", "00"),
        ("fan", "00"),
        ("fan", "01"),
        ("ToyCar", "00"),
        ("ToyCarEmu", "00"),
        ("valveEmu", "00"),
    ]


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("anomaly_score_DCASE2026T2ToyCar_section_00_test_seed13711_id(0_).csv", "ToyCar"),
        ("anomaly_score_DCASE2026T2Sander_section_00_test_seed13711_id(0_)_Eval.csv", "Sander"),
        ("anomaly_score_my_own_pump_section_00_test.csv", "my_own_pump"),
    ],
)
def test_reads_the_baselines_names_too(tmp_path, name, machine):
    (tmp_path / name).write_text("section_00_0000.wav,1\r\nsection_00_0001.wav,2e-3\r\n")
    (entry,) = read_scores(tmp_path)
    assert (entry.machine, entry.section, entry.scores.tolist()) == (machine, "00", [1.0, 0.002])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "an empty file"),
        (b"file_name,anomaly_score\nsection_00_0000.wav,1\n", "the score 'anomaly_score' in row 1"),
        (b"section_00_0000.wav,1\nsection_00_0001.wav\n", "'section_00_0001.wav' in row 2"),
        (b"section_00_0000.wav,1,0\n", "'section_00_0000.wav,1,0' in row 1"),
        (b"section_00_0000.wav,1\n\nsection_00_0001.wav,1\n", "'' in row 2"),
        (b",1\n", "',1' in row 1"),
        (b"section_00_0000.wav,nan\n", "the score nan for section_00_0000.wav"),
        (b"section_00_0000.wav,-inf\n", "the score -inf for section_00_0000.wav"),
        (b"section_00_0000.wav,1\nsection_00_0000.wav,2\n", "section_00_0000.wav more than once"),
        (b"\xff\xfe\x00", "something that is not CSV text"),
        (b'"section_00_0000.wav,1\n', "something that is not CSV text"),
    ],
)
def test_names_what_is_wrong_with_a_file(tmp_path, content, complaint):
    path = tmp_path / "anomaly_score_fan_section_00_test.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_scores(tmp_path)
    assert error.value.where == path
    assert complaint in error.value.found


def test_names_what_is_wrong_with_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_scores(tmp_path / "absent")
    with pytest.raises(InputError, match="no anomaly_score files"):
        read_scores(tmp_path)
    (tmp_path / "anomaly_score_fan.csv").write_text("section_00_0000.wav,1\n")
    with pytest.raises(InputError, match="a name without machine and section"):
        read_scores(tmp_path)


def test_refuses_two_files_for_one_machine(tmp_path):
    write_scores(tmp_path, [scores_of()])
    twin = "anomaly_score_DCASE2026T2fan_section_00_test_seed13711_id(0_).csv"
    (tmp_path / twin).write_text("section_00_0000.wav,1\n")
    with pytest.raises(InputError, match="a second file for fan section 00"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        scores_of(values=(1.0, np.nan)),
        scores_of(names=("a.wav", "a.wav")),
        scores_of(values=(1.0, 2.0, 3.0)),
    ],
)
def test_writing_something_wrong_leaves_the_old_file(tmp_path, wrong):
    (path,) = write_scores(tmp_path, [scores_of()])
    before = path.read_bytes()
    with pytest.raises(InputError):
        write_scores(tmp_path, [wrong])
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (path,) = write_scores(tmp_path, [scores_of()])
    before = path.read_bytes()

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_scores(tmp_path, [scores_of(values=(7.0, 8.0))])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


NAMES = ("section_00_0000.wav", "section_00_0001.wav", "section_00_0002.wav")


def test_decision_files_are_the_evaluators_and_come_back(tmp_path):
    (path,) = write_decisions(tmp_path, [MachineDecisions("fan", "00", NAMES, np.array([0, 1, 1]))])
    assert path.name == "decision_result_fan_section_00_test.csv"
    assert path.read_text() == "section_00_0000.wav,0\nsection_00_0001.wav,1\nsection_00_0002.wav,1\n"
    (back,) = read_decisions(tmp_path)
    assert (back.machine, back.section, back.names) == ("fan", "00", NAMES)
    assert back.decisions.tolist() == [0, 1, 1]


@pytest.mark.parametrize("text", ["2", "0.5", "", "true", " 1"])
def test_a_decision_is_nought_or_one(tmp_path, text):
    (tmp_path / "decision_result_fan_section_00_test.csv").write_text(f"section_00_0000.wav,0\na.wav,{text}\n")
    with pytest.raises(InputError) as error:
        read_decisions(tmp_path)
    assert error.value.found == f"the decision {text!r} in row 2"


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("a.wav", "a"), ("worn/v1.2/a.FLAC", "worn/v1.2/a"), ("a.2", "a.2"), ("a", "a"), ("a.wav.flac", "a.wav")],
)
def test_clips_are_matched_without_their_audio_suffix(file_name, name):
    assert clip_name(file_name) == name
