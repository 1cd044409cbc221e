"""What is understood of a data folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nearfar.data.layouts import read_dataset
from nearfar.data.summary import AttributeCount, ClipCount, MachineSummary, summarise


def write(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).integers(-999, 999, (round(seconds * rate), channels)).astype(np.int16)
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture
def fan(tmp_path: Path) -> Path:
    """A machine without warnings: 3 + 1 training clips, 4 test clips, half a second each."""
    folder = tmp_path / "fan"
    for index, speed in enumerate("112"):
        write(folder / f"train/section_00_source_train_normal_{index:04d}_spd_{speed}.wav")
    write(folder / "train/section_00_target_train_normal_0000_spd_3.flac")
    for domain in ("source", "target"):
        for label in ("normal", "anomaly"):
            write(folder / f"test/section_00_{domain}_test_{label}_0000_spd_A.wav")
    return folder


def summary_of(folder: Path) -> MachineSummary:
    (summary,) = summarise(read_dataset(folder))
    return summary


def test_a_machine_as_it_should_be(fan):
    assert summary_of(fan) == MachineSummary(
        machine="fan",
        clips=(
            ClipCount("train", "source", "normal", 3),
            ClipCount("train", "target", "normal", 1),
            ClipCount("test", "source", "normal", 1),
            ClipCount("test", "source", "anomaly", 1),
            ClipCount("test", "target", "normal", 1),
            ClipCount("test", "target", "anomaly", 1),
        ),
        attributes=(
            AttributeCount("spd_1", "train", "source", 2),
            AttributeCount("spd_2", "train", "source", 1),
            AttributeCount("spd_3", "train", "target", 1),
            AttributeCount("spd_a", "test", "source", 2),
            AttributeCount("spd_a", "test", "target", 2),
        ),
        shortest_seconds=0.5,
        longest_seconds=0.5,
        channels=(2,),
        sample_rates_hz=(16000,),
        hours=8 * 0.5 / 3600,
        warnings=(),
    )


def test_json(fan):
    tree = summary_of(fan).to_json()
    assert json.loads(json.dumps(tree)) == tree
    assert tree["clips"][1] == {"split": "train", "domain": "target", "label": "normal", "clips": 1}
    assert tree["attributes"][0] == {"attributes": "spd_1", "split": "train", "domain": "source", "clips": 2}
    assert tree["machine"] == "fan"
    assert tree["channels"] == [2]
    assert tree["warnings"] == []


def test_hidden_labels(tmp_path):
    write(tmp_path / "Sander/train/section_00_source_train_normal_0000_noAttribute.wav")
    write(tmp_path / "Sander/train/section_00_target_train_normal_0000_noAttribute.wav")
    for index in range(3):
        write(tmp_path / f"Sander/test/section_00_{index:04d}.wav")
    summary = summary_of(tmp_path)
    assert summary.clips[-1] == ClipCount("test", None, None, 3)
    assert {count.attributes for count in summary.attributes} == {"noAttribute"}
    assert [count.split for count in summary.attributes] == ["train", "train"]
    assert summary.warnings == ()


def test_mixed_lengths(fan):
    write(fan / "test/section_00_source_test_normal_0001_spd_1.wav", seconds=0.75)
    summary = summary_of(fan)
    assert (summary.shortest_seconds, summary.longest_seconds) == (0.5, 0.75)
    assert summary.warnings == (
        "1 file not 0.5 s long as most are, such as section_00_source_test_normal_0001_spd_1.wav with 0.75 s",
    )


def test_other_sample_rates_of_the_same_length(fan):
    write(fan / "train/section_00_source_train_normal_0009_spd_1.wav", rate=48000)
    summary = summary_of(fan)
    assert summary.sample_rates_hz == (16000, 48000)
    assert summary.warnings == ("1 of 9 files have 48000 Hz and are resampled to 16000 Hz",)


def test_other_numbers_of_channels(fan):
    write(fan / "train/section_00_source_train_normal_0008_spd_1.wav", channels=1)
    write(fan / "train/section_00_source_train_normal_0009_spd_1.wav", channels=8)
    summary = summary_of(fan)
    assert summary.channels == (1, 2, 8)
    mono, many = summary.warnings
    assert "1 file with one channel and no far microphone" in mono
    assert "0008" in mono
    assert "1 file with more than two channels" in many
    assert "0009" in many


def test_unreadable_headers_do_not_stop_it(fan):
    (fan / "train/section_00_source_train_normal_0007_spd_1.wav").touch()
    cut = write(fan / "train/section_00_source_train_normal_0008_spd_1.wav")
    cut.write_bytes(cut.read_bytes()[:1000])
    summary = summary_of(fan)
    assert summary.clips[0].clips == 5
    assert summary.hours == 8 * 0.5 / 3600
    (warning,) = summary.warnings
    assert warning.startswith("2 files with no readable header; the first is ")
    assert "normal_0007_spd_1.wav: found a file of 0 bytes" in warning


def test_no_readable_header_at_all(tmp_path):
    path = tmp_path / "fan/train/section_00_target_train_normal_0000_spd_1.wav"
    write(path).write_bytes(b"")
    summary = summary_of(tmp_path)
    assert (summary.shortest_seconds, summary.longest_seconds, summary.hours) == (0, 0, 0)
    assert summary.channels == summary.sample_rates_hz == ()


def remove(folder: Path, pattern: str) -> None:
    found = list(folder.glob(pattern))
    assert found
    for path in found:
        path.unlink()


@pytest.mark.parametrize(
    ("gone", "warning"),
    [
        ("train/*_target_*", "there are no training clips of the target domain"),
        ("train/*_source_*", "there are no training clips of the source domain"),
        ("test/*", "there are no test clips: the machine is used for training only"),
        ("test/*_anomaly_*", "all test clips are labelled normal: nothing can be evaluated"),
        ("test/*_normal_*", "all test clips are labelled anomaly: nothing can be evaluated"),
    ],
)
def test_missing_groups(fan, gone, warning):
    remove(fan, gone)
    assert summary_of(fan).warnings == (warning,)


def test_test_clips_without_training_clips(fan):
    remove(fan, "train/*")
    (fan / "train").rmdir()
    assert summary_of(fan).warnings == (
        "there are test clips and no training clips: the machine cannot be scored",
    )


def test_test_clips_of_which_some_are_hidden(fan):
    write(fan / "test/section_00_0005.wav")
    assert summary_of(fan).warnings == ("some test clips hide their domain and label and some do not",)


def test_attributes_spelt_in_two_ways(fan):
    write(fan / "test/section_00_target_test_normal_0001_spd_a.wav")
    summary = summary_of(fan)
    assert summary.warnings == ("attributes are spelt spd_A and spd_a, which differ only in upper and lower case",)
    assert AttributeCount("spd_a", "test", "target", 3) in summary.attributes


def test_machines_in_order_and_apart(fan, tmp_path):
    write(tmp_path / "Sander/train/section_00_source_train_normal_0000_noAttribute.wav", seconds=0.25)
    sander, other = summarise(read_dataset(tmp_path))
    assert (sander.machine, sander.longest_seconds) == ("Sander", 0.25)
    assert other == summary_of(fan)


def test_real_folder(shared):
    compressor, motor, uav = summarise(read_dataset(shared / "data" / "realmix"))
    assert compressor.warnings == ("there are no test clips: the machine is used for training only",)
    assert motor.warnings == uav.warnings == ()
    assert sum(count.clips for summary in (compressor, motor, uav) for count in summary.clips) == 570
    assert {count.attributes for count in uav.attributes} == {"mis_sq", "mis_f8"}
    assert AttributeCount("day_02", "train", "target", 10) in compressor.attributes
    assert (uav.shortest_seconds, uav.longest_seconds) == (5.0, 5.0)
    assert (uav.channels, uav.sample_rates_hz) == ((2,), (16000,))
    assert compressor.hours + motor.hours + uav.hours == pytest.approx(570 * 5 / 3600)
