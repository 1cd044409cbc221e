"""How recordings are cut into windows, and long ones into blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.data.blocks import read_blocks
from nearfar.data.clips import Channel
from nearfar.errors import InputError

LEFT_OVER = 0.1
"""The fraction of a window that may be left over at the end of a recording without a window of its own."""

WHOLE_SECONDS = 30.0
"""Longer recordings are read in blocks of this length."""

SHORTEST_S = 0.025
"""One frame of a spectrogram."""


def window_starts(samples: int, window: int, hop: int) -> list[int]:
    """The first samples of the windows of one recording; all lengths are in samples, at least 1.

    Windows lie ``hop`` apart and inside the recording. What is left over behind the last of them gets a window
    that ends with the recording, unless it is a tenth of a window or less: recordings rarely have one length to
    the sample. A recording shorter than a window is one window, to be padded.
    """
    starts = list(range(0, max(samples - window, 0) + 1, hop))
    left = samples - (starts[-1] + window)
    if left > LEFT_OVER * window:
        starts.append(samples - window)
    return starts


def overlapping_blocks(
    path: Path, channels: Sequence[Channel], sample_rate_hz: int, near: int, far: int, overlap: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The first sample of each block of a file, and its samples (channels, samples) float32.

    Blocks overlap by ``overlap`` samples. Other arguments and errors are those of
    :func:`nearfar.data.blocks.read_blocks`.
    """
    carried, start = np.empty((len(channels), 0), np.float32), 0
    for block in read_blocks(path, channels, sample_rate_hz, near, far, WHOLE_SECONDS):
        joined = np.concatenate([carried, block], axis=1)
        yield start, joined
        keep = min(overlap, joined.shape[1])
        start, carried = start + joined.shape[1] - keep, joined[:, joined.shape[1] - keep :]


def too_short(where: Path | str, seconds: float) -> InputError:
    """The error about a recording that is shorter than a frame."""
    return InputError(
        where,
        found=f"a recording of {seconds:g} s",
        expected=f"at least one frame of {SHORTEST_S:g} s",
        remedy="Use longer recordings",
    )
