"""Random mixtures of recordings: functions of seed and number, of the stated length and levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from nearfar.distillation.mixtures import (
    GROUP,
    LEVEL_DBFS,
    NOISE_REDUCTION_DB,
    Mixtures,
    _at_speed,
    _filtered,
    by_folder,
    sound_files,
)
from nearfar.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for name, rate, channels in (
        ("a/rain/1-1.ogg", 44_100, 1),
        ("a/dog/5-2.wav", 16_000, 1),
        ("b/x.flac", 16_000, 2),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal((rate, channels)), rate)
    return [tmp_path / "a", tmp_path / "b"]


def test_files_are_found_by_folder_and_left_out_by_pattern(folders: list[Path]) -> None:
    names = [[path.name for path in files] for files in sound_files(folders)]
    assert names == [["5-2.wav", "1-1.ogg"], ["x.flac"]]
    assert [path.name for path in sound_files(folders, ["rain/*"])[0]] == ["5-2.wav"]
    assert [path.name for path in sound_files(folders, ["5-*"])[0]] == ["1-1.ogg"]


def test_a_folder_without_recordings_is_an_error(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 recordings, all of them excluded"):
        sound_files(folders, ["*.ogg", "*.wav"])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no recordings"):
        sound_files([tmp_path / "none"])


def test_a_mixture_is_a_function_of_seed_and_number(folders: list[Path]) -> None:
    files = sound_files(folders)
    first, again, other = (Mixtures(files, 20_000, seed) for seed in (3, 3, 4))
    assert np.array_equal(first[7].noisy, again[7].noisy)
    assert not np.array_equal(first[7].noisy, first[8].noisy)
    assert not np.array_equal(first[7].noisy, other[7].noisy)


def test_mixtures_have_the_stated_length_and_levels(folders: list[Path]) -> None:
    files = sound_files(folders)
    made = Mixtures(files, 40_000, 0, machines=files[1:])
    mixtures = [sound for number in range(30) for sound in made[number]]
    assert {(mixture.shape, mixture.dtype) for mixture in mixtures} == {((40_000,), np.dtype(np.float32))}
    levels = np.array([20 * np.log10(np.sqrt(np.mean(np.float64(mixture) ** 2))) for mixture in mixtures])
    assert levels.min() >= LEVEL_DBFS[0] - 0.01
    assert levels.max() <= LEVEL_DBFS[1] + 0.01  # clipping only takes away
    assert np.ptp(levels) > 15


@pytest.fixture
def tone_and_noise(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """A folder of a machine that hums at 1000 Hz, and one of noise without anything from 500 to 2000 Hz."""
    rng = np.random.default_rng(0)
    time = np.arange(80_000) / 16_000
    spectrum = np.fft.rfft(rng.standard_normal(80_000))
    hz = np.fft.rfftfreq(80_000, 1 / 16_000)
    spectrum[(hz > 500) & (hz < 2000)] = 0
    for name, sound in (("hum", np.sin(2 * np.pi * 1000 * time)), ("noise", np.fft.irfft(spectrum))):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "0.wav", 0.1 * sound / np.abs(sound).max(), 16_000, subtype="FLOAT")
    return [tmp_path / "hum"], [tmp_path / "noise"]


def test_the_clean_mixture_of_a_machine_has_less_noise(tone_and_noise: tuple[list[Path], list[Path]]) -> None:
    machines, noises = map(sound_files, tone_and_noise)
    mixtures = Mixtures(noises, 48_000, 1, machines, machine_share=1.0)
    ratios_db = []
    for number in range(12):
        power = np.abs(np.fft.rfft(np.stack(mixtures[number]).astype(np.float64) * np.hanning(48_000))) ** 2
        hz = np.fft.rfftfreq(48_000, 1 / 16_000)
        # Speeds from 0.7 to 1.4 leave the hum within 700 and 1420 Hz, and noise above 2900.
        hum, noise = power[:, (hz > 690) & (hz < 1430)].sum(axis=1), power[:, hz > 2900].sum(axis=1)
        noisy_db, clean_db = 10 * np.log10(hum / noise)
        assert clean_db - noisy_db == pytest.approx(NOISE_REDUCTION_DB, abs=0.1)
        ratios_db.append(noisy_db)
    assert np.ptp(ratios_db) > 5


def test_a_group_is_of_one_machine_at_one_speed_and_others_are_not(tmp_path: Path) -> None:
    """Ten machines, each a hum of its own, between 1 and 2 kHz."""
    time = np.arange(80_000) / 16_000
    pitches = 1000 * 2 ** (np.arange(10) / 10)
    for machine, hz in enumerate(pitches):
        (tmp_path / "machines" / str(machine)).mkdir(parents=True)
        for recording in range(2):
            sound = 0.1 * np.sin(2 * np.pi * hz * time + recording)
            path = tmp_path / "machines" / str(machine) / f"{recording}.wav"
            soundfile.write(path, sound, 16_000, subtype="FLOAT")
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "0.wav", 0.01 * np.random.default_rng(0).standard_normal(80_000), 16_000)
    machines = by_folder(sound_files([tmp_path / "machines"]))
    assert [len(machine) for machine in machines] == [2] * 10
    mixtures = Mixtures(sound_files([tmp_path / "noise"]), 48_000, 0, machines, machine_share=1.0)

    def pitch(number: int) -> float:
        spectrum = np.abs(np.fft.rfft(mixtures[number].clean * np.hanning(48_000)))
        return float(spectrum.argmax() * 16_000 / 48_000)

    groups = [[pitch(GROUP * group + member) for member in range(GROUP)] for group in range(8)]
    assert all(max(group) - min(group) < 1 for group in groups)
    assert len({round(group[0]) for group in groups}) > 5
    of_hums = [np.abs(np.log2(group[0] / pitches)).min() < 1e-3 for group in groups]
    assert 0 < sum(of_hums) < 8, "half of the groups are at another speed"


def test_without_machines_only_coloured_noise_is_left_out_of_the_clean_mixture(folders: list[Path]) -> None:
    mixtures = [Mixtures(sound_files(folders), 20_000, 0)[number] for number in range(60)]
    noisy = np.array([not np.array_equal(mixture.noisy, mixture.clean) for mixture in mixtures])
    assert 0.1 < noisy.mean() < 0.55  # 0.3 expected


def test_speed_moves_a_tone_and_its_length() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000)
    faster = _at_speed(tone, 1.25)
    assert len(faster) == pytest.approx(16_000 / 1.25, abs=2)
    peak_hz = np.abs(np.fft.rfft(faster * np.hanning(len(faster)), n=16_000)).argmax()
    assert peak_hz == 625


def test_a_filter_stays_within_its_range_at_every_frequency() -> None:
    rng = np.random.default_rng(5)
    impulse = np.zeros(4096)
    impulse[0] = 1.0
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(_filtered(impulse, rng, 6.0))))
    assert np.abs(gain_db).max() <= 6.0 + 1e-9
    assert np.ptp(gain_db) > 1.0
