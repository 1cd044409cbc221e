"""Normal recordings for a detector, from a folder of any layout, a plain folder or a list of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.data import Clip, Dataset, read_dataset, read_normals
from nearfar.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def clips_of(dataset: Dataset) -> list[tuple[str, str, str, str | None, str | None]]:
    return [(c.name, c.machine, c.split, c.label, c.domain) for c in dataset.clips]


def test_a_plain_folder_is_one_machine_named_after_it(tmp_path: Path) -> None:
    folder = touch(tmp_path / "pump 7", "b.flac", "a.WAV", "notes.txt", ".hidden.wav")
    dataset = read_normals(folder)
    assert clips_of(dataset) == [
        ("a.WAV", "pump 7", "train", "normal", "source"),
        ("b.flac", "pump 7", "train", "normal", "source"),
    ]
    assert (dataset.root, dataset.layout) == (folder, "own")
    assert dataset.warnings == ("pump 7: files that are not read (1), such as notes.txt",)
    assert read_normals(str(folder), "lathe").machines == ("lathe",)


@pytest.mark.parametrize("name", ["train", "test", "normal", "Normal", "supplemental"])
def test_a_part_of_a_machines_folder_is_no_plain_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="none of them a machine's folder"):
        read_normals(touch(tmp_path / name, "a.wav"))


def test_neither_is_a_folder_with_such_a_part_nor_one_without_recordings(tmp_path: Path) -> None:
    folder = touch(tmp_path / "fan", "a.wav")
    assert len(read_normals(folder).clips) == 1
    touch(folder / "normal", "b.wav")
    assert [clip.path.name for clip in read_normals(folder).clips] == ["b.wav"]
    with pytest.raises(InputError, match="none of them a machine's folder"):
        read_normals(touch(tmp_path / "texts", "a.txt"))
    with pytest.raises(InputError, match="no such folder"):
        read_normals(tmp_path / "nowhere")


def test_a_name_of_an_anomaly_is_refused_and_two_formats_of_one_name_are_two_recordings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'b_Anomaly\.wav: found a name with "anomal" in a folder'):
        read_normals(touch(tmp_path / "fan", "a.wav", "b_Anomaly.wav"))
    assert len(read_normals(touch(tmp_path / "pump", "a.wav", "a.flac")).clips) == 2, (
        "copies are found by their sound"
    )


def test_a_folder_of_machines_gives_training_clips(tmp_path: Path) -> None:
    for machine in ("fan", "valve"):
        touch(tmp_path / machine / "train", "section_00_source_train_normal_0000_noAttribute.wav")
        touch(tmp_path / machine / "test", "section_00_source_test_anomaly_0000_noAttribute.wav")
    touch(tmp_path / "Sander" / "test", "section_00_0000.wav")
    both, fan = read_normals(tmp_path), read_normals(tmp_path, "fan")
    assert (both.machines, fan.machines) == (("fan", "valve"), ("fan",))
    assert both.root == fan.root == tmp_path
    assert {clip.split for clip in both.clips} == {"train"}
    assert read_normals(read_dataset(tmp_path), "fan") == fan
    with pytest.raises(
        InputError, match="found no normal recordings of Sander; expected those of fan, valve"
    ) as e:
        read_normals(tmp_path, "Sander")
    assert e.value.where == tmp_path


def test_listed_files_have_their_common_parent_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [touch(tmp_path / day, "a.wav") / "a.wav" for day in ("monday", "tuesday")]
    dataset = read_normals(paths, "pump")
    assert dataset.root == tmp_path
    assert clips_of(dataset) == [("a.wav", "pump", "train", "normal", "source")] * 2
    assert read_normals(paths[:1]).root == tmp_path / "monday"
    assert read_normals(paths[:1]).machines == ("machine",)
    monkeypatch.chdir(tmp_path)
    assert read_normals([str(path.relative_to(tmp_path)) for path in paths]).root == tmp_path


def test_listed_test_clips_are_refused_and_an_empty_list(tmp_path: Path) -> None:
    anomaly = Clip(tmp_path / "a.wav", "fan", "00", "test", "source", "anomaly", 0)
    with pytest.raises(InputError, match=r"a\.wav: found a test clip"):
        read_normals([anomaly])
    with pytest.raises(InputError, match="recordings: found none"):
        read_normals([])
