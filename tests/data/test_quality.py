"""Recordings that differ from normal ones by their microphones or recorder."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, coherence, sosfilt, welch

from nearfar.data.quality import problems, profile
from nearfar.data.signals import (
    SignalFacts,
    aligned_residual_db,
    bits_of,
    channel_facts,
    facts_from_arrays,
    facts_to_arrays,
    lost_fraction,
    merged_facts,
    pair_facts,
    signal_facts,
)

RATE = 16_000


def recorded(near: NDArray[np.float64], far: NDArray[np.float64] | None = None, rate: int = RATE) -> SignalFacts:
    channels = {"near": near} if far is None else {"near": near, "far": far}
    samples = {name: values.astype(np.float32) for name, values in channels.items()}
    return signal_facts(samples, RATE, rate, bits_of(np.stack(list(samples.values()))))


def noise(seed: int, level: float = 0.1, seconds: float = 2.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0, level, size=round(seconds * RATE))


NORMAL = profile([recorded(noise(seed), noise(100 + seed, 0.02)) for seed in range(8)])


def checks(facts: SignalFacts) -> list[str]:
    return [problem.check for problem in problems(facts, NORMAL, 2.0)]


def test_a_normal_recording_has_no_problem() -> None:
    assert checks(recorded(noise(50), noise(51, 0.02))) == []
    assert checks(recorded(noise(50, 0.3), noise(51, 0.06))) == []  # louder: that may be the machine


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (recorded(noise(50, 0.02), noise(51, 0.02)), "quiet"),
        (recorded(noise(50), noise(51, 0.0001)), "dead"),
        (recorded(noise(50, 0.02), noise(51, 0.1)), "swapped"),
        (recorded(np.clip(noise(50, 0.5), -0.5, 0.5), noise(51, 0.02)), "clipped"),
        (recorded(noise(50, seconds=1.0), noise(51, 0.02, 1.0)), "short"),
        (recorded(noise(50, seconds=4.0), noise(51, 0.02, 4.0)), "length"),
        (recorded(noise(50), noise(51, 0.02), 48_000), "chain"),
        (recorded(sosfilt(butter(12, 5_000, fs=RATE, output="sos"), noise(50)), noise(51, 0.02)), "chain"),
    ],
    ids=["quiet", "dead", "swapped", "clipped", "short", "long", "other rate", "less bandwidth"],
)
def test_each_problem_is_named(facts: SignalFacts, expected: str) -> None:
    assert expected in checks(facts)


def interrupted(sound: NDArray[np.float64], every: int = 4000, lost: int = 1000) -> NDArray[np.float64]:
    """Sound of which the last samples of every stretch are gone, with the value before in their place."""
    out = sound.copy()
    for begin in range(every - lost, len(out), every):
        out[begin : begin + lost] = out[begin - 1]
    return out


def test_lost_samples_by_hand() -> None:
    sound = noise(50).astype(np.float32)
    assert lost_fraction(sound, RATE) == 0
    held = interrupted(sound)  # 1,000 of 4,000 samples repeat the one before
    assert lost_fraction(held, RATE) == pytest.approx(0.25)
    assert lost_fraction(interrupted(sound, lost=159), RATE) == 0  # below 10 ms
    assert lost_fraction(np.zeros(RATE, np.float32), RATE) == pytest.approx(1, abs=1e-3)


def test_lost_samples_are_no_fault_of_the_machine_unless_they_are_usual() -> None:
    far = noise(51, 0.02)
    assert checks(recorded(interrupted(noise(50)), far)) == ["lost"]
    assert checks(recorded(noise(50), interrupted(far))) == ["lost"]
    usual = profile([recorded(interrupted(noise(seed)), noise(100 + seed, 0.02)) for seed in range(8)])
    assert problems(recorded(interrupted(noise(50)), far), usual, 2.0) == []
    (read,) = facts_from_arrays(facts_to_arrays([recorded(interrupted(noise(50)), far)]))
    assert read.channels["near"].lost == pytest.approx(0.25)


def test_a_far_channel_that_repeats_near_later_explains_it() -> None:
    near = noise(0).astype(np.float32)
    for delay in (0, 37, -700):
        assert aligned_residual_db(near, -0.5 * np.roll(near, delay), RATE) < -40
    assert pair_facts(near, -0.5 * np.roll(near, 700), RATE).residual_db > -3  # without the shift
    assert aligned_residual_db(near, noise(1).astype(np.float32), RATE) > -1
    room, far = echoes(0, 44)
    assert aligned_residual_db(room.astype(np.float32), far.astype(np.float32), RATE) > -30


def test_only_another_length_leaves_a_recording_comparable() -> None:
    long = problems(recorded(noise(50, seconds=4.0), noise(51, 0.02, 4.0)), NORMAL, 2.0)
    assert [(problem.check, problem.comparable) for problem in long] == [("length", True)]


def test_levels_by_hand() -> None:
    facts = channel_facts(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32))
    assert facts.level_db == pytest.approx(10 * np.log10(0.5), abs=0.3)
    assert int(np.argmax(facts.bands_db)) in (1, 2)  # 1 kHz is where the bands of 500 Hz meet


def test_levels_and_coherence_against_scipy() -> None:
    near, far = noise(0).astype(np.float32), noise(1).astype(np.float32)
    far += 0.5 * near
    facts = signal_facts({"near": near, "far": far}, RATE, RATE)
    power = welch(near, fs=1.0, nperseg=1024)[1] / 1024
    edges = np.linspace(0, len(power), 17).astype(int)[:-1]
    bands = 10 * np.log10(np.add.reduceat(power.astype(np.float64), edges))
    np.testing.assert_allclose(facts.channels["near"].bands_db, bands, atol=1e-4)
    hz, shared = coherence(near, far, fs=RATE, nperseg=1024)
    assert facts.pair is not None
    assert facts.pair.coherence == pytest.approx(float(shared[hz < 1000].mean()), abs=1e-5)
    assert asdict(facts.pair) == asdict(pair_facts(near, far, RATE))
    assert facts.channels["near"].level_db == channel_facts(near).level_db


def echoes(seed: int, delay: int, near_level: float = 0.05) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A source that reaches near first, and far so many samples later with an echo, with noise at both."""
    source = noise(seed)
    far = np.roll(source, delay) + 0.5 * np.roll(source, delay + 60)
    return near_level / 0.1 * source + noise(seed + 500, 0.01), 0.05 / 0.1 * far + noise(seed + 900, 0.01)


def test_channels_of_equal_level_are_exchanged_by_their_delays() -> None:
    usual = profile([recorded(*echoes(seed, 40 + seed)) for seed in range(8)])
    assert usual.difference_db is not None
    assert max(map(abs, usual.difference_db)) < 2  # levels say nothing
    near, far = echoes(50, 44)
    assert [problem.check for problem in problems(recorded(far, near), usual, 2.0)] == ["swapped"]
    assert problems(recorded(near, far), usual, 2.0) == []
    for gain in (0.5, 2.0):
        assert problems(recorded(gain * near, far), usual, 2.0) == []
        assert "swapped" in [entry.check for entry in problems(recorded(far, gain * near), usual, 2.0)]


def test_gains_that_look_exchanged_are_not_where_delays_are_as_usual() -> None:
    usual = profile([recorded(*echoes(seed, 40 + seed, 0.16)) for seed in range(8)])
    near, far = echoes(50, 44, 0.16)
    assert "swapped" in [entry.check for entry in problems(recorded(far, near), usual, 2.0)]
    assert "swapped" not in [entry.check for entry in problems(recorded(0.25 * near, 2 * far), usual, 2.0)]


def test_bits_by_hand() -> None:
    steps = np.arange(-100, 101, dtype=np.float32)
    assert bits_of(steps / 128) == 8
    assert bits_of(2 * steps / 32_768) == 15
    assert bits_of(steps / 32_768) == 16
    assert bits_of(steps / 2**23) == 24
    assert bits_of(steps.astype(np.float64) / 2**24) is None
    assert bits_of(noise(0).astype(np.float32)) is None
    assert bits_of(noise(0)) is None
    assert bits_of(300 * steps) is None


def rounded(samples: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    return np.rint(samples * 2 ** (bits - 1)) / 2 ** (bits - 1)


def test_rounding_matters_where_it_drowns_bands() -> None:
    low = butter(8, 1_500, fs=RATE, output="sos")

    def hum(seed: int, level: float) -> NDArray[np.float64]:
        return sosfilt(low, noise(seed, level)) + noise(seed + 77, 3e-6)

    usual = profile(
        [recorded(rounded(hum(seed, 0.1), 24), rounded(hum(90 + seed, 0.05), 24)) for seed in range(8)]
    )
    assert usual.bits == (24, 24)
    near, far = hum(50, 0.1), hum(51, 0.05)
    for bits, found in ((24, []), (16, ["chain"]), (8, ["chain"])):
        assert [p.check for p in problems(recorded(rounded(near, bits), rounded(far, bits)), usual, 2.0)] == found
    same = problems(recorded(rounded(near, 24).astype(np.float32), far), usual, 2.0)
    assert same == []  # floating point, finer than the normal recordings, which are fine enough
    loud = profile([recorded(rounded(noise(seed), 24)) for seed in range(8)])
    assert problems(recorded(rounded(noise(50), 16)), loud, 2.0) == []
    coarse = profile([recorded(rounded(hum(seed, 0.1), 8)) for seed in range(8)])
    (found,) = problems(recorded(near), coarse, 2.0)
    assert found.check == "chain"
    assert "floating point; those of normal recordings, 8 bits, drown" in found.message


def test_sound_above_the_end_of_every_normal_recording() -> None:
    low = butter(20, 5_000, fs=RATE, output="sos")
    usual = profile([recorded(sosfilt(low, noise(seed)) + noise(seed + 60, 1e-5)) for seed in range(8)])
    (found,) = problems(recorded(noise(50)), usual, 2.0)
    assert (found.check, found.comparable) == ("chain", False)
    assert "where every normal recording ends" in found.message
    assert problems(recorded(sosfilt(low, noise(50, 0.3)) + noise(51, 1e-5)), usual, 2.0) == []


def test_what_far_explains_of_near() -> None:
    near = noise(0).astype(np.float32)
    copy, other = (0.3 * near).astype(np.float32), noise(1).astype(np.float32)
    assert pair_facts(near, copy, RATE).residual_db < -50
    assert pair_facts(near, copy, RATE).coherence == pytest.approx(1.0, abs=1e-3)
    assert pair_facts(near, other, RATE).residual_db > -1
    assert pair_facts(near, other, RATE).coherence < 0.1
    added = (near + 0.1 * other).astype(np.float32)
    assert pair_facts(added, near, RATE).residual_db == pytest.approx(-20, abs=1.5)


def test_pieces_of_a_recording_have_its_facts() -> None:
    near, far = noise(0, seconds=8.0), noise(1, seconds=8.0)
    whole = recorded(near, far)
    pieces = [
        recorded(near[begin : begin + 32_000], far[begin : begin + 32_000]) for begin in range(0, 128_000, 32_000)
    ]
    merged = merged_facts(pieces, 8.0)
    assert merged.seconds == whole.seconds
    assert merged.channels["near"].level_db == pytest.approx(whole.channels["near"].level_db, abs=0.05)
