"""Recordings that differ from normal ones by their microphones or recorder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from nearfar.data.quality import (
    SignalFacts,
    channel_facts,
    merged_facts,
    pair_facts,
    problems,
    profile,
    signal_facts,
)

RATE = 16_000


def recorded(near: NDArray[np.float64], far: NDArray[np.float64] | None = None, rate: int = RATE) -> SignalFacts:
    channels = {"near": near} if far is None else {"near": near, "far": far}
    pair = None if far is None else pair_facts(near.astype(np.float32), far.astype(np.float32), RATE)
    facts = {name: channel_facts(samples.astype(np.float32)) for name, samples in channels.items()}
    return SignalFacts(rate, near.size / RATE, facts, pair)


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


def test_only_another_length_leaves_a_recording_comparable() -> None:
    long = problems(recorded(noise(50, seconds=4.0), noise(51, 0.02, 4.0)), NORMAL, 2.0)
    assert [(problem.check, problem.comparable) for problem in long] == [("length", True)]


def test_levels_by_hand() -> None:
    facts = channel_facts(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32))
    assert facts.level_db == pytest.approx(10 * np.log10(0.5), abs=0.3)
    assert int(np.argmax(facts.bands_db)) in (1, 2)  # 1 kHz is where the bands of 500 Hz meet


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


@pytest.mark.parametrize("samples", [20_000, 1_537, 1_024, 777, 400])
def test_bands_and_relations_are_those_of_scipy(samples: int) -> None:
    from scipy.signal import csd, welch

    near = (noise(0)[:samples] + 0.2).astype(np.float32)
    far = (0.5 * np.roll(near, 3) + noise(1)[:samples]).astype(np.float32)
    length = min(1024, samples)
    options = {"fs": RATE, "nperseg": length}
    frequency, power = welch(near.astype(np.float64), **options)
    other, cross = welch(far.astype(np.float64), **options)[1], csd(near, far, **options)[1]
    edges = np.linspace(0, len(power), 17).astype(int)
    bands = [10 * np.log10(power[low:high].sum() * RATE / length) for low, high in itertools.pairwise(edges)]
    np.testing.assert_allclose(channel_facts(near).bands_db, bands, atol=1e-3)
    coherence = np.abs(cross) ** 2 / (power * other)
    residual = 10 * np.log10((power * (1 - np.minimum(coherence, 1))).sum() / power.sum())
    found = pair_facts(near, far, RATE)
    if samples >= 2048:  # two single segments are wholly coherent
        assert found.residual_db == pytest.approx(residual, abs=1e-3)
    assert found.coherence == pytest.approx(coherence[frequency < 1000].mean(), abs=1e-4)
    facts = signal_facts({"near": near, "far": far}, 48_000, RATE, pair=True)
    assert (facts.sample_rate_hz, facts.seconds) == (48_000, samples / RATE)
    assert facts.pair is not None
    assert (facts.pair.residual_db, facts.pair.coherence) == (found.residual_db, found.coherence)
    assert signal_facts({"near": near, "far": far}, RATE, RATE).pair is None
    assert signal_facts({"near": near}, RATE, RATE, pair=True).pair is None
