"""A nearest-neighbour back-end that tolerates small changes of speed and gain.

It compares level and log-mel statistics (``features.source = "scaled-log-mel"``) with those of normal clips:

* in two ways, whose scores are averaged: as they are, and smoothed over frequency and decorrelated; see
  :mod:`nearfar.scoring.banded`. The first finds changes of fine structure, the second small changes of broad
  bands, which normal noise does not make;
* at several speeds: the speed with the lowest score counts, for normal clips as well;
* in units of the normal clips: minus the median of their leave-one-out scores at one speed, divided by their
  spread, plus 4, so that scores of several views can be averaged;
* with the level: a clip louder than normal clips has a higher score, if the level of normal clips varies little.
  A change of gain within the tolerance has no effect, nor has a lower level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.frontends.kaldi import MEL_BINS
from nearfar.scoring.backends import Domains, Features, Indices, Scores, as_features, as_target
from nearfar.scoring.banded import BandedNeighbours, Units, speeds
from nearfar.scoring.contributions import Contributions, divided
from nearfar.settings import NotNegative, Rate, Settings

WAYS = ((0.0, False), (1.0, True))
"""Ways of comparison, whose scores are averaged: the factor of ``mel_smoothing``, and whether to decorrelate."""
DECIBELS = 10.0 / np.log(10.0)
"""Decibels per unit of the natural logarithm of a power."""

SPREAD_CLIPS = 100
"""Median and spread are those of at most about twice as many normal clips, evenly spaced."""
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
        mel_smoothing: standard deviation, in mel bins, of the smoothing over frequency of the statistics that are
            decorrelated; 0 is none.
        level_tolerance_db: the level has no effect up to this much above that of normal clips.
        level_spread_db: the level has no effect at all if the middle 90 % of normal clips differ by more.
    """

    speed_tolerance: Rate = 0.06
    mel_smoothing: NotNegative = 1.5
    level_tolerance_db: NotNegative = 3.0
    level_spread_db: NotNegative = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The nearest normal clips of some clips, at the speed with the lowest score.

    Attributes:
        scores: (clips,) float64.
        nearest: (clips,) int64, indices of normal clips.
        choices: (clips,) int64, indices of speeds.
    """

    scores: Scores
    nearest: Indices
    choices: Indices


class TolerantNeighbours:
    """Nearest neighbours with tolerances, in units of the spread of normal scores.

    Args:
        settings: tolerances.
        changes: fields of :class:`TolerantSettings` that differ from ``settings``.

    Attributes:
        levels: (normals,) float64 of normal clips, in dB.
        level_range_db: the levels between which the middle 90 % of normal clips lie.
        variation: (128,) float64, the deviation of each mel bin's mean, relative to the whole spectrum, over the
            normal clips of the source domain; of all where those are fewer than two. 0 for unused bins.
    """

    levels: NDArray[np.float64]
    level_range_db: tuple[float, float]
    variation: NDArray[np.float64]

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
        self._features, tolerance = features, speeds(self.settings.speed_tolerance)
        self._comparisons = [
            BandedNeighbours(
                features, domains, tolerance, factor * self.settings.mel_smoothing, decorrelate=decorrelate
            )
            for factor, decorrelate in WAYS
        ]
        self.levels = level_db(features)
        self.level_range_db = tuple(np.percentile(self.levels, [5, 95]).tolist())
        self._loudest = float(np.percentile(self.levels, 98)) + self.settings.level_tolerance_db
        source = features[~as_target(domains, len(features))]
        alike = source if len(source) > 1 else features
        self.variation = alike[:, 1].double().std(dim=0, correction=0).numpy()
        self._units = Units(TYPICAL)  # a single clip has no spread: scores are plain distances
        if len(features) > 1:
            clips = torch.arange(0, len(features), max(1, len(features) // SPREAD_CLIPS))
            each = []
            for comparison in self._comparisons:
                left_out = comparison.score_without(features[clips], clips, at_all_speeds=False)[0]
                comparison.units = Units.of(left_out)
                each.append(comparison.units(left_out))
            self._units = Units.of(np.mean(each, axis=0))
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
        found = self.match(features)
        return found.scores, found.nearest

    def match(self, features: Features) -> Match:
        """Score clips as :meth:`score_and_nearest`, with the speed that was chosen for each."""
        features = as_features(features, like=self._features)
        (first, nearest), *others = [comparison.score_and_nearest(features) for comparison in self._comparisons]
        scores = np.mean([first, *(scores for scores, _ in others)], axis=0)
        speed = scores.argmin(axis=0)
        lowest = np.take_along_axis(scores, speed[None], axis=0)[0]
        chosen = np.take_along_axis(nearest, speed[None], axis=0)[0]
        return Match(self._in_units(lowest, level_db(features)), chosen, speed)

    def leave_one_out(self) -> Scores:
        """The score of every normal clip by nearest clips without it, (normals,) float64.

        Scaling, decorrelation, median, spread and the range of levels stay those of all clips.

        Raises:
            ValueError: if there is only one normal clip.
        """
        if len(self._features) < 2:
            raise ValueError("leave-one-out scores need two normal clips or more")
        clips = torch.arange(len(self._features))
        each = [comparison.score_without(self._features, clips) for comparison in self._comparisons]
        return self._in_units(np.mean(each, axis=0).min(axis=0), self.levels)

    def contributions(self, features: Features, choices: Indices | None = None) -> Contributions:
        """The parts of the scores of clips, (clips, 1 + statistics, 128) float32.

        Those of the nearest clips at the speed with the lowest score, in proportion, and the level's. Differences
        are from the nearest clips of the statistics as they are.

        Args:
            features: (clips, 1 + statistics, 128) float32.
            choices: (clips,) int64 of :meth:`match`, if these clips were scored before; None: clips are compared
                at all speeds again.
        """
        features = as_features(features, like=self._features)
        which = self.match(features).choices if choices is None else choices
        shares, difference = (torch.zeros(features.shape, dtype=torch.float64) for _ in range(2))
        for number in sorted(set(which.tolist())):
            rows = torch.from_numpy(np.flatnonzero(which == number))
            found = [comparison.contributions(features[rows], number) for comparison in self._comparisons]
            weights = torch.stack([each.shares for each, _ in found]).sum(dim=0)
            units = self._in_units(np.mean([scores for _, scores in found], axis=0), np.full(len(rows), -np.inf))
            own = divided(torch.from_numpy(units), weights.flatten(1)).reshape(weights.shape)
            shares[rows, 1:], difference[rows, 1:] = own, found[0][0].difference
        levels = level_db(features)
        if self.uses_level:
            shares[:, 0, 0] = torch.from_numpy(LEVEL_SLOPE * np.maximum(levels - self._loudest, 0.0))
        difference[:, 0, 0] = torch.from_numpy((levels - np.median(self.levels)) / DECIBELS)
        return Contributions(shares, difference)

    @property
    def comparisons(self) -> Sequence[BandedNeighbours]:
        """The ways of comparison, whose scores are averaged."""
        return self._comparisons

    @property
    def units(self) -> Units:
        """Those of the averaged scores."""
        return self._units

    @property
    def loudest_db(self) -> float:
        """The level above which a clip's score rises."""
        return self._loudest

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

    def _in_units(self, scores: Scores, levels: NDArray[np.float64]) -> Scores:
        units = TYPICAL + self._units(scores)
        if self.uses_level:
            units += LEVEL_SLOPE * np.maximum(levels - self._loudest, 0.0)
        return units


def level_db(features: Tensor) -> NDArray[np.float64]:
    """(clips,) levels in dB relative to full scale, from (clips, 1 + statistics, 128) features."""
    levels: NDArray[np.float64] = DECIBELS * features[:, 0, 0].double().numpy()
    return levels
