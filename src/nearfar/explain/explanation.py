"""An explanation of a clip in one sentence: at which times and frequencies it departs from normal, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.explain.localisation import (
    BANDS,
    FACTS,
    PatchBank,
    band_edges_hz,
    clip_level,
    departures,
    nearest_patches,
    patch_facts,
    patch_features,
    time_edges_s,
)
from nearfar.frontends.kaldi import mel_centres_hz

SURPASSED = 0.95
"""A statistic is mentioned if the region surpasses this fraction of normal clips in it."""
AUDIBLE_DB = 1.0
"""Smaller differences are not mentioned."""
_WORDS = {
    "level": ("quieter", "louder"),
    "variation": ("steadier", "more impulsive"),
    "contrast": ("less tonal", "more tonal"),
}
_DECIBELS = 10.0 / math.log(10.0)

Cells = tuple[slice, slice]
"""Columns and bands of a region."""


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Where a clip departs most from normal.

    Attributes:
        map: (columns, bands) float32, see :func:`nearfar.explain.localisation.departures`; cell (t, f) is EAT's
            patch token ``t * 8 + f``.
        time_edges_s: (columns + 1,) edges of the columns in seconds.
        band_edges_hz: (bands + 1,) edges of the bands in hertz.
        peak: the largest value of the map.
        notable: whether the peak is above those of 95 % of the normal clips.
        begin_s, end_s, low_hz, high_hz: the region around the peak, in seconds and hertz.
        nearest: index of the normal clip, as passed to :func:`nearfar.explain.localisation.fit_patches`, that has
            the most patches nearest to the region's.
        most_hz: the frequency in the region where the mean spectrum differs most from the nearest normal patches.
        excess_db: the difference there in dB, relative to the mean levels of the clips.
        sentence: the same in words.
    """

    map: NDArray[np.float32]
    time_edges_s: tuple[float, ...]
    band_edges_hz: tuple[float, ...]
    peak: float
    notable: bool
    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float
    nearest: int
    most_hz: float
    excess_db: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Nearest:
    """The clip of most normal patches nearest to a region, and the greatest difference of the mean spectra."""

    clip: int
    at_hz: float
    excess_db: float


def explain(log_mel: Tensor, bank: PatchBank, *, begin_s: float | None = None) -> Explanation:
    """Explain one clip.

    Args:
        log_mel: (frames, 128) float32 without padding; see :meth:`nearfar.frontends.kaldi.KaldiFbank.log_mel`.
        bank: of normal clips of the same machine and view.
        begin_s: start of the clip in a longer recording, added to all times; None for a whole recording.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    features = patch_features(log_mel)
    grid = departures(features, bank.normal)
    cells = region(grid)
    notable = float(grid.max()) > bank.usual_peak
    nearest = _nearest(features, bank, cells)
    times, bands = [(begin_s or 0.0) + edge for edge in time_edges_s(len(grid))], band_edges_hz()
    begin, end = times[cells[0].start], times[cells[0].stop]
    low, high = bands[cells[1].start], bands[cells[1].stop]
    throughout = begin_s is None and (cells[0].start, cells[0].stop) == (0, len(grid))
    when = "throughout" if throughout else f"{begin:.1f} to {end:.1f} s"
    where = f"{when}, {_hertz(low, high)}"
    difference = _comparison(patch_facts(log_mel)[cells], bank, cells)
    difference = difference or _difference(nearest, len(bank.peaks), notable)
    opening = where if notable else f"Nothing stands out; the least usual part, {where}"
    return Explanation(
        map=grid.numpy(),
        time_edges_s=tuple(times),
        band_edges_hz=tuple(bands),
        peak=float(grid.max()),
        notable=notable,
        begin_s=begin,
        end_s=end,
        low_hz=low,
        high_hz=high,
        nearest=nearest.clip,
        most_hz=nearest.at_hz,
        excess_db=nearest.excess_db,
        sentence=f"{opening}: {difference}{_overall(log_mel, bank)}.",
    )


def region(grid: Tensor) -> Cells:
    """The cells around the peak of a (columns, bands) map.

    Returns:
        the run of columns around the peak that reach half of it in its band; the run of bands around the peak's in
        which at least half of these columns do.
    """
    column, band = divmod(int(grid.argmax()), grid.shape[1])
    enough = grid >= max(0.5 * float(grid.max()), 0.0)
    enough[column, band] = True  # a map without positive values has a peak as well
    columns = _run(enough[:, band], column)
    bands = _run(enough[columns].float().mean(dim=0) >= 0.5, band)
    return columns, slice(min(bands.start, band), max(bands.stop, band + 1))


def _run(true: Tensor, index: int) -> slice:
    """The unbroken run of true values around an index."""
    first, last = index, index
    while first > 0 and true[first - 1]:
        first -= 1
    while last < len(true) - 1 and true[last + 1]:
        last += 1
    return slice(first, last + 1)


def _nearest(features: Tensor, bank: PatchBank, cells: Cells) -> _Nearest:
    index = nearest_patches(features, bank.normal)[1]
    bands = torch.arange(BANDS).expand_as(index)
    bins = features.shape[2] // 2
    difference = features[cells] - bank.patches[bands, index][cells]
    by_bin = _DECIBELS * difference[..., :bins].mean(dim=0).flatten()
    largest = int(by_bin.abs().argmax())
    clip = int(bank.owners[bands, index][cells].flatten().mode().values)
    return _Nearest(clip, float(mel_centres_hz()[cells[1].start * bins + largest]), float(by_bin[largest]))


def _comparison(facts: Tensor, bank: PatchBank, cells: Cells) -> str:
    """The statistics in which a region surpasses nearly all normal clips at any time, in words; empty if none.

    Args:
        facts: (columns, bands, 3) of the region.
    """
    clips = len(bank.facts)
    lowest, highest = bank.facts[:, :, cells[1]].mean(dim=2).unbind(dim=1)
    by_column = facts.mean(dim=1)
    margin = AUDIBLE_DB / _DECIBELS
    words, weakest = [], clips
    for index, fact in enumerate(FACTS):
        below = int((by_column[:, index].min() < lowest[:, index] - margin).sum())
        above = int((by_column[:, index].max() > highest[:, index] + margin).sum())
        surpassed, word = max((below, _WORDS[fact][0]), (above, _WORDS[fact][1]))
        if surpassed >= SURPASSED * clips:
            words.append(word)
            weakest = min(weakest, surpassed)
    if not words:
        return ""
    return f"{_listed(words)} than {'any' if weakest == clips else weakest} of {clips} normal clips"


def _difference(nearest: _Nearest, clips: int, notable: bool) -> str:
    """How a region differs from the nearest normal patches, in words."""
    opening = f"unlike any sound there in {clips} normal clips" if notable else "much as in normal clips"
    if abs(nearest.excess_db) < AUDIBLE_DB:
        return opening
    word = _WORDS["level"][nearest.excess_db > 0]
    most = f"{abs(nearest.excess_db):.0f} dB {word} at {_number(nearest.at_hz)} than the most similar"
    return f"{opening}, {most}" if notable else f"{opening}, at most {most}"


def _overall(log_mel: Tensor, bank: PatchBank) -> str:
    """Whether the whole clip is louder or quieter than all normal clips, which the map does not show."""
    level = clip_level(log_mel)
    above, below = float(level - bank.levels.max()), float(bank.levels.min() - level)
    excess = _DECIBELS * max(above, below)
    if excess < AUDIBLE_DB:
        return ""
    return f"; the whole clip is {excess:.0f} dB {'louder' if above > below else 'quieter'} than any of them"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _hertz(low: float, high: float) -> str:
    if low >= 1000:
        return f"{low / 1000:.1f} to {_number(high)}"
    return f"{_number(low)} to {_number(high)}" if high >= 1000 else f"{low:.0f} to {_number(high)}"


def _number(hertz: float) -> str:
    return f"{hertz / 1000:.1f} kHz" if hertz >= 1000 else f"{hertz:.0f} Hz"
