"""Normal recordings of which some have near and far exchanged."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

from nearfar.data.exchanged import exchanged_among
from nearfar.data.signals import SignalFacts, signal_facts

RATE = 16_000


def facts(seed: int, exchanged: bool, gain: float = 1.0) -> SignalFacts:
    """A machine at near, with a room and its echoes at far."""
    random = np.random.default_rng(seed)
    machine = sosfilt(butter(2, 2_000, "high", fs=RATE, output="sos"), random.normal(0, 0.1, 2 * RATE))
    room = sosfilt(butter(2, 600, fs=RATE, output="sos"), random.normal(0, 0.2, 2 * RATE))
    echoes = np.random.default_rng(0).normal(0, 0.05, 1200) * np.exp(-np.arange(1200) / 300)
    near = machine + 0.2 * room
    far = gain * (lfilter(echoes, 1, machine) + room)
    channels: list[NDArray[np.float64]] = [far, near] if exchanged else [near, far]
    one, other = (channel.astype(np.float32) for channel in channels)
    return signal_facts({"near": one, "far": other}, RATE, RATE)


@pytest.mark.parametrize("exchanged", [[], [3], [0, 1, 2], [*range(0, 12, 2)], [*range(9)]])
def test_the_smaller_part_is_named(exchanged: list[int]) -> None:
    among = exchanged_among([facts(seed, seed in exchanged, 1.0 + 0.1 * (seed % 3)) for seed in range(12)])
    smaller = exchanged if len(exchanged) <= 6 else sorted({*range(12)} - {*exchanged})
    assert among == smaller or (len(exchanged) == 6 and among == sorted({*range(12)} - {*exchanged}))


def test_one_channel_or_one_recording_gives_nothing() -> None:
    alone = signal_facts({"near": np.random.default_rng(0).normal(size=RATE).astype(np.float32)}, RATE, RATE)
    assert exchanged_among([alone, alone]) == []
    assert exchanged_among([facts(0, False)]) == []
