"""From contributions of dimensions to contributions of bands and quantities, and to the region that a score is
due to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.explain.dimensions import Dimensions, Quantity, undivided
from nearfar.explain.localisation import BANDS, band_edges_hz
from nearfar.scoring.contributions import ViewContributions

MENTIONED = 0.25
"""Fraction of a region's contributions above which a quantity is named in words."""
FRACTION_OF_PEAK = 0.5
"""Bands beside the one that contributes most belong to the region if they contribute this fraction of it."""
CONSTANT = Quantity("constant of the fusion")
WHOLE_SCORE = Quantity("score")


@dataclass(frozen=True, slots=True)
class Contribution:
    """The contribution of one quantity in one band to a score.

    Attributes:
        view: the scored view.
        low_hz, high_hz: the band, in hertz.
        kind: the quantity, such as ``level`` or ``change over 10 ms``.
        share: in the unit of the score; the shares of a score add up to it. Below 0 where a band is nearer to
            normal recordings than these are to one another.
        difference_db: by how much the quantity differs from what it is compared with, in decibels; dimensions
            that contribute more weigh more. None where it has no level.
    """

    view: str
    low_hz: float
    high_hz: float
    kind: str
    share: float
    difference_db: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """A contribution with the words for it.

    Attributes:
        contribution: the numbers.
        quantity: that is measured.
        difference: in the unit of the features, or None.
        reference: what the features are compared with, in words.
    """

    contribution: Contribution
    quantity: Quantity
    difference: float | None
    reference: str


@dataclass(frozen=True, slots=True)
class Cause:
    """The bands that contribute most to a score.

    Attributes:
        bands: of the map of departures, see :func:`nearfar.explain.localisation.band_edges_hz`.
        share: the fraction of all contributions above 0 that they make.
        view: that contributes most in these bands; the words are about it.
        words: how they differ and from what.
    """

    bands: slice
    share: float
    view: str
    words: str


def parts_of(
    views: Mapping[str, ViewContributions], dimensions: Dimensions, clip: int, score: float
) -> tuple[Part, ...]:
    """The contributions to one score by view, band and quantity, largest first.

    Args:
        views: the contributions of several clips.
        dimensions: of the features of views of waveforms; those of a view that combines them into another shape
            have no bands.
        clip: index of the clip.
        score: that the shares shall add up to. It was computed with other clips in a batch and may differ from
            their sum by rounding in single precision.
    """
    constant = sum(view.constant for view in views.values())
    total = sum(float(view.shares[clip].sum()) for view in views.values())
    factor = (score - constant) / total if total else 1.0
    out: list[Part] = []
    for name, view in views.items():
        shares = factor * view.shares[clip : clip + 1]
        if view.difference is None:
            out += _grouped(name, undivided(1, 1, WHOLE_SCORE), shares, torch.zeros_like(shares), "")
        else:
            difference = view.difference[clip : clip + 1]
            same = shares.shape[1:] == dimensions.index.shape
            own = dimensions if same else undivided(shares.shape[1], shares.shape[2])
            out += _grouped(name, own, shares, difference, view.reference)
        if view.constant:
            fixed = torch.full((1, 1, 1), view.constant, dtype=torch.float64)
            out += _grouped(name, undivided(1, 1, CONSTANT), fixed, torch.zeros_like(fixed), "")
    return tuple(sorted(out, key=lambda part: -part.contribution.share))


def _grouped(view: str, dimensions: Dimensions, shares: Tensor, difference: Tensor, reference: str) -> list[Part]:
    """The parts of one view of one clip, (1, parts, dim), in the order of the groups."""
    weights = shares.abs() + 1e-300  # of a group without contributions, the mean
    weighted = dimensions.sums(weights * difference) / dimensions.sums(weights)
    parts = []
    of_groups = dimensions.sums(shares)[0].tolist(), weighted[0].tolist()
    for group, share, mean in zip(dimensions.groups, *of_groups, strict=True):
        quantity = group.quantity
        found = mean if quantity.more else None
        decibels = None if found is None or quantity.to_db is None else quantity.to_db * found
        entry = Contribution(view, group.low_hz, group.high_hz, quantity.name, share, decibels)
        parts.append(Part(entry, quantity, found, reference))
    return parts


def cause(parts: Sequence[Part]) -> Cause | None:
    """The band that contributes most, with its neighbours that contribute half as much or more.

    Returns:
        None where no contribution above 0 is of a band narrower than the whole spectrum.
    """
    shares = np.array([part.contribution.share for part in parts], dtype=np.float64)
    fractions = np.array([_fractions(part.contribution.low_hz, part.contribution.high_hz) for part in parts])
    by_band = shares @ fractions.reshape(-1, BANDS)
    peak = int(by_band.argmax())
    if by_band[peak] <= 0.0:
        return None
    bands = around(by_band >= FRACTION_OF_PEAK * by_band[peak], peak)
    inside = [part for part, within in zip(parts, fractions[:, bands].sum(axis=1), strict=True) if within >= 0.5]
    positive = float(np.maximum(shares, 0.0).sum())
    share = min(float(by_band[bands].sum()) / positive, 1.0)
    by_view: dict[str, float] = {}
    for part in inside:
        by_view[part.contribution.view] = by_view.get(part.contribution.view, 0.0) + part.contribution.share
    view = max(by_view, key=lambda name: by_view[name])
    words = _words([part for part in inside if part.contribution.view == view], len(by_view))
    return Cause(bands, share, view, words)


def around(mask: Tensor | NDArray[np.bool_], index: int) -> slice:
    """The consecutive true values around an index, and the index itself."""
    first, last = index, index
    while first > 0 and mask[first - 1]:
        first -= 1
    while last < len(mask) - 1 and mask[last + 1]:
        last += 1
    return slice(first, last + 1)


@lru_cache(maxsize=1024)
def _fractions(low_hz: float, high_hz: float) -> tuple[float, ...]:
    """The fraction of a band, on the mel scale, in each band of the map; 0 for the whole spectrum."""
    edges = np.array([_mel(hz) for hz in band_edges_hz()])
    overlap = np.maximum(np.minimum(edges[1:], _mel(high_hz)) - np.maximum(edges[:-1], _mel(low_hz)), 0.0)
    whole = overlap.sum()
    covers_all = bool((overlap > 0.5 * np.diff(edges)).all())
    return (0.0,) * BANDS if covers_all or whole <= 0.0 else tuple((overlap / whole).tolist())


def _mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


@dataclass(slots=True)
class _Word:
    """A word for the quantities that it describes: their contributions, differences in dB and details."""

    share: float = 0.0
    decibels: float = 0.0
    details: list[tuple[float, str]] = field(default_factory=list)


def _words(chosen: Sequence[Part], views: int) -> str:
    """How a region differs, by its parts of one view, which is named where there are several views."""
    reference = chosen[0].reference + (f" in the view {chosen[0].contribution.view}" if views > 1 else "")
    signed = [part for part in _by_quantity(chosen) if part.difference is not None]
    words: dict[str, _Word] = {}
    for part in signed:
        assert part.difference is not None
        name = part.quantity.more if part.difference > 0 else part.quantity.less
        word, share = words.setdefault(name, _Word()), max(part.contribution.share, 0.0)
        word.share += share
        word.decibels += share * abs(part.contribution.difference_db or 0.0)
        if part.quantity.detail:
            word.details.append((share, part.quantity.detail))
    whole = sum(word.share for word in words.values())
    named = sorted(words.items(), key=lambda item: -item[1].share)
    listed = [_phrase(name, word) for name, word in named if word.share >= MENTIONED * whole > 0.0]
    if not listed:
        return f"{chosen[0].quantity.name} unlike {reference}"
    return f"{' and '.join(listed)} than {reference}"


def _by_quantity(parts: Sequence[Part]) -> list[Part]:
    """Parts of one view with the bands of a quantity joined: shares add up, differences are averaged by them."""
    joined: dict[Quantity, list[Part]] = {}
    for part in parts:
        joined.setdefault(part.quantity, []).append(part)
    out = []
    for quantity, members in joined.items():
        weights = [abs(part.contribution.share) + 1e-300 for part in members]
        share = sum(part.contribution.share for part in members)
        mean: float | None = None
        if members[0].difference is not None:
            weighted = (w * (part.difference or 0.0) for w, part in zip(weights, members, strict=True))
            mean = sum(weighted) / sum(weights)
        decibels = None if mean is None or quantity.to_db is None else quantity.to_db * mean
        first = members[0].contribution
        entry = Contribution(first.view, first.low_hz, first.high_hz, first.kind, share, decibels)
        out.append(Part(entry, quantity, mean, members[0].reference))
    return out


def _phrase(name: str, word: _Word) -> str:
    """Such as ``6 dB louder`` or ``2 dB more variable over 10 and 40 ms``."""
    decibels = word.decibels / word.share
    number = f"{decibels:.0f} dB " if decibels >= 1.0 else f"{decibels:.1f} dB " if decibels >= 0.05 else ""
    most = max((share for share, _ in word.details), default=0.0)
    details = [detail for share, detail in word.details if share >= 0.5 * most]
    numbers = sorted({detail.removesuffix(" ms") for detail in details}, key=lambda text: (len(text), text))
    listed = " and ".join(filter(None, [", ".join(numbers[:-1]), *numbers[-1:]]))
    return f"{number}{name}" + (f" over {listed} ms" if numbers else "")
