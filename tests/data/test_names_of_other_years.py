"""The file names of earlier years, and folders as each year publishes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile as sf

from nearfar.data.audio import read_waveform
from nearfar.data.clips import edition_of, parse_2020, parse_2021, parse_test_name
from nearfar.data.layouts import read_dataset
from nearfar.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "section", "label", "index"),
    [
        ("normal_id_00_00000000.wav", "train", "00", "normal", 0),
        ("normal_id_06_00000999.wav", "test", "06", "normal", 999),
        ("anomaly_id_04_00000264.flac", "test", "04", "anomaly", 264),
        ("id_05_00000012.wav", "test", "05", None, 12),
    ],
)
def test_names_of_2020(name, split, section, label, index):
    clip = parse_2020(Path("fan") / split / name, "fan", split)
    assert (clip.section, clip.domain, clip.label, clip.index, clip.attributes) == (
        section,
        "source",
        label,
        index,
        (),
    )
    assert (clip.name, clip.machine, clip.split) == (name, "fan", split)


@pytest.mark.parametrize(
    ("folder", "name", "section", "domain", "label", "index", "attributes"),
    [
        ("train", "section_00_source_train_normal_0000_strength_1_ambient.wav", "00", "source", "normal", 0,
         (("condition", "strength_1_ambient"),)),
        ("train", "section_02_target_train_normal_0002_0_g_25_mm_2000_mV_none.wav", "02", "target", "normal", 2,
         (("condition", "0_g_25_mm_2000_mv_none"),)),
        ("train", "section_03_source_train_normal_0999_noAttribute.wav", "03", "source", "normal", 999, ()),
        ("source_test", "section_00_source_test_normal_0099.wav", "00", "source", "normal", 99, ()),
        ("target_test", "section_01_target_test_anomaly_0000.wav", "01", "target", "anomaly", 0, ()),
        ("target_test", "section_05_target_test_0199.wav", "05", "target", None, 199, ()),
    ],
)  # fmt: skip
def test_names_of_2021(folder, name, section, domain, label, index, attributes):
    split = "train" if folder == "train" else "test"
    clip = parse_2021(Path("fan") / folder / name, "fan", split)
    assert (clip.section, clip.domain, clip.label, clip.index) == (section, domain, label, index)
    assert clip.attributes == attributes
    assert clip.split == split


@pytest.mark.parametrize(
    ("parse", "path", "split", "found", "expected"),
    [
        (parse_2020, "train/anomaly_id_00_00000000.wav", "train", "not called normal", "normal_id_NN_"),
        (parse_2020, "train/id_00_00000000.wav", "train", "not called normal", "normal_id_NN_"),
        (parse_2020, "test/normal_id_0_00000000.wav", "test", "normal_id_0_", "normal_id_NN_"),
        (parse_2020, "test/normal_id_00_0000.wav", "test", "normal_id_00_0000.wav", "normal_id_NN_"),
        (parse_2021, "source_test/section_00_target_test_normal_0000.wav", "test",
         "target domain in the folder source_test", "source_test and target_test"),
        (parse_2021, "source_test/section_00_source_train_normal_0000_a.wav", "test", "train_", "section_NN_"),
        (parse_2021, "train/section_00_source_train_anomaly_0000_a.wav", "train", "train_anomaly", "section_NN_"),
        (parse_2021, "train/section_00_source_train_normal_0000.wav", "train", "0000.wav", "{attributes}"),
    ],
)  # fmt: skip
def test_names_outside_their_year(parse, path, split, found, expected):
    with pytest.raises(InputError) as caught:
        parse(Path(path), "fan", split)
    assert found in caught.value.found
    assert expected in caught.value.expected
    assert caught.value.where == Path(path)
    assert caught.value.remedy.startswith("Rename the file")


@pytest.mark.parametrize(
    ("name", "edition", "label"),
    [
        ("normal_id_00_00000000.wav", "dcase2020", "normal"),
        ("id_00_00000000.wav", "dcase2020", None),
        ("section_00_source_test_anomaly_0000.wav", "dcase2021", "anomaly"),
        ("section_03_target_test_0000.wav", "dcase2021", None),
        ("section_01_source_test_anomaly_0017_wt_0.wav", "dcase2022", "anomaly"),
        ("section_02_target_test_normal_0049_vel_14_f-n_C.wav", "dcase2022", "normal"),
        ("section_03_test_0199.wav", "dcase2022", None),
        ("section_00_0199.wav", "dcase2022", None),
    ],
)
def test_the_year_of_a_test_clip_follows_from_its_name(name, edition, label):
    assert edition_of(name) == edition
    assert parse_test_name(name, "fan").label == label


def test_a_name_of_no_year():
    with pytest.raises(InputError, match=r"section_NN_\{source\|target\}_train"):
        parse_test_name("fan.wav", "fan")


# --- folders as they are published -----------------------------------------------------------------------------


def test_a_folder_of_2020(tmp_path):
    touch(tmp_path / "ToyCar" / "train", "normal_id_01_00000000.wav", "normal_id_02_00000000.wav")
    touch(tmp_path / "ToyCar" / "test", "normal_id_01_00000000.wav", "anomaly_id_01_00000000.wav")
    touch(tmp_path / "fan" / "train", "normal_id_05_00000000.wav")
    touch(tmp_path / "fan" / "test", "id_05_00000000.wav")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dcase2020"
    assert dataset.warnings == ()
    assert {clip.section for clip in dataset.train("ToyCar")} == {"01", "02"}
    assert [clip.label for clip in dataset.test("ToyCar")] == ["anomaly", "normal"]
    assert [clip.label for clip in dataset.test("fan")] == [None]


def test_a_folder_of_2021(tmp_path):
    fan = tmp_path / "fan"
    touch(fan / "train", *(f"section_0{n}_source_train_normal_0000_strength_1_ambient.wav" for n in range(3)))
    touch(fan / "source_test", "section_00_source_test_normal_0000.wav", "section_00_source_test_anomaly_0000.wav")
    touch(fan / "target_test", "section_00_target_test_normal_0000.wav", "section_00_target_test_anomaly_0000.wav")
    touch(tmp_path / "pump" / "train", "section_00_target_train_normal_0002_none.wav")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dcase2021"
    assert dataset.warnings == ()
    assert [clip.section for clip in dataset.train("fan")] == ["00", "01", "02"]
    assert {(clip.domain, clip.label) for clip in dataset.test("fan")} == {
        ("source", "normal"), ("source", "anomaly"), ("target", "normal"), ("target", "anomaly"),
    }  # fmt: skip
    assert len({clip.name for clip in dataset.test("fan")}) == 4
    assert dataset.train("pump")[0].attributes == (("condition", "none"),)


def test_a_folder_of_2021_whose_tests_are_merged(tmp_path):
    fan = tmp_path / "fan"
    touch(fan / "train", "section_00_source_train_normal_0000_strength_1_ambient.wav")
    touch(fan / "test", "section_00_source_test_normal_0000.wav", "section_03_target_test_0000.wav")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dcase2021"
    assert [(clip.domain, clip.label) for clip in dataset.test("fan")] == [("source", "normal"), ("target", None)]


def test_a_folder_of_2022(tmp_path):
    valve = tmp_path / "valve"
    touch(valve, "attributes_00.csv", "attributes_01.csv")
    touch(valve / "train", "section_00_source_train_normal_0000_pat_00.wav",
          "section_02_target_train_normal_0009_v1pat_04_v2pat_05.wav")  # fmt: skip
    touch(valve / "test", "section_03_test_0000.wav", "section_00_source_test_anomaly_0022_pat_01.wav")
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "dcase2022"
    assert dataset.warnings == ()
    assert dataset.train("valve")[1].attributes == (("v1pat", "04"), ("v2pat", "05"))
    assert {clip.section for clip in dataset.test("valve")} == {"00", "03"}


@pytest.mark.parametrize(
    "name", ["section_00_machine_0001_noAttribute.wav", "section_00_noise_0001.wav", "section_00_0001.wav"]
)
def test_the_supplemental_recordings_of_2025_are_neither_training_nor_test(tmp_path, name):
    touch(tmp_path / "AutoTrash" / "train", "section_00_source_train_normal_0000_noAttribute.wav")
    touch(tmp_path / "AutoTrash" / "supplemental", name, "._" + name)
    dataset = read_dataset(tmp_path)
    assert [clip.split for clip in dataset.clips] == ["train"]
    assert dataset.warnings == (
        "AutoTrash/supplemental: 1 recordings of only the machine or only noise, which are neither training "
        f"nor test clips and are not read, such as {name}",
    )


def test_a_single_name_of_another_year_is_refused(tmp_path):
    touch(tmp_path / "fan" / "test", "normal_id_00_00000000.wav", "anomaly_id_00_00000000.wav")
    touch(tmp_path / "fan" / "test", "section_00_0000.wav")
    with pytest.raises(InputError, match=r"section_00_0000.*expected normal_id_NN"):
        read_dataset(tmp_path)


# --- real recordings -------------------------------------------------------------------------------------------


def test_real_recordings_of_2020(shared):
    dataset = read_dataset(shared / "data" / "formats" / "dcase2020")
    assert dataset.layout == "dcase2020"
    assert dataset.machines == ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
    for machine in dataset.machines:
        anomalous, normal = dataset.test(machine)
        assert (anomalous.label, normal.label) == ("anomaly", "normal")
        assert anomalous.section == ("01" if machine.startswith("Toy") else "00")
        with pytest.raises(InputError, match="mono"):
            read_waveform(normal.path)
        assert read_waveform(normal.path, ("near",)).shape[1] in (160_000, 176_000)


@pytest.mark.parametrize(("near", "far"), [(0, 1), (6, 3), (7, 0)])
def test_real_recordings_of_eight_microphones(shared, near, far):
    for path in sorted((shared / "data" / "formats" / "mimii_8ch").glob("*.wav")):
        sound, rate = sf.read(path, dtype="float32")
        assert (rate, sound.shape[1]) == (16_000, 8)
        waveform = read_waveform(path, near=near, far=far)
        assert (waveform == sound[:, [near, far]].T).all()
