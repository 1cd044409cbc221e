"""Recordings that differ from normal ones by their microphones or recorder."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from nearfar.data.quality import SignalFacts, channel_facts, merged_facts, pair_facts, problems, profile

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
