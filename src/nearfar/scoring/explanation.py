"""What a deviation map says in a sentence: when, at which frequencies, and what is different there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nearfar.scoring.localisation import (
    BANDS,
    PatchBank,
    band_edges_hz,
    column_seconds,
    deviations,
    patch_facts,
)

NOTABLE = 0.95
"""A peak that is not above those of this share of normal clips is called usual."""
_WORDS = {
    "level": ("quieter", "louder"),
    "variation": ("steadier", "more impulsive"),
    "contrast": ("flatter", "more tonal"),
}
_SHARE = 0.95
"""Of normal clips that must be surpassed for a fact to be told."""


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Where a clip departs most from normal.

    Attributes:
        map: (columns, bands) float32 deviations; columns of 0.16 s, bands from low to high.
        peak: the largest.
        begin_s, end_s, low_hz, high_hz: the region around it.
        sentence: the same in words.
    """

    map: NDArray[np.float32]
    peak: float
    begin_s: float
    end_s: float
    low_hz: float
    high_hz: float
    sentence: str


def explain(log_mel: Tensor, bank: PatchBank) -> Explanation:
    """Explain one clip.

    Args:
        log_mel: (frames, 128) float32 of the clip, without padding, at least 16 frames.
        bank: of normal clips of the same machine and view.
    """
    grid = deviations(log_mel, bank).numpy()
    columns, bands = _region(grid)
    edges = band_edges_hz()
    begin, end = column_seconds(columns[0])[0], column_seconds(columns[1])[1]
    low, high = edges[bands[0]], edges[bands[1] + 1]
    peak = float(grid.max())
    told = _comparison(patch_facts(log_mel).numpy(), bank, columns, bands)
    where = f"{begin:.1f} to {end:.1f} s, {_hertz(low)} to {_hertz(high)}"
    if peak <= float(np.quantile(bank.peaks.numpy(), NOTABLE)):
        sentence = f"Nothing stands out; {where} is the least usual part: {told}."
    else:
        sentence = f"{where}: {told}."
    return Explanation(grid.astype(np.float32), peak, begin, end, low, high, sentence)


def _region(grid: NDArray[np.float32]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last column and band of the cells around the peak that reach half of it, grown side by side."""
    column, band = (int(place) for place in np.unravel_index(int(grid.argmax()), grid.shape))
    enough = grid >= 0.5 * max(float(grid.max()), 0.0)
    first = last = column
    while first > 0 and enough[first - 1, band]:
        first -= 1
    while last < len(grid) - 1 and enough[last + 1, band]:
        last += 1
    low = high = band
    strong = enough[first : last + 1].mean(axis=0) >= 0.5
    while low > 0 and strong[low - 1]:
        low -= 1
    while high < BANDS - 1 and strong[high + 1]:
        high += 1
    return (first, last), (low, high)


def _comparison(
    facts: NDArray[np.float32], bank: PatchBank, columns: tuple[int, int], bands: tuple[int, int]
) -> str:
    """How the region's facts stand against the lowest and highest of them in each normal clip."""
    inside = facts[columns[0] : columns[1] + 1, bands[0] : bands[1] + 1]
    normal = bank.facts[:, :, bands[0] : bands[1] + 1].numpy().mean(axis=2)
    clips = len(normal)
    words, weakest = [], clips
    for place, fact in enumerate(_WORDS):
        by_column = inside[..., place].mean(axis=1)
        below = int((by_column.min() < normal[:, 0, place]).sum())
        above = int((by_column.max() > normal[:, 1, place]).sum())
        surpassed, word = max((below, _WORDS[fact][0]), (above, _WORDS[fact][1]))
        if surpassed >= _SHARE * clips:
            words.append(word)
            weakest = min(weakest, surpassed)
    if not words:
        return f"another sound than in any of {clips} normal clips, neither louder nor otherwise extreme"
    than = f"any of {clips} normal clips" if weakest == clips else f"{weakest} of {clips} normal clips"
    return f"{', '.join(words[:-1])}{' and ' if len(words) > 1 else ''}{words[-1]} than {than}"


def _hertz(hertz: float) -> str:
    return f"{hertz / 1000:.1f} kHz" if hertz >= 1000 else f"{round(hertz, -1):.0f} Hz"
