"""Nearest neighbours of log-mel statistics among normal clips, in bands of mel bins and at several speeds.

Every band of 16 bins has its own nearest normal clip, by standardised distances with variance-minimising rescaling
(:class:`nearfar.scoring.VarMin`). Another speed is the same statistics resampled along frequency.

Statistics of one band vary together, with the noise of the room above all, so that a change that all normal clips
show is as far as one that none of them shows. Decorrelated statistics take this into account: with C the
correlation matrix of a band's standardised statistics z over the normal clips, they are ``R z`` with R the
symmetric root of the inverse of ``(1 - s) C + s I`` (s is the shrinkage of scikit-learn's ``ShrunkCovariance``,
larger where there are fewer clips than dimensions).
Distances between them are Mahalanobis distances, but for the standardisation that follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearfar.frontends.kaldi import MEL_BINS, mel_centres_hz
from nearfar.scoring.backends import Domains, Indices, Scores
from nearfar.scoring.contributions import Contributions, symmetric_root
from nearfar.scoring.nearest import NearestNeighbours
from nearfar.scoring.settings import NearestSettings

BANDS = 8
SPEED_STEP = 0.02
SHRINKAGE = 0.5
"""Of at least as many clips as a band has dimensions; with a half no direction is stretched more than by sqrt(2).

Fewer clips do not show correlations: the weight of theirs, 1 - s, is then proportional to their number.
"""
NEAREST = NearestSettings(distance="standardised", normalisation="varmin", density_neighbours=16)
SMALLEST_SPREAD = 0.01
"""Of leave-one-out scores; two independent clips are about 1.4 apart."""


@dataclass(frozen=True, slots=True)
class Units:
    """The median and the spread of normal scores; the spread is that of a normal distribution's deviation."""

    median: float = 0.0
    spread: float = 1.0

    @classmethod
    def of(cls, scores: Scores) -> Units:
        """Those of (normals,) leave-one-out scores."""
        low, median, high = (float(value) for value in np.percentile(scores, [25, 50, 75]))
        return cls(median, max((high - low) / 1.349, SMALLEST_SPREAD))

    def __call__(self, scores: Scores) -> Scores:
        """Scores minus the median, in units of the spread."""
        out: Scores = (scores - self.median) / self.spread
        return out


class BandedNeighbours:
    """Distances of clips to normal clips, of smoothed statistics, and decorrelated ones if asked for.

    Args:
        normals: (normals, 1 + statistics, 128) float32; the first part, the level, is not compared.
        domains: of the normal clips, as a back-end's.
        factors: of speed, at which clips are compared; the middle one is 1.
        smoothing: standard deviation of the smoothing over frequency, in mel bins; 0 is none.
        decorrelate: whether statistics of a band are decorrelated.

    Attributes:
        units: those in which scores are given, of normal clips by the others at one speed, once set.
    """

    def __init__(
        self, normals: Tensor, domains: Domains, factors: list[float], smoothing: float, *, decorrelate: bool
    ) -> None:
        used = (normals[:, 1:] != 0).any(dim=0).any(dim=0)
        smooth = smoothing_matrix(used, smoothing)
        self._matrices = torch.stack([smooth @ speed_matrix(used, factor) for factor in factors])
        self._speeds, self._middle = range(len(factors)), len(factors) // 2
        self._decorrelation = Decorrelation(banded(normals, smooth)) if decorrelate else None
        self._nearest = NearestNeighbours(NEAREST).fit(self._values(normals, self._middle), domains)
        self.units = Units()

    @property
    def matrices(self) -> Tensor:
        """(speeds, 128, 128), which smooth statistics and bring them to a speed."""
        return self._matrices

    @property
    def decorrelation(self) -> Decorrelation | None:
        """Of the statistics of a band, if asked for."""
        return self._decorrelation

    @property
    def nearest(self) -> NearestNeighbours:
        """The nearest neighbours of the values that are compared, (clips, bands, dim)."""
        return self._nearest

    def score_and_nearest(self, features: Tensor) -> tuple[Scores, Indices]:
        """Scores, and indices of the nearest normal clips, both (speeds, clips), of (clips, ..., 128) features."""
        scores, nearest = self._nearest.score_and_nearest(self._values(features, *self._speeds))
        return self.units(scores.reshape(-1, len(features))), nearest.reshape(-1, len(features))

    def score_without(self, features: Tensor, clips: Tensor, *, at_all_speeds: bool = True) -> Scores:
        """Scores (speeds, clips), each without one normal clip; see :meth:`NearestNeighbours.score_without`.

        The standardisation and the decorrelation stay those of all normal clips.
        """
        at = self._speeds if at_all_speeds else range(self._middle, self._middle + 1)
        # One speed after the other, as all normal clips are compared with all others.
        each = [self._nearest.score_without(self._values(features, speed), clips) for speed in at]
        return self.units(np.stack(each))

    def contributions(self, features: Tensor, speed: int) -> tuple[Contributions, Scores]:
        """The parts of scores at one speed, (clips, statistics, 128), and these scores, (clips,).

        The parts are at least 0 and in proportion to the shares. Differences of decorrelated statistics are
        decorrelated.
        """
        found = self._nearest.contributions(self._values(features, speed))
        scores = self.units(found.shares.sum(dim=(1, 2)).numpy())
        shares = found.shares.abs() if bool((found.shares < 0).any()) else found.shares
        return Contributions(unbanded(shares) / self.units.spread, unbanded(found.difference)), scores

    def _values(self, features: Tensor, *speeds: int) -> Tensor:
        """What is compared of clips at some speeds, one after the other: (speeds * clips, bands, dim)."""
        matrices = self._matrices[list(speeds)]
        statistics = features[:, 1:] @ matrices.flatten(0, 1).T  # (clips, statistics, speeds * bins)
        by_speed = statistics.reshape(*statistics.shape[:2], len(speeds), BANDS, -1)
        values = by_speed.permute(2, 0, 3, 1, 4).flatten(3).flatten(0, 1)
        return values if self._decorrelation is None else self._decorrelation(values)


class Decorrelation:
    """Decorrelates the dimensions of every part of features, fitted on normal clips, (normals, parts, dim).

    Dimensions with a deviation of 1e-6 or less become 0.
    """

    def __init__(self, normals: Tensor) -> None:
        wide = normals.double()
        deviation = wide.std(dim=0, correction=0)
        self.mean, self.factor = wide.mean(dim=0), torch.where(deviation > 1e-6, 1 / deviation, 0.0)
        scaled = ((wide - self.mean) * self.factor).transpose(0, 1)
        correlation = scaled.mT @ scaled / len(normals)
        shown = (1 - SHRINKAGE) * min(1.0, len(normals) / normals.shape[2])
        shrunken = shown * correlation + (1 - shown) * torch.eye(normals.shape[2], dtype=torch.float64)
        self.roots = symmetric_root(torch.linalg.inv(shrunken))

    def __call__(self, features: Tensor) -> Tensor:
        """Decorrelated features, (clips, parts, dim) float32."""
        scaled = ((features.double() - self.mean) * self.factor).transpose(0, 1)
        return (scaled @ self.roots).transpose(0, 1).float()


def banded(features: Tensor, matrix: Tensor) -> Tensor:
    """(clips, 1 + statistics, 128) features to (clips, bands, statistics * bins of a band), by (128, 128)."""
    statistics = features[:, 1:] @ matrix.T
    return statistics.reshape(*statistics.shape[:2], BANDS, -1).transpose(1, 2).flatten(2)


def unbanded(values: Tensor) -> Tensor:
    """The inverse of the arrangement of :func:`banded`: (clips, bands, dim) to (clips, statistics, 128)."""
    bins = MEL_BINS // BANDS
    return values.reshape(len(values), BANDS, -1, bins).transpose(1, 2).flatten(2)


def speeds(tolerance: float) -> list[float]:
    """Factors of speed from 1 - ``tolerance`` to 1 + ``tolerance``, about 2 % apart."""
    count = int(np.ceil(round(tolerance / SPEED_STEP, 9)))
    return [1.0] if count == 0 else [1.0 + tolerance * step / count for step in range(-count, count + 1)]


def speed_matrix(used: Tensor, speed: float) -> Tensor:
    """Matrix (128, 128) float32 that takes the value of bin f from frequency ``speed`` f, by linear interpolation.

    ``used`` is (128,) bool; the rows and columns of other bins are zero.
    """
    matrix = np.zeros((MEL_BINS, MEL_BINS), dtype=np.float32)
    bins = np.flatnonzero(used.numpy())
    if bins.size:
        hz = mel_centres_hz().numpy()[bins]
        positions = np.interp(np.log1p(speed * hz / 700.0), np.log1p(hz / 700.0), np.arange(len(bins)))
        lower = np.minimum(positions.astype(np.int64), max(len(bins) - 2, 0))
        upper, share = np.minimum(lower + 1, len(bins) - 1), positions - lower
        np.add.at(matrix, (bins, bins[lower]), 1.0 - share)
        np.add.at(matrix, (bins, bins[upper]), share)
    return torch.from_numpy(matrix)


def smoothing_matrix(used: Tensor, deviation: float) -> Tensor:
    """Matrix (128, 128) float32 of Gaussian means over the ``used`` bins, (128,) bool, about each of them."""
    both = (used[:, None] & used[None]).double()
    if deviation == 0:
        return (torch.eye(MEL_BINS) * both).float()
    bins = torch.arange(MEL_BINS, dtype=torch.float64)
    weights = both * torch.exp(-0.5 * ((bins[:, None] - bins[None]) / deviation) ** 2)
    return (weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)).float()
