"""A dataset's headers, selections, groups and clip lengths."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nearfar.data import AudioHeader, Clip, Dataset, audio
from nearfar.data.channel_check import check_channels
from nearfar.data.layouts import machine_lengths
from nearfar.data.summary import summarise
from nearfar.errors import InputError


def write(path: Path, frames: int = 1_600, rate: int = 16_000, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).integers(-999, 999, (frames, channels)).astype(np.int16)
    soundfile.write(path, samples, rate)
    return path


def clip(path: Path, machine: str = "fan", section: str = "00", split: str = "train") -> Clip:
    return Clip(path, machine, section, split, "source", "normal", 0)


def of(*clips: Clip) -> Dataset:
    return Dataset(Path("data"), clips)


def test_each_header_is_read_once_for_all_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read = audio.read_header

    def counted(path: Path) -> AudioHeader:
        opened.append(path)
        return read(path)

    monkeypatch.setattr(audio, "read_header", counted)
    clips = [clip(write(tmp_path / f"{index}.wav"), split="test" if index > 2 else "train") for index in range(5)]
    dataset = of(*clips)
    train = dataset.select(split="train")
    assert list(train.headers()) == [c.path for c in clips[:3]]
    assert sorted(opened) == [c.path for c in clips[:3]]
    summarise(dataset)
    check_channels(dataset)
    assert machine_lengths(dataset, dataset.require_headers()) == ({"fan": 0.1}, [])
    assert dataset.with_clips(clips[:1]).require_headers() == {
        clips[0].path: AudioHeader(16000, 2, 1600, "PCM_16")
    }
    assert sorted(opened) == [c.path for c in clips]


def test_a_header_that_cannot_be_read_is_an_error_where_all_are_required(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    dataset = of(clip(write(tmp_path / "b.wav")), clip(tmp_path / "a.wav"))
    assert isinstance(dataset.headers()[tmp_path / "a.wav"], InputError)
    with pytest.raises(InputError, match=r"a\.wav: found a file of 0 bytes"):
        dataset.require_headers()


def test_a_selection_keeps_root_layout_and_warnings(tmp_path: Path) -> None:
    clips = (
        clip(tmp_path / "a.wav"),
        clip(tmp_path / "b.wav", split="test"),
        clip(tmp_path / "c.wav", machine="valve"),
    )
    dataset = Dataset(tmp_path, clips, ("fan: a remark",), "dcase2020")
    assert dataset.select() == dataset
    assert dataset.select("fan").clips == clips[:2]
    assert dataset.select(split="train").clips == (clips[0], clips[2])
    chosen = dataset.select("fan", "test")
    assert chosen == Dataset(tmp_path, clips[1:2], ("fan: a remark",), "dcase2020")
    assert dataset.with_clips(clips[2:]).machines == ("valve",)


def test_groups_by_machine_and_section(tmp_path: Path) -> None:
    b, a = (clip(tmp_path / f"{name}.wav", section="01") for name in "ba")
    test = clip(tmp_path / "c.wav", split="test")
    valve = clip(tmp_path / "d.wav", machine="valve")
    assert of(valve, b, test, a).groups() == {
        ("fan", "00"): ((), (test,)),
        ("fan", "01"): ((a, b), ()),
        ("valve", "00"): ((valve,), ()),
    }


def test_lengths_per_machine(tmp_path: Path) -> None:
    dataset = of(
        clip(write(tmp_path / "fan/a.wav")),
        clip(write(tmp_path / "fan/b.flac", 4_800, 48_000)),
        clip(write(tmp_path / "valve/a.wav", 3_200), "valve"),
    )
    assert machine_lengths(dataset, dataset.require_headers()) == ({"fan": 0.1, "valve": 0.2}, [])


def test_different_lengths_in_one_machine(tmp_path: Path) -> None:
    clips = [clip(write(tmp_path / f"{index}.wav", 1_600 if index else 1_500)) for index in range(4)]
    dataset = of(*clips)
    _, (error,) = machine_lengths(dataset, dataset.require_headers())
    assert error.where == clips[0].path
    assert "0.09375 s (1500 samples" in error.found
    assert "0.1 s (1600 samples" in error.expected
    assert str(clips[1].path) in error.expected
    assert "to one length" in error.remedy


def test_the_public_names_of_nearfar_data() -> None:
    import nearfar.data

    assert set(nearfar.data.__all__) == {
        *("AudioHeader", "Clip", "Dataset"),
        *("read_dataset", "read_header", "read_normals", "read_waveform"),
    }
    assert all(getattr(nearfar.data, name).__doc__ for name in nearfar.data.__all__)


def test_nearfar_data_does_not_import_torch() -> None:
    code = "import sys, nearfar.data; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
