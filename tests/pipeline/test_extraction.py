"""Windows of recordings longer than a clip."""

from __future__ import annotations

import numpy as np
import pytest
from nearfar.features.window_starts import LEFT_OVER, window_starts


@pytest.mark.parametrize(
    ("samples", "hop", "starts"),
    [
        (100, 100, [0]),  # a whole clip
        (60, 100, [0]),  # shorter, to be padded
        (110, 100, [0]),  # a tenth left over
        (111, 100, [0, 11]),  # more: the last window ends with the recording
        (200, 100, [0, 100]),
        (250, 100, [0, 100, 150]),
        (250, 50, [0, 50, 100, 150]),
        (205, 50, [0, 50, 100]),
        (350, 150, [0, 150, 250]),  # gaps between windows are asked for
    ],
)
def test_windows_by_hand(samples: int, hop: int, starts: list[int]) -> None:
    assert window_starts(samples, 100, hop) == starts


def test_windows_lie_inside_and_leave_out_at_most_a_tenth_of_one() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        samples, window = (int(x) for x in random.integers(1, 500, size=2))
        hop = int(random.integers(1, window + 1))
        heard = np.zeros(samples, dtype=bool)
        starts = window_starts(samples, window, hop)
        assert starts == sorted(set(starts))
        assert starts[0] == 0
        for start in starts:
            assert start + window <= max(samples, window)
            heard[start : start + window] = True
        assert (~heard).sum() <= LEFT_OVER * window
