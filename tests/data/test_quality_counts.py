"""Counts of recordings with problems of the microphones or the recorder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nearfar.data.quality_counts import count_problems
from nearfar.data.signals import SignalFacts, signal_facts

RATE = 16_000


def facts(near: NDArray[np.float64], far: NDArray[np.float64]) -> SignalFacts:
    return signal_facts({"near": near.astype(np.float32), "far": far.astype(np.float32)}, RATE, RATE)


def pair(seed: int, near_level: float = 0.1, far_level: float = 0.02) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, level, size=RATE) for level in (near_level, far_level)]


NORMAL = [(f"{seed}.wav", facts(*pair(seed))) for seed in range(10)]


def test_each_kind_is_counted_once_per_recording_with_an_example() -> None:
    clipped = [np.clip(pair(seed)[0], -0.12, 0.12) for seed in range(2)]
    others = [
        ("fine.wav", facts(*pair(50))),
        ("swapped.wav", facts(*reversed(pair(51)))),
        ("clipped 0.wav", facts(clipped[0], pair(52)[1])),
        ("clipped 1.wav", facts(clipped[1], pair(53)[1])),
    ]
    found = count_problems("pump", NORMAL, others)
    assert found is not None
    assert {entry.check: (entry.recordings, entry.example) for entry in found.problems} == {
        "clipped": (2, "clipped 0.wav"),
        "swapped": (1, "swapped.wav"),
        "quiet": (1, "swapped.wav"),
    }
    assert found.problems[0].check == "clipped"
    assert str(found).startswith("pump: clipped in 2 of 14 recordings, such as clipped 0.wav (the near channel is")
    assert count_problems("pump", NORMAL, others[:1]) is None
    assert count_problems("pump", [], others) is None


def test_normal_recordings_are_checked_as_well() -> None:
    quiet = [(f"{seed}.wav", facts(*pair(seed, 1e-4, 2e-5))) for seed in range(10)]
    dead = [(f"{seed}.wav", facts(*pair(seed, 0.1, 1e-4))) for seed in range(10)]
    exchanged = [*NORMAL, ("other.wav", facts(*reversed(pair(60))))]
    for normal, check, count in ((quiet, "quiet", 10), (dead, "dead", 10), (exchanged, "swapped", 1)):
        found = count_problems("pump", normal)
        assert found is not None
        assert (check, count) in [(entry.check, entry.recordings) for entry in found.problems]
