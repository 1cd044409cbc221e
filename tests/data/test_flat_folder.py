"""A plain folder of recordings of one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.data.flat_folder import is_flat_folder, read_flat_folder
from nearfar.errors import InputError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_recordings_are_normal_ones_of_a_machine_called_as_the_folder(tmp_path: Path) -> None:
    folder = touch(tmp_path / "pump 7", "b.flac", "a.WAV", "notes.txt", ".hidden.wav")
    assert is_flat_folder(folder)
    dataset = read_flat_folder(folder)
    assert [(c.name, c.machine, c.split, c.label, c.domain) for c in dataset.clips] == [
        ("a.WAV", "pump 7", "train", "normal", "source"),
        ("b.flac", "pump 7", "train", "normal", "source"),
    ]
    assert dataset.oddities == ("pump 7: files that are not read (1), such as notes.txt",)
    assert read_flat_folder(folder, "lathe").machines == ("lathe",)


@pytest.mark.parametrize("name", ["train", "test", "normal", "Normal", "supplemental"])
def test_a_part_of_a_machines_folder_is_none(tmp_path: Path, name: str) -> None:
    assert not is_flat_folder(touch(tmp_path / name, "a.wav"))


def test_neither_is_a_folder_with_such_a_part_nor_one_without_recordings(tmp_path: Path) -> None:
    folder = touch(tmp_path / "fan", "a.wav")
    assert is_flat_folder(folder)
    (folder / "normal").mkdir()
    assert not is_flat_folder(folder)
    assert not is_flat_folder(touch(tmp_path / "texts", "a.txt"))
    assert not is_flat_folder(tmp_path / "nowhere")


def test_a_name_that_says_anomaly_is_refused_and_a_clip_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b_Anomaly\.wav: found a name that says anomaly"):
        read_flat_folder(touch(tmp_path / "fan", "a.wav", "b_Anomaly.wav"))
    with pytest.raises(InputError, match="the same clip"):
        read_flat_folder(touch(tmp_path / "pump", "a.wav", "a.flac"))
