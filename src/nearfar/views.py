"""What is listened to of a recording: its channels as they are, or near with far's prediction taken out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nearfar.config import Audio, Cancellation
from nearfar.data.audio import read_waveform
from nearfar.data.clips import CHANNELS, Channel, View
from nearfar.errors import InputError

Waveform = NDArray[np.float32]


def channels_of(views: Sequence[View]) -> tuple[Channel, ...]:
    """The recorded channels that the views are made of, near first."""
    needed = {channel for view in views for channel in (CHANNELS if view == "cancelled" else (view,))}
    return tuple(channel for channel in CHANNELS if channel in needed)


def read_views(path: Path, views: Sequence[View], audio: Audio, cancellation: Cancellation) -> Waveform:
    """Read a recording and make views of it: (views, samples) float32 at the recipe's rate, in their order.

    Raises:
        InputError: as :func:`nearfar.data.audio.read_waveform`, and if far is to be cancelled and is near itself,
            which would leave silence.
    """
    needed = channels_of(views)
    waveform = read_waveform(path, needed, audio.sample_rate_hz, near=audio.near_channel, far=audio.far_channel)
    require_two_signals(waveform, views, path)
    return make_views(dict(zip(needed, waveform, strict=True)), views, cancellation, audio.sample_rate_hz)


def require_two_signals(waveform: Waveform, views: Sequence[View], where: Path | str) -> None:
    """Refuse a recording whose far channel is to be cancelled and is near itself, which would leave silence.

    Args:
        waveform: (channels, samples), those of :func:`channels_of`.
        views: what is to be made of them.
        where: the recording's name, for the error.

    Raises:
        InputError: see above.
    """
    if "cancelled" in views and np.array_equal(waveform[0], waveform[1]):
        raise InputError(
            where,
            found="the same sound in the near and the far channel",
            expected="recordings of two microphones, of which one is cancelled in the other",
            remedy="Check how it was recorded, or take a system that hears near alone, such as frozen-near",
        )


def make_views(
    recorded: dict[Channel, Waveform],
    views: Sequence[View],
    cancellation: Cancellation,
    sample_rate_hz: int = 16_000,
) -> Waveform:
    """Views of the channels of one recording, each (samples,) float32: (views, samples) float32."""
    from nearfar.cancellation import cancel

    rows: list[Waveform] = []
    for view in views:
        if view == "cancelled":
            rows.append(cancel(recorded["near"], recorded["far"], cancellation, sample_rate_hz))
        else:
            rows.append(recorded[view])
    return np.stack(rows)
