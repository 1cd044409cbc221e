"""A nearest-neighbour back-end that tolerates small changes of speed and gain.

It compares level and log-mel statistics (``features.source = "scaled-log-mel"``) with those of normal clips:

* in bands of 16 mel bins, each with its own nearest clip, by standardised distances with variance-minimising
  rescaling (:class:`nearfar.scoring.VarMin`), smoothed over neighbouring bins;
* at several speeds: a clip's statistics are resampled along frequency, and the lowest score counts, for normal
  clips as well;
* in units of the normal clips: minus the median of their leave-one-out scores at one speed, divided by their
  spread, plus 4, so that scores of several views can be averaged;
* with the level: a clip louder than normal clips has a higher score, if the level of normal clips varies little.
  A change of gain within the tolerance has no effect, nor has a lower level.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.frontends.kaldi import MEL_BINS, mel_centres_hz
from nearfar.scoring.backends import Domains, Features, Indices, Scores, as_features
from nearfar.scoring.contributions import Contributions, divided
from nearfar.scoring.nearest import NearestNeighbours
from nearfar.scoring.settings import NearestSettings
from nearfar.settings import NotNegative, Rate, Settings

BANDS = 8
SPEED_STEP = 0.02
NEAREST = NearestSettings(distance="standardised", normalisation="varmin", density_neighbours=16)
DECIBELS = 10.0 / np.log(10.0)
"""Decibels per unit of the natural logarithm of a power."""

SPREAD_CLIPS = 100
"""Median and spread are those of at most about twice as many normal clips, evenly spaced."""
SMALLEST_SPREAD = 0.01
"""Of leave-one-out scores; two independent clips are about 1.4 apart."""
TYPICAL = 4.0
"""The score of a typical normal clip, so that scores are positive, as gamma thresholds need them."""
LEVEL_CLIPS = 10
"""Fewer normal clips do not show how much the level varies."""
LEVEL_SLOPE = 2.0
"""Increase of the score, in units of its spread, per decibel beyond the tolerance."""


class TolerantSettings(Settings):
    """Tolerances of the back-end.

    Attributes:
        speed_tolerance: largest change of speed, as a fraction, in steps of 2 %; 0 compares at one speed.
        mel_smoothing: standard deviation, in mel bins, of the smoothing over frequency; 0 is none.
        level_tolerance_db: the level has no effect up to this much above that of normal clips.
        level_spread_db: the level has no effect at all if the middle 90 % of normal clips differ by more.
    """

    speed_tolerance: Rate = 0.06
    mel_smoothing: NotNegative = 0.85
    level_tolerance_db: NotNegative = 3.0
    level_spread_db: NotNegative = 5.0


class TolerantNeighbours:
    """Nearest neighbours with tolerances, in units of the spread of normal scores.

    Args:
        settings: tolerances.
        changes: fields of :class:`TolerantSettings` that differ from ``settings``.

    Attributes:
        levels: (normals,) float64 of normal clips, in dB.
        level_range_db: the levels between which the middle 90 % of normal clips lie.
    """

    levels: NDArray[np.float64]
    level_range_db: tuple[float, float]

    def __init__(self, settings: TolerantSettings | None = None, **changes: Any) -> None:
        given = (settings or TolerantSettings()).model_dump()
        self.settings = TolerantSettings.model_validate(given | changes)

    def fit(self, normals: Features, domains: Domains = None) -> Self:
        """Fit on normal clips.

        Args:
            normals: (normals, 1 + statistics, 128) float32 of one machine and view.
            domains: ``"source"`` or ``"target"`` per clip, or bool, true for the target domain; None: all source.

        Raises:
            ValueError: if there are no normal clips, they have other axes, or a feature is not finite.
        """
        features = as_features(normals)
        if features.shape[1] < 2 or features.shape[2] != MEL_BINS:
            raise ValueError(f"expected features of (clips, 1 + statistics, {MEL_BINS}), got {features.shape}")
        self._features, used = features, (features[:, 1:] != 0).any(dim=0).any(dim=0)
        self._smoothing = smoothing = smoothing_matrix(used, self.settings.mel_smoothing)
        factors = speeds(self.settings.speed_tolerance)
        self._at_speeds = torch.stack([smoothing @ speed_matrix(used, factor) for factor in factors])
        self._nearest = NearestNeighbours(NEAREST).fit(banded(features, smoothing), domains)
        self.levels = level_db(features)
        self.level_range_db = tuple(np.percentile(self.levels, [5, 95]).tolist())
        self._loudest = float(np.percentile(self.levels, 98)) + self.settings.level_tolerance_db
        self._median, self._spread = TYPICAL, 1.0  # a single clip has no spread: scores are plain distances
        if len(features) > 1:
            clips = torch.arange(0, len(features), max(1, len(features) // SPREAD_CLIPS))
            left_out = self._nearest.score_without(banded(features[clips], smoothing), clips)
            low, self._median, high = (float(value) for value in np.percentile(left_out, [25, 50, 75]))
            self._spread = max((high - low) / 1.349, SMALLEST_SPREAD)  # that of a normal distribution is 1
        return self

    def score(self, features: Features) -> Scores:
        """Scores of clips, (clips,) float64, higher is more anomalous; see :meth:`score_and_nearest`."""
        return self.score_and_nearest(features)[0]

    def score_and_nearest(self, features: Features) -> tuple[Scores, Indices]:
        """Score clips and find the nearest normal clip of each, at the speed with the lowest score.

        Args:
            features: (clips, 1 + statistics, 128) float32.

        Returns:
            (clips,) float64 scores and (clips,) int64 indices of normal clips.

        Raises:
            ValueError: if the features have other sizes than the normal clips', or one is not finite.
        """
        features = as_features(features, like=self._features)
        scores, nearest = self._scores_at_speeds(self._compared_at_speeds(features))
        lowest = scores.argmin(axis=0)[None]
        scores = np.take_along_axis(scores, lowest, axis=0)[0]
        return self._in_units(scores, level_db(features)), np.take_along_axis(nearest, lowest, axis=0)[0]

    def leave_one_out(self) -> Scores:
        """The score of every normal clip by nearest clips without it, (normals,) float64.

        Scaling, median, spread and the range of levels stay those of all clips.

        Raises:
            ValueError: if there is only one normal clip.
        """
        if len(self._features) < 2:
            raise ValueError("leave-one-out scores need two normal clips or more")
        clips = torch.arange(len(self._features))
        found = [self._nearest.score_without(banded(self._features, matrix), clips) for matrix in self._at_speeds]
        return self._in_units(np.min(found, axis=0), self.levels)

    def compared(self, features: Tensor) -> Tensor:
        """Features as clips are compared at one speed, without the level: (clips, bands, dim)."""
        return banded(features, self._smoothing)

    def contributions(self, features: Features) -> Contributions:
        """The parts of the scores of clips, (clips, 1 + statistics, 128) float32.

        Those of the nearest clips at the speed with the lowest score, in proportion, and the level's.
        """
        features = as_features(features, like=self._features)
        compared = self._compared_at_speeds(features)
        scores, _ = self._scores_at_speeds(compared)
        units = torch.from_numpy(self._in_units(scores.min(axis=0), np.full(len(features), -np.inf)))
        at_lowest = compared[torch.from_numpy(scores.argmin(axis=0)), torch.arange(len(features))]
        found = self._nearest.contributions(at_lowest)
        negative = (found.shares < 0).flatten(1).any(dim=1)[:, None, None]
        weights = torch.where(negative, found.shares.abs(), found.shares)
        own = divided(units, weights.flatten(1)).reshape(weights.shape)
        shares, difference = (torch.zeros(features.shape, dtype=torch.float64) for _ in range(2))
        shares[:, 1:], difference[:, 1:] = unbanded(own), unbanded(found.difference)
        levels = level_db(features)
        if self.uses_level:
            shares[:, 0, 0] = torch.from_numpy(LEVEL_SLOPE * np.maximum(levels - self._loudest, 0.0))
        difference[:, 0, 0] = torch.from_numpy((levels - np.median(self.levels)) / DECIBELS)
        return Contributions(shares, difference)

    @property
    def uses_level(self) -> bool:
        """Whether there are enough normal clips, and their levels are alike enough, for the level to count."""
        low, high = self.level_range_db
        return len(self.levels) >= LEVEL_CLIPS and high - low <= self.settings.level_spread_db

    @property
    def reason(self) -> str:
        """Whether and why the level counts, in words."""
        low, high = self.level_range_db
        if len(self.levels) < LEVEL_CLIPS:
            return f"level not used, as there are fewer than {LEVEL_CLIPS} normal windows"
        spread = f"90 % of normal levels lie within {high - low:.1f} dB"
        if not self.uses_level:
            return f"level not used, as {spread}, more than {self.settings.level_spread_db:g} dB"
        return f"level used above {self._loudest:.1f} dB of full scale, as {spread}"

    def _compared_at_speeds(self, features: Tensor) -> Tensor:
        """Features as clips are compared, at every speed: (speeds, clips, bands, dim)."""
        count = len(self._at_speeds)
        statistics = features[:, 1:] @ self._at_speeds.flatten(0, 1).T  # (clips, statistics, speeds * bins)
        by_speed = statistics.reshape(*statistics.shape[:2], count, BANDS, -1)
        return by_speed.permute(2, 0, 3, 1, 4).flatten(3)

    def _scores_at_speeds(self, compared: Tensor) -> tuple[Scores, Indices]:
        """Scores and nearest clips at every speed, each (speeds, clips)."""
        scores, nearest = self._nearest.score_and_nearest(compared.flatten(0, 1))
        return scores.reshape(len(compared), -1), nearest.reshape(len(compared), -1)

    def _in_units(self, scores: Scores, levels: NDArray[np.float64]) -> Scores:
        units: Scores = TYPICAL + (scores - self._median) / self._spread
        if self.uses_level:
            units += LEVEL_SLOPE * np.maximum(levels - self._loudest, 0.0)
        return units


def level_db(features: Tensor) -> NDArray[np.float64]:
    """(clips,) levels in dB relative to full scale, from (clips, 1 + statistics, 128) features."""
    levels: NDArray[np.float64] = DECIBELS * features[:, 0, 0].double().numpy()
    return levels


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
