"""The table of views, and the computation of views of waveforms and of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nearfar.data.audio import read_waveform
from nearfar.data.clips import CHANNELS, Channel
from nearfar.registry import Entry, Registry
from nearfar.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

Waveform = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class View(Entry):
    """A view: either ``waveform`` or ``combine`` is set.

    Attributes:
        channels: the recorded channels that ``waveform`` needs.
        waveform: from recorded channels, each (samples,) float32, the settings and the sample rate in hertz to
            (samples,) float32, or (signals, samples) if there are several signals.
        signals: number of signals of a view of waveforms.
        check: from the channels, the settings and the recording's name; raises an InputError if the view cannot
            be made from them.
        views: names of the views that ``combine`` needs.
        combine: from features of these views, each (clips, parts, dim), and the settings to features.
    """

    channels: tuple[Channel, ...] = ()
    waveform: Callable[[Mapping[Channel, Waveform], Any, int], Waveform] | None = None
    signals: int = 1
    check: Callable[[Mapping[Channel, Waveform], Any, str], None] | None = None
    views: tuple[str, ...] = ()
    combine: Callable[[Mapping[str, Tensor], Any], Tensor] | None = None


VIEWS: Registry[View] = Registry("view")

ViewSettings = Mapping[str, Settings]
"""The settings of views by name; the others have their defaults."""


def required_waveforms(views: Sequence[str]) -> tuple[str, ...]:
    """The views of waveforms from which all ``views`` are made, in order, without duplicates."""
    needed: dict[str, None] = {}
    for name in views:
        needed |= dict.fromkeys([name] if VIEWS[name].combine is None else required_waveforms(VIEWS[name].views))
    return tuple(needed)


def channels_of(views: Sequence[str]) -> tuple[Channel, ...]:
    """The recorded channels that views are made from, near first."""
    needed = {channel for view in required_waveforms(views) for channel in VIEWS[view].channels}
    return tuple(channel for channel in CHANNELS if channel in needed)


def make_views(
    recorded: Mapping[Channel, Waveform],
    views: Sequence[str],
    settings: ViewSettings | None = None,
    sample_rate_hz: int = 16_000,
) -> Waveform:
    """Views of the channels of one recording, each (samples,): (views, samples) float32.

    Views of several signals are (views, signals, samples); the number of signals is the same for all views.
    """
    rows = []
    for name in views:
        view = VIEWS[name]
        assert view.waveform is not None, f"{name} is a view of features"
        rows.append(view.waveform(recorded, _settings(settings, name), sample_rate_hz))
    return np.stack(rows)


def check_views(
    recorded: Mapping[Channel, Waveform], views: Sequence[str], settings: ViewSettings | None, recording: str
) -> None:
    """Raise an InputError about ``recording`` if one of the views cannot be made from these channels."""
    for name in views:
        if (check := VIEWS[name].check) is not None:
            check(recorded, _settings(settings, name), recording)


def read_views(
    path: Path,
    views: Sequence[str],
    settings: ViewSettings | None = None,
    *,
    sample_rate_hz: int = 16_000,
    near: int = 0,
    far: int = 1,
) -> Waveform:
    """Read a recording and make views of it, as :func:`make_views`.

    Args:
        path: a WAV or FLAC file.
        views: names of views of waveforms.
        settings: settings of the views.
        sample_rate_hz: sample rate of the result.
        near, far: indices, from 0, of the file's near and far channel.

    Raises:
        InputError: as :func:`nearfar.data.audio.read_waveform`, and if a view cannot be made from the channels.
    """
    channels = channels_of(views)
    waveform = read_waveform(path, channels, sample_rate_hz, near=near, far=far)
    recorded = dict(zip(channels, waveform, strict=True))
    check_views(recorded, views, settings, str(path))
    return make_views(recorded, views, settings, sample_rate_hz)


def combined_features(
    features: Mapping[str, Tensor], views: Sequence[str], settings: ViewSettings | None = None
) -> dict[str, Tensor]:
    """Features (clips, parts, dim) of all ``views`` from those of :func:`required_waveforms`."""
    out: dict[str, Tensor] = {}
    for name in views:
        view = VIEWS[name]
        if view.combine is None:
            out[name] = features[name]
        else:
            out[name] = view.combine(combined_features(features, view.views, settings), _settings(settings, name))
    return out


def _settings(settings: ViewSettings | None, name: str) -> Settings:
    return (settings or {}).get(name) or VIEWS[name].settings()
