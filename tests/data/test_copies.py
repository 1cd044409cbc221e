"""Copies and overlapping cuts among recordings of noise and of hum."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from nearfar.data import copies as copies_module
from nearfar.data.copies import find_copies, joined_groups, joined_landmarks, landmarks, without_copies

Waveform = NDArray[np.float32]
RATE = 16_000


def noise(seconds: float, seed: int) -> Waveform:
    return np.random.default_rng(seed).normal(0, 0.1, size=round(seconds * RATE)).astype(np.float32)


def hum(seconds: float, seed: int, floor: float = 1e-3) -> Waveform:
    """A machine whose tones have the same phases in every recording, with its own noise floor."""
    time = np.arange(round(seconds * RATE)) / RATE
    phases = np.random.default_rng(0).uniform(0, 6, size=30)
    tones = sum(np.sin(2 * np.pi * 50 * k * time + phases[k]) / k for k in range(1, 30))
    return (0.1 * np.asarray(tones) + floor * np.random.default_rng(seed).normal(size=time.size)).astype(
        np.float32
    )


def pairs(recordings: list[Waveform]) -> list[tuple[int, int, int]]:
    found = find_copies([landmarks(entry) for entry in recordings], lambda index: recordings[index])
    return [(copy.first, copy.second, copy.lag) for copy in found]


@pytest.mark.parametrize(
    ("change", "lag"),
    [
        (lambda x: x.copy(), 0),
        (lambda x: 0.3 * x, 0),
        (lambda x: -x, 0),
        (lambda x: np.round(x * 2**15) / 2**15, 0),
        (lambda x: soxr.resample(soxr.resample(x, RATE, 44_100), 44_100, RATE), 0),
        (lambda x: x + 0.003 * noise(4, 99), 0),
        (lambda x: x[24_000:56_000], 24_000),
        (lambda x: np.concatenate([x[32_000:], noise(2, 98)]), 32_000),
    ],
    ids=["the same", "quieter", "inverted", "16 bits", "resampled", "some noise", "a cut", "half overlaps"],
)
def test_a_copy_is_found_with_its_lag(change, lag: int) -> None:
    recordings = [noise(4, seed) for seed in range(6)]
    recordings.append(np.asarray(change(recordings[2]), np.float32))
    assert pairs(recordings) == [(2, 6, lag)]


def test_other_recordings_of_one_machine_are_no_copies() -> None:
    assert pairs([noise(4, seed) for seed in range(30)]) == []
    assert pairs([hum(4, seed) for seed in range(30)]) == []
    both = [hum(4, seed) for seed in range(5)]
    assert pairs([*both, both[3]]) == [(3, 5, 0)]


def test_a_recording_that_is_half_in_another_is_left_out_and_a_smaller_overlap_is_one_group() -> None:
    whole = noise(8, 0)
    recordings = [whole[:64_000], whole[16_000:80_000], whole[56_000:120_000], noise(4, 1)]
    copies = find_copies([landmarks(entry) for entry in recordings], lambda index: recordings[index])
    assert [(copy.first, copy.second, round(copy.share, 3)) for copy in copies] == [
        (0, 1, 0.75),
        (0, 2, 0.125),
        (1, 2, 0.375),
    ]
    assert without_copies(copies) == {1: 0}
    assert len(set(joined_groups(["a", "b", "c", "d"], copies))) == 2


def test_of_two_recordings_of_one_sound_the_longer_one_is_kept() -> None:
    whole = noise(8, 0)
    recordings = [whole[8_000:72_000], whole, whole[16_000:], noise(4, 1)]
    marks = [landmarks(entry) for entry in recordings]
    copies = find_copies(marks, lambda index: recordings[index])
    assert without_copies(copies, samples=[len(entry) for entry in recordings]) == {0: 1, 2: 1}


@pytest.mark.parametrize("seed", range(12))
def test_landmarks_are_the_largest_samples_of_their_neighbourhoods(seed: int) -> None:
    random = np.random.default_rng(seed)
    waveform = random.standard_normal(int(random.integers(1, 9_000))).astype(np.float32)
    if seed % 3 == 0:
        waveform = waveform.clip(-0.5, 0.5)  # long plateaus
    size = np.abs(uniform_filter1d(waveform.astype(np.float64), 4)).round(9)
    expected = np.flatnonzero((size == maximum_filter1d(size, 1025)) & (size > 0))
    np.testing.assert_array_equal(copies_module._peaks(size), expected)


def test_landmarks_of_pieces_are_those_of_the_whole() -> None:
    whole = noise(8, 0)
    pieces = [(begin, landmarks(whole[begin : begin + 48_000])) for begin in (0, 40_000, 80_000)]
    joined, at_once = joined_landmarks(pieces), landmarks(whole)
    assert joined.samples == at_once.samples
    assert len(np.intersect1d(joined.codes, at_once.codes)) > 0.9 * len(at_once.codes)
