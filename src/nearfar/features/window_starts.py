"""Recordings longer than a clip, heard in windows of a clip's length."""

from __future__ import annotations

LEFT_OVER = 0.1
"""The share of a window that may be left over at the end of a recording without a window of its own."""


def window_starts(samples: int, window: int, hop: int) -> list[int]:
    """The first samples of the windows of one recording.

    Windows lie ``hop`` apart and inside the recording. What is left over behind the last of them gets a window
    that ends with the recording, unless it is a tenth of a window or less: recordings are rarely of one length to
    the sample. A recording shorter than a window is one window, to be padded.

    Args:
        samples: length of the recording, at least 1.
        window: length of a window.
        hop: from the start of one to the start of the next, at least 1.
    """
    starts = list(range(0, max(samples - window, 0) + 1, hop))
    left = samples - (starts[-1] + window)
    if left > LEFT_OVER * window:
        starts.append(samples - window)
    return starts
