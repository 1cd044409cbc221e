"""From a folder to its clips."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.data.layouts import Dataset, read_dataset, require_training_clips
from nearfar.errors import InputError


def train_name(index: int, domain: str = "source", suffix: str = ".wav") -> str:
    return f"section_00_{domain}_train_normal_{index:04d}_spd_1{suffix}"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two machines: a fan with both splits, a hidden-label Sander; written in an unsorted order."""
    folder = tmp_path / "data"
    touch(folder / "fan" / "train", train_name(2), train_name(0), train_name(1, "target"))
    touch(folder / "fan" / "test", "section_00_source_test_anomaly_0000_spd_1.wav")
    touch(folder / "Sander" / "train", train_name(0, suffix=".flac"))
    touch(folder / "Sander" / "test", "section_00_0001.wav", "section_00_0000.wav")
    return folder


def test_clips_by_machine_and_split_in_the_order_of_names(root):
    dataset = read_dataset(root)
    assert dataset.root == root
    assert dataset.machines == ("Sander", "fan")
    assert [clip.name for clip in dataset.train("fan")] == sorted(
        [train_name(0), train_name(2), train_name(1, "target")]
    )
    assert [clip.name for clip in dataset.test("Sander")] == ["section_00_0000.wav", "section_00_0001.wav"]
    assert [clip.path for clip in dataset.train("Sander")] == [
        root / "Sander/train" / train_name(0, suffix=".flac")
    ]
    assert len(dataset.clips) == 7
    assert dataset.warnings == ()


def test_clips_are_sorted_whatever_order_they_come_in(root):
    dataset = read_dataset(root)
    shuffled = Dataset(root, dataset.clips[::-1])
    assert shuffled.train("fan") == dataset.train("fan")
    assert shuffled.test("Sander") == dataset.test("Sander")


def test_suffixes_in_capitals(root):
    touch(root / "fan" / "train", train_name(7, suffix=".WAV"))
    assert train_name(7, suffix=".WAV") in [clip.name for clip in read_dataset(root).train("fan")]


def test_the_root_may_be_one_machine(root, monkeypatch):
    dataset = read_dataset(root / "fan")
    assert dataset.machines == ("fan",)
    assert len(dataset.clips) == 4
    monkeypatch.chdir(root / "fan")
    assert read_dataset(Path()).machines == ("fan",)
    monkeypatch.chdir(root / "fan" / "test")
    assert read_dataset(Path("..")).machines == ("fan",)


def test_a_linked_machine_folder_keeps_the_name_of_the_link(root, tmp_path):
    (root / "ToyCar").symlink_to(touch(tmp_path / "ToyCar_r2" / "train", train_name(0)).parent)
    assert read_dataset(root).machines == ("Sander", "ToyCar", "fan")


def test_companion_files_give_no_warning(root):
    touch(root, "README.md", "MANIFEST.csv", ".DS_Store", "LICENSE")
    touch(root / "fan", "attributes_00.csv", "._attributes_00.csv")
    touch(root / "fan" / "train", "._" + train_name(0), ".hidden")
    touch(root / "__MACOSX" / "fan" / "train", "._" + train_name(0))
    dataset = read_dataset(root)
    assert dataset.warnings == ()
    assert len(dataset.clips) == 7


def test_files_that_are_not_read_give_warnings(root):
    touch(root, "dev_fan.zip")
    touch(root / "notes", "x.txt")
    touch(root / "fan" / "supplemental", train_name(0))
    touch(root / "fan" / "train", "a.mp3", "b.mp3")
    (root / "fan" / "train" / "folder.wav").mkdir()
    touch(root / "valve" / "test")
    dataset = read_dataset(root)
    assert dataset.warnings == (
        "data: folders that are not read (1), such as notes",
        "data: files that are not read (1), such as dev_fan.zip",
        "fan: folders that are not read (1), such as supplemental",
        "fan/train: folders that are not read (1), such as folder.wav",
        "fan/train: files that are not read (2), such as a.mp3",
        "valve/test holds no WAV or FLAC file",
    )
    assert len(dataset.clips) == 7
    assert "valve" not in dataset.machines


def expect(error: InputError, where: Path, found: str, expected: str, remedy: str) -> None:
    assert error.where == where
    assert found in error.found
    assert expected in error.expected
    assert remedy in error.remedy
    assert str(where) in str(error)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path / "nowhere")
    expect(caught.value, tmp_path / "nowhere", "no such folder", "<machine>/{train,test}", "Check the path")


def test_a_file_for_a_folder(root):
    touch(root, "data.zip")
    with pytest.raises(InputError) as caught:
        read_dataset(root / "data.zip")
    expect(caught.value, root / "data.zip", "a file", "a folder", "unpack")


def test_no_machine(tmp_path):
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)
    expect(caught.value, tmp_path, "2 entries", "a train or a test folder", "Give the folder that holds")


def test_no_machine_with_the_right_folder_further_down(root):
    with pytest.raises(InputError) as caught:
        read_dataset(root.parent)
    expect(caught.value, root.parent, "1 entries", "<root>/<machine>", f"Give {root} instead")


def test_a_split_folder_for_the_root(root):
    with pytest.raises(InputError) as caught:
        read_dataset(root / "fan" / "train")
    expect(caught.value, root / "fan/train", "3 entries", "<root>/<machine>", f"Give {root / 'fan'} instead")


def test_only_an_empty_test_folder(tmp_path):
    touch(tmp_path / "fan" / "test")
    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)
    expect(caught.value, tmp_path, "no WAV or FLAC file in", "machine folders", "Give the folder")


def test_empty_training_folder(root):
    empty = touch(root / "valve" / "train", "attributes_00.csv")
    with pytest.raises(InputError) as caught:
        read_dataset(root)
    expect(caught.value, empty, "without WAV or FLAC", "normal recordings", "Copy the training clips there")


def test_a_name_outside_the_grammar(root):
    touch(root / "fan" / "train", "normal_id_00_00000000.wav")
    with pytest.raises(InputError) as caught:
        read_dataset(root)
    expect(
        caught.value,
        root / "fan/train/normal_id_00_00000000.wav",
        "'normal_id_00_00000000.wav'",
        "section_NN_",
        "Rename the file",
    )


def test_one_clip_as_wav_and_as_flac(root):
    touch(root / "fan" / "train", train_name(0, suffix=".flac"))
    with pytest.raises(InputError) as caught:
        read_dataset(root)
    expect(
        caught.value,
        root / "fan/train" / train_name(0),
        f"the same clip as {train_name(0, suffix='.flac')}",
        "each clip once",
        "Remove one of the two",
    )


def test_a_test_machine_without_training_clips(root):
    touch(root / "valve" / "test", "section_00_0000.wav", "section_00_0001.wav")
    dataset = read_dataset(root)
    require_training_clips(dataset, ["fan", "Sander"])
    with pytest.raises(InputError) as caught:
        require_training_clips(dataset, dataset.machines)
    expect(
        caught.value,
        root,
        "2 test clips and no training clips of the machine valve",
        "training clips of every machine",
        "valve/train",
    )


def test_real_folders(shared):
    dataset = read_dataset(shared / "data" / "realmix")
    assert dataset.machines == ("compressor", "motor", "uav")
    sizes = {machine: (len(dataset.train(machine)), len(dataset.test(machine))) for machine in dataset.machines}
    assert sizes == {"compressor": (60, 0), "motor": (100, 100), "uav": (190, 120)}
