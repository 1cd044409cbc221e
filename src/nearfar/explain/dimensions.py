"""The frequency band and the quantity that each dimension of features describes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from nearfar.explain.localisation import BANDS, band_edges_hz
from nearfar.frontends.kaldi import HIGH_HZ, LOW_HZ, MEL_BINS, mel_centres_hz

DECIBELS = 10.0 / math.log(10.0)
"""Decibels per natural logarithm of energy."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity that a dimension measures.

    Attributes:
        name: of the quantity, such as ``level``.
        less, more: words for a value below and above the compared one; empty where the sign means nothing.
        detail: what follows the words, such as the time of a difference: ``10 ms``; empty for none.
        to_db: factor from the unit of the feature to decibels; None where it is no level.
    """

    name: str
    less: str = ""
    more: str = ""
    detail: str = ""
    to_db: float | None = None


UNNAMED = Quantity("features")
"""Features that have no meaning of their own, such as an embedding."""


@dataclass(frozen=True, slots=True)
class Group:
    """Dimensions of one quantity in one band, in hertz."""

    low_hz: float
    high_hz: float
    quantity: Quantity


@dataclass(frozen=True, slots=True, eq=False)
class Dimensions:
    """The groups of dimensions that features are made of.

    Attributes:
        groups: all of them.
        index: (parts, dim) int64, the group of every dimension.
    """

    groups: tuple[Group, ...]
    index: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """Sums over every group: (clips, parts, dim) to (clips, groups)."""
        out = values.new_zeros(len(values), len(self.groups))
        return out.index_add_(1, self.index.flatten(), values.flatten(1))


def undivided(parts: int, dim: int, quantity: Quantity = UNNAMED) -> Dimensions:
    """Dimensions that all describe the whole spectrum."""
    index = torch.zeros(parts, dim, dtype=torch.int64)
    return Dimensions((Group(LOW_HZ, HIGH_HZ, quantity),), index)


def banded(edges_hz: Sequence[float], quantities: Sequence[Quantity], index: Tensor) -> Dimensions:
    """Dimensions of bands between neighbouring edges, of several quantities.

    Args:
        edges_hz: (bands + 1,) rising.
        quantities: of every band.
        index: (parts, dim) int64, ``quantity * bands + band`` of every dimension.
    """
    bands = list(pairwise(edges_hz))
    groups = tuple(Group(low, high, quantity) for quantity in quantities for low, high in bands)
    return Dimensions(groups, index)


def of_log_mel(parts: int, quantities: Sequence[Quantity]) -> Dimensions:
    """Statistics of Kaldi's 128 mel bins, in the 8 bands of :func:`nearfar.explain.localisation.band_edges_hz`.

    The features are (parts, quantities * bins of a part), parts from low to high frequency.
    """
    bins = torch.arange(MEL_BINS).reshape(parts, 1, -1) // (MEL_BINS // BANDS)
    index = BANDS * torch.arange(len(quantities))[None, :, None] + bins
    return banded(band_edges_hz(), quantities, index.flatten(1))


def of_mel_bins(centres_hz: Tensor, frames: int, quantity: Quantity) -> Dimensions:
    """Frames of a spectrogram, (frames, bins), each bin in the band that its centre lies in."""
    edges = band_edges_hz()
    inner = torch.tensor(edges[1:-1], dtype=torch.float64)
    index = torch.bucketize(centres_hz.double(), inner, right=True)
    return banded(edges, [quantity], index.expand(frames, -1).contiguous())


def of_token_bands(names: Sequence[str], parts: int, dim: int) -> Dimensions:
    """Pooled tokens within each of an encoder's bands; parts are ``names`` (blocks) and, within each, bands.

    Bands are of equally many of the 128 mel bins, and meet half-way between the centres of their bins.
    """
    bands = parts // len(names)
    bins = torch.arange(1, bands) * MEL_BINS // bands
    centres, edges = mel_centres_hz(), band_edges_hz()
    inner = (centres[bins - 1] + centres[bins]) / 2
    index = torch.arange(parts)[:, None].expand(parts, dim).contiguous()
    return banded([edges[0], *inner.tolist(), edges[-1]], [Quantity(name) for name in names], index)
