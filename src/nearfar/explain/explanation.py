"""What a map of departures says in a sentence: when, at which frequencies, and what is different there."""

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

NOTABLE = 0.95
"""A peak that is not above those of this share of normal clips is called usual."""
SURPASSED = 0.95
"""The share of normal clips that a region must surpass in a fact for the fact to be told."""
AUDIBLE_DB = 1.0
"""Differences below this are not told."""
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
        map: (columns, bands) float32: 0 is as near to normal as normal clips are, 1 twice as far from it, and so
            on; cell (t, f) is EAT's patch token ``t * 8 + f``.
        time_edges_s: (columns + 1,) edges of the columns in seconds.
        band_edges_hz: (bands + 1,) edges of the bands in hertz.
        peak: the largest value of the map.
        notable: whether the peak is above those of 95 % of the normal clips.
        begin_s, end_s, low_hz, high_hz: the region around the peak.
        nearest: which normal clip, counted as they were given to the bank, is most like the region.
        most_hz: where in the region the mean spectrum differs most from the most similar normal patches, and
        excess_db: by how much, both clips' mean levels taken out.
        sentence: all this in words.
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
class _Beside:
    """A region beside the normal patches nearest to its cells: whose most are, and the greatest difference."""

    clip: int
    at_hz: float
    excess_db: float


def explain(log_mel: Tensor, bank: PatchBank, *, begin_s: float | None = None) -> Explanation:
    """Explain one clip.

    Args:
        log_mel: (frames, 128) float32 of the clip, without padding, as :meth:`nearfar.frontends.kaldi.KaldiFbank.log_mel`
            gives it.
        bank: of normal clips of the same machine and view.
        begin_s: when the clip begins in a longer recording, whose times are told then; None where it is all.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    features = patch_features(log_mel)
    grid = departures(features, bank.normal)
    cells = region(grid)
    notable = bool(grid.max() > bank.peaks.quantile(NOTABLE))
    beside = _beside_nearest(features, bank, cells)
    times, bands = [(begin_s or 0.0) + edge for edge in time_edges_s(len(grid))], band_edges_hz()
    begin, end = times[cells[0].start], times[cells[0].stop]
    low, high = bands[cells[1].start], bands[cells[1].stop]
    throughout = begin_s is None and (cells[0].start, cells[0].stop) == (0, len(grid))
    when = "throughout" if throughout else f"{begin:.1f} to {end:.1f} s"
    where = f"{when}, {_hertz(low, high)}"
    told = _comparison(patch_facts(log_mel)[cells], bank, cells) or _difference(beside, len(bank.peaks), notable)
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
        nearest=beside.clip,
        most_hz=beside.at_hz,
        excess_db=beside.excess_db,
        sentence=f"{opening}: {told}{_overall(log_mel, bank)}.",
    )


def region(grid: Tensor) -> Cells:
    """The cells around the peak: its run of columns, then of bands, at half the peak or more.

    Args:
        grid: (columns, bands) float32.

    Returns:
        columns of the peak's band next to it that reach half of it; bands next to the peak's in which at least
        half of these columns do.
    """
    column, band = divmod(int(grid.argmax()), grid.shape[1])
    enough = grid >= max(0.5 * float(grid.max()), 0.0)
    enough[column, band] = True  # a map without positive values has a peak as well
    columns = _run(enough[:, band], column)
    bands = _run(enough[columns].float().mean(dim=0) >= 0.5, band)
    return columns, slice(min(bands.start, band), max(bands.stop, band + 1))


def _run(true: Tensor, place: int) -> slice:
    """The unbroken run of true values around a place."""
    first, last = place, place
    while first > 0 and true[first - 1]:
        first -= 1
    while last < len(true) - 1 and true[last + 1]:
        last += 1
    return slice(first, last + 1)


def _beside_nearest(features: Tensor, bank: PatchBank, cells: Cells) -> _Beside:
    index = nearest_patches(features, bank.normal)[1]
    bands = torch.arange(BANDS).expand_as(index)
    bins = features.shape[2] // 2
    ours, theirs = features[cells], bank.patches[bands, index][cells]
    by_bin = _DECIBELS * (ours - theirs)[..., :bins].mean(dim=0).flatten()
    place = int(by_bin.abs().argmax())
    whose = int(bank.owners[bands, index][cells].flatten().mode().values)
    return _Beside(whose, float(mel_centres_hz()[cells[1].start * bins + place]), float(by_bin[place]))


def _comparison(facts: Tensor, bank: PatchBank, cells: Cells) -> str:
    """In what the region surpasses nearly all normal clips, at any time of theirs; empty if in nothing.

    Args:
        facts: (columns, bands, 3) of the region.
    """
    clips = len(bank.facts)
    lowest, highest = bank.facts[:, :, cells[1]].mean(dim=2).unbind(dim=1)
    by_column = facts.mean(dim=1)
    margin = AUDIBLE_DB / _DECIBELS
    words, weakest = [], clips
    for place, fact in enumerate(FACTS):
        below = int((by_column[:, place].min() < lowest[:, place] - margin).sum())
        above = int((by_column[:, place].max() > highest[:, place] + margin).sum())
        surpassed, word = max((below, _WORDS[fact][0]), (above, _WORDS[fact][1]))
        if surpassed >= SURPASSED * clips:
            words.append(word)
            weakest = min(weakest, surpassed)
    if not words:
        return ""
    return f"{_listed(words)} than {'any' if weakest == clips else weakest} of {clips} normal clips"


def _difference(beside: _Beside, clips: int, notable: bool) -> str:
    """How the region differs from what is most similar to it, where it surpasses nothing."""
    opening = f"unlike any sound there in {clips} normal clips" if notable else "much as in normal clips"
    if abs(beside.excess_db) < AUDIBLE_DB:
        return opening
    word = _WORDS["level"][beside.excess_db > 0]
    most = f"{abs(beside.excess_db):.0f} dB {word} at {_number(beside.at_hz)} than the most similar"
    return f"{opening}, {most}" if notable else f"{opening}, at most {most}"


def _overall(log_mel: Tensor, bank: PatchBank) -> str:
    """What the map does not show, for levels are taken out: a clip that is louder or quieter as a whole."""
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
