"""Recordings of any kind: what is found, and random stretches of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from nearfar.data.recordings import AudioFile, find_recordings, read_crop, recordings_key
from nearfar.errors import InputError


def ramp(path: Path, frames: int, rate: int = 16_000, channels: int = 1, **options: str) -> Path:
    """Every sample encodes its index; channel c is shifted by c / 4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.arange(frames)[:, None] / 2**17 + np.arange(channels) / 4
    soundfile.write(path, samples.astype(np.float32), rate, **options)
    return path


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_finds_wav_flac_and_ogg_at_any_depth_and_rate(tmp_path: Path) -> None:
    ramp(tmp_path / "b" / "deep" / "two.wav", 8_000, 8_000, 2)
    ramp(tmp_path / "a" / "one.flac", 4_410, 44_100)
    ramp(tmp_path / "a" / "three.OGG", 4_000, 16_000, format="OGG", subtype="VORBIS")
    (tmp_path / "a" / "notes.txt").write_text("no sound")
    found = find_recordings([tmp_path / "b", tmp_path / "a"])
    assert [one.path.name for one in found] == ["two.wav", "one.flac", "three.OGG"]
    assert found[0] == AudioFile(tmp_path / "b" / "deep" / "two.wav", 8_000, 2, 8_000)
    assert [one.seconds for one in found] == pytest.approx([1.0, 0.1, 0.25])


def test_a_folder_inside_another_is_read_once(tmp_path: Path) -> None:
    ramp(tmp_path / "in" / "one.wav", 1_000)
    assert len(find_recordings([tmp_path, tmp_path / "in"])) == 1


def test_crop_is_a_stretch_of_the_asked_channel(tmp_path: Path) -> None:
    (recording,) = find_recordings([ramp(tmp_path / "r.wav", 20_000, channels=2, subtype="FLOAT").parent])
    whole = soundfile.read(recording.path, dtype="float32")[0]
    begins = set()
    for seed in range(20):
        crop = read_crop(recording, 1, 5_000, generator(seed))
        begin = round(float(crop[0] - 0.25) * 2**17)
        np.testing.assert_array_equal(crop, whole[begin : begin + 5_000, 1])
        begins.add(begin)
    assert len(begins) > 15
    assert max(begins) <= 15_000


def test_short_recordings_are_repeated(tmp_path: Path) -> None:
    (recording,) = find_recordings([ramp(tmp_path / "r.wav", 500, subtype="FLOAT").parent])
    expected = np.tile(np.arange(500) / 2**17, 3)[:1_300].astype(np.float32)
    np.testing.assert_array_equal(read_crop(recording, 0, 1_300, generator()), expected)


def test_crops_of_other_rates_are_resampled(tmp_path: Path) -> None:
    time = np.arange(44_100) / 44_100
    soundfile.write(tmp_path / "r.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 44_100, subtype="FLOAT")
    (recording,) = find_recordings([tmp_path])
    crop = read_crop(recording, 0, 16_000, generator())
    expected = soxr.resample(soundfile.read(recording.path, dtype="float32")[0], 44_100, 16_000, quality="HQ")
    np.testing.assert_allclose(crop, expected, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a sound"])
def test_a_file_without_audio_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.wav"):
        find_recordings([tmp_path])


def test_folders_without_recordings_and_without_being_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings"):
        find_recordings([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        find_recordings([tmp_path / "absent"])


def test_recordings_with_nan_are_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "r.wav", np.full(1_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
    (recording,) = find_recordings([tmp_path])
    with pytest.raises(InputError, match="NaN or infinite samples in channel 0"):
        read_crop(recording, 0, 500, generator())


def test_key_changes_with_names_sizes_and_lengths(tmp_path: Path) -> None:
    ramp(tmp_path / "one.wav", 1_000)
    before = recordings_key(find_recordings([tmp_path]))
    assert before == recordings_key(find_recordings([tmp_path]))
    ramp(tmp_path / "one.wav", 1_001)
    longer = recordings_key(find_recordings([tmp_path]))
    (tmp_path / "one.wav").rename(tmp_path / "other.wav")
    assert len({before, longer, recordings_key(find_recordings([tmp_path]))}) == 3
