"""Explanation of a clip in one sentence: at which times and frequencies it departs from normal, and how.

Bands and differences are those that a score is due to (:mod:`nearfar.explain.attribution`), times are those of
the map of departures in these bands. Without contributions to a score, all are of the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.explain.attribution import Cause, around
from nearfar.explain.dimensions import DECIBELS
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
from nearfar.threads import one_thread

SURPASSED = 0.95
"""Fraction of normal clips that a region must surpass in a statistic for the statistic to be mentioned."""
AUDIBLE_DB = 1.0
"""Differences below this level are not mentioned."""
_WORDS = {
    "level": ("quieter", "louder"),
    "variation": ("steadier", "more impulsive"),
    "contrast": ("less tonal", "more tonal"),
}

Cells = tuple[slice, slice]
"""Columns and bands of a region."""


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The region of a clip that departs most from normal.

    Attributes:
        map: (columns, bands) float32, see :func:`nearfar.explain.localisation.departures`; cell (t, f) is EAT's
            patch token ``t * 8 + f``.
        time_edges_s: (columns + 1,) edges of the columns in seconds.
        band_edges_hz: (bands + 1,) edges of the bands in hertz.
        peak: the largest value of the map.
        notable: whether the score is above its threshold; without a score, whether the peak is above those of 95 %
            of the normal clips.
        cells: the columns and bands of the region.
        begin_s, end_s, low_hz, high_hz: the region, in seconds and hertz.
        share: the fraction of the contributions to the score that the region's bands make; None without a score
            that is divided among bands.
        view: that contributes most in these bands, which the sentence is about; None where ``share`` is.
        nearest: index of the normal clip, as passed to :func:`nearfar.explain.localisation.fit_patches`, that has
            the most patches nearest to the region's.
        most_hz: the frequency in the region where the mean spectrum differs most from the nearest normal patches.
        excess_db: the difference there in dB, relative to the mean levels of the clips.
        sentence: the region, whether it is notable, and the difference in words.
    """

    map: NDArray[np.float32]
    time_edges_s: tuple[float, ...]
    band_edges_hz: tuple[float, ...]
    peak: float
    notable: bool
    cells: Cells
    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float
    share: float | None
    view: str | None
    nearest: int
    most_hz: float
    excess_db: float
    sentence: str


@one_thread()
def explain(
    log_mel: Tensor,
    bank: PatchBank,
    *,
    begin_s: float | None = None,
    cause: Cause | None = None,
    anomalous: bool | None = None,
) -> Explanation:
    """Explain one clip.

    Args:
        log_mel: (frames, 128) float32 without padding; see :meth:`nearfar.frontends.kaldi.KaldiFbank.log_mel`.
        bank: of normal clips of the same machine and view.
        begin_s: start of the clip in a longer recording, added to all times; None for a whole recording.
        cause: the bands that its score is due to; None where there is no score or it is not divided among bands.
        anomalous: whether its score is above the threshold; None where there is no score or no threshold.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    features = patch_features(log_mel)
    grid = departures(features, bank)
    cells = region(grid) if cause is None else region_in(grid, cause.bands)
    peak = float(grid.max())
    notable = peak > bank.usual_peak if anomalous is None else anomalous
    nearest, most_hz, excess_db = _nearest(features, bank, cells)
    times, bands = [(begin_s or 0.0) + edge for edge in time_edges_s(len(grid))], band_edges_hz()
    begin, end = times[cells[0].start], times[cells[0].stop]
    low, high = bands[cells[1].start], bands[cells[1].stop]
    throughout = begin_s is None and (cells[0].start, cells[0].stop) == (0, len(grid))
    span = f"{'throughout' if throughout else f'{begin:.1f} to {end:.1f} s'}, {_hertz(low, high)}"
    if cause is None:
        unusual = peak > bank.usual_peak
        difference = _comparison(patch_facts(log_mel)[cells], bank, cells)
        difference = difference or _difference(most_hz, excess_db, len(bank.peaks), unusual)
        said = f"{_opening(span, unusual, anomalous)}: {difference}"
    else:
        said = f"{_SMALL[anomalous]}{span}: {cause.words}" + f", {100 * cause.share:.0f} % of the score" * bool(
            anomalous
        )
    return Explanation(
        map=grid.numpy(),
        time_edges_s=tuple(times),
        band_edges_hz=bands,
        peak=peak,
        notable=notable,
        cells=cells,
        begin_s=begin,
        end_s=end,
        low_hz=low,
        high_hz=high,
        share=None if cause is None else cause.share,
        view=None if cause is None else cause.view,
        nearest=nearest,
        most_hz=most_hz,
        excess_db=excess_db,
        sentence=f"{said}{_overall(log_mel, bank)}.",
    )


_SMALL = {
    True: "",
    False: "Not anomalous; the largest contribution to the score, ",
    None: "The largest contribution to the score, ",
}


def _opening(span: str, unusual: bool, anomalous: bool | None) -> str:
    """The begin of a sentence on the map alone, which agrees with the verdict on the score."""
    if anomalous is None:
        return span if unusual else f"Nothing stands out; the least usual part, {span}"
    return f"{'T' if anomalous else 'Not anomalous; t'}he least usual part of the spectrogram, {span}"


def region_in(grid: Tensor, bands: slice) -> Cells:
    """The columns of a (columns, bands) map around the peak of the mean over some bands, with these bands.

    Returns:
        the consecutive columns around the peak that reach half of it, and ``bands``.
    """
    profile = grid[:, bands].mean(dim=1)
    peak = int(profile.argmax())
    return around(profile >= max(0.5 * float(profile[peak]), 0.0), peak), bands


def region(grid: Tensor) -> Cells:
    """The cells around the peak of a (columns, bands) map.

    Returns:
        the consecutive columns around the peak that reach half of it in its band; the consecutive bands around
        the peak's in which at least half of these columns do.
    """
    column, band = divmod(int(grid.argmax()), grid.shape[1])
    above_half = grid >= max(0.5 * float(grid.max()), 0.0)
    above_half[column, band] = True  # a map without positive values has a peak as well
    columns = around(above_half[:, band], column)
    return columns, around(above_half[columns].float().mean(dim=0) >= 0.5, band)


def _nearest(features: Tensor, bank: PatchBank, cells: Cells) -> tuple[int, float, float]:
    """The clip of most normal patches nearest to a region, and the largest difference of their mean spectra.

    Returns:
        the index of the clip, the frequency of the difference in Hz, and the difference in dB.
    """
    inside = features[cells]
    index = nearest_patches(inside, bank, cells[1])
    bands = torch.arange(BANDS)[cells[1]].expand_as(index)
    bins = features.shape[2] // 2
    difference = inside - bank.patches[bands, index]
    by_bin = DECIBELS * difference[..., :bins].mean(dim=0).flatten()
    largest = int(by_bin.abs().argmax())
    clip = int(bank.owners[bands, index].flatten().mode().values)
    return clip, float(mel_centres_hz()[cells[1].start * bins + largest]), float(by_bin[largest])


def _comparison(facts: Tensor, bank: PatchBank, cells: Cells) -> str:
    """The statistics in which a region surpasses nearly all normal clips at any time, in words; empty if none.

    Args:
        facts: (columns, bands, 3) of the region.
    """
    clips = len(bank.facts)
    lowest, highest = bank.facts[:, :, cells[1]].mean(dim=2).unbind(dim=1)
    by_column = facts.mean(dim=1)
    margin = AUDIBLE_DB / DECIBELS
    words, fewest = [], clips
    for index, fact in enumerate(FACTS):
        below = int((by_column[:, index].min() < lowest[:, index] - margin).sum())
        above = int((by_column[:, index].max() > highest[:, index] + margin).sum())
        surpassed, word = max((below, _WORDS[fact][0]), (above, _WORDS[fact][1]))
        if surpassed >= SURPASSED * clips:
            words.append(word)
            fewest = min(fewest, surpassed)
    if not words:
        return ""
    listed = " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    return f"{listed} than {'any' if fewest == clips else fewest} of {clips} normal recordings"


def _difference(most_hz: float, excess_db: float, clips: int, notable: bool) -> str:
    """The difference of a region from the nearest normal patches, in words."""
    opening = f"unlike any sound there in {clips} normal recordings" if notable else "much as in normal recordings"
    if abs(excess_db) < AUDIBLE_DB:
        return opening
    most = f"{abs(excess_db):.0f} dB {_WORDS['level'][excess_db > 0]} at {_number(most_hz)} than the most similar"
    return f"{opening}, {most}" if notable else f"{opening}, at most {most}"


def _overall(log_mel: Tensor, bank: PatchBank) -> str:
    """The level of the whole clip if it is above or below all normal clips, in words; the map does not show it."""
    level = clip_level(log_mel)
    above, below = float(level - bank.levels.max()), float(bank.levels.min() - level)
    excess = DECIBELS * max(above, below)
    if excess < AUDIBLE_DB:
        return ""
    return f"; the whole recording is {excess:.0f} dB {'louder' if above > below else 'quieter'} than any of them"


def _hertz(low: float, high: float) -> str:
    same_unit = (low >= 1000) == (high >= 1000)
    return f"{_number(low).split()[0] if same_unit else _number(low)} to {_number(high)}"


def _number(hertz: float) -> str:
    return f"{hertz / 1000:.1f} kHz" if hertz >= 1000 else f"{hertz:.0f} Hz"
