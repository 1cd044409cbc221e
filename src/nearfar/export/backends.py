"""Scoring back-ends as modules that can be exported.

Each takes features (windows, parts, dim) and returns the score (windows,) float64, the parts that add up to it
(windows, parts), and the nearest normal window (windows,) int64, -1 where there is none. To export another
back-end, add a line to :data:`EXPORTED_BACKENDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.export.signals import cannot
from nearfar.scoring.backends import Scorer
from nearfar.scoring.banded import BANDS, BandedNeighbours
from nearfar.scoring.mahalanobis import Mahalanobis
from nearfar.scoring.nearest import BankTables, NearestNeighbours
from nearfar.scoring.parts import REDUCTIONS
from nearfar.scoring.tolerant import DECIBELS, LEVEL_SLOPE, TYPICAL, TolerantNeighbours

Scored = tuple[Tensor, Tensor, Tensor]


class _Bank(nn.Module):
    """The entries of one domain."""

    centres: Tensor
    values: Tensor
    half_squares: Tensor
    terms: Tensor
    clips: Tensor

    def __init__(self, tables: BankTables, scorer: NearestNeighbours) -> None:
        super().__init__()
        settings = scorer.settings
        self.cosine, self.neighbours = settings.distance == "cosine", settings.neighbours
        self.shared, self.ratio = settings.shared_neighbour, settings.normalisation == "ratio"
        self.normalised, self.scale = tables.terms is not None, tables.scale
        self.resolution = 1e-6 if tables.values.dtype == torch.float32 else 1e-14
        self.register_buffer("centres", tables.centres)
        self.register_buffer("values", tables.values.mT.contiguous())
        self.register_buffer("half_squares", tables.half[:, None])
        self.register_buffer("terms", None if tables.terms is None else tables.terms[:, None])
        self.register_buffer("clips", tables.clips)
        self.count = min(settings.neighbours, len(tables.clips))
        self.reduction = REDUCTIONS[settings.over_parts]

    def forward(self, scaled: Tensor) -> Scored:
        queries = scaled.transpose(0, 1) - self.centres[:, None]
        own = queries.square().sum(dim=2, keepdim=True) / 2
        squares = self.half_squares - queries @ self.values + own
        squares = torch.where(squares < self.resolution * own, torch.zeros_like(squares), squares)
        distances = squares.double() if self.cosine else (2.0 * squares.clamp_min(0.0)).sqrt()
        if self.shared:
            distances = distances.mean(dim=0, keepdim=True)
        if self.normalised:
            distances = distances * self.terms if self.ratio else distances - self.terms
        if self.neighbours == 1:
            scores = distances.amin(dim=2)
        else:
            scores = distances.topk(self.count, dim=2, largest=False).values.mean(dim=2)
        nearest = self.clips[distances.sum(dim=0).argmin(dim=1)]
        parts = (self.reduction.weights(scores) * scores).transpose(0, 1) / self.scale
        return parts.sum(dim=1), parts, nearest


class Nearest(nn.Module):
    """:class:`NearestNeighbours`."""

    mean: Tensor
    factor: Tensor

    def __init__(self, scorer: NearestNeighbours) -> None:
        super().__init__()
        self.cosine = scorer.settings.distance == "cosine"
        self.register_buffer("mean", scorer.scaling.mean)
        self.register_buffer("factor", scorer.scaling.factor)
        self.banks = nn.ModuleList(_Bank(tables, scorer) for tables in scorer.tables())

    def forward(self, features: Tensor) -> Scored:
        if self.cosine:
            scaled = features / features.square().sum(dim=2, keepdim=True).sqrt()
        else:
            scaled = (features.double() - self.mean) * self.factor
        found = zip(*(bank(scaled) for bank in self.banks), strict=True)
        scores, parts, nearest = (torch.stack(rows) for rows in found)
        if len(self.banks) == 1:
            return scores[0], parts[0], nearest[0]
        first = scores[0] <= scores[1]
        return (
            torch.where(first, scores[0], scores[1]),
            torch.where(first[:, None], parts[0], parts[1]),
            torch.where(first, nearest[0], nearest[1]),
        )


class _Banded(nn.Module):
    """:class:`BandedNeighbours`: scores, parts and nearest windows of every speed."""

    matrices: Tensor
    mean: Tensor
    factor: Tensor
    roots: Tensor

    def __init__(self, scorer: BandedNeighbours) -> None:
        super().__init__()
        self.median, self.spread = scorer.units.median, scorer.units.spread
        self.speeds = len(scorer.matrices)
        self.register_buffer("matrices", scorer.matrices.flatten(0, 1).T.contiguous())
        found = scorer.decorrelation
        self.decorrelates = found is not None
        for name in ("mean", "factor", "roots"):
            self.register_buffer(name, None if found is None else getattr(found, name))
        self.nearest = Nearest(scorer.nearest)

    def forward(self, features: Tensor) -> Scored:
        statistics = features[:, 1:]
        rows = statistics.shape[1]
        moved = (statistics @ self.matrices).reshape(-1, rows, self.speeds, BANDS, features.shape[2] // BANDS)
        values = moved.permute(2, 0, 3, 1, 4).flatten(3).flatten(0, 1)
        if self.decorrelates:
            scaled = ((values.double() - self.mean) * self.factor).transpose(0, 1)
            values = (scaled @ self.roots).transpose(0, 1).float()
        scores, parts, nearest = self.nearest(values)
        by_speed = (scores.reshape(self.speeds, -1) - self.median) / self.spread
        return by_speed, parts.reshape(self.speeds, -1, BANDS) / self.spread, nearest.reshape(self.speeds, -1)


class Tolerant(nn.Module):
    """:class:`TolerantNeighbours`; the last part is that of the level."""

    def __init__(self, scorer: TolerantNeighbours) -> None:
        super().__init__()
        self.ways = nn.ModuleList(_Banded(comparison) for comparison in scorer.comparisons)
        self.median, self.spread = scorer.units.median, scorer.units.spread
        self.loudest_db, self.uses_level = scorer.loudest_db, scorer.uses_level

    def forward(self, features: Tensor) -> Scored:
        found = [way(features) for way in self.ways]
        scores = torch.stack([entry[0] for entry in found]).mean(dim=0)
        lowest = scores.argmin(dim=0, keepdim=True)
        units = TYPICAL + (scores.gather(0, lowest)[0] - self.median) / self.spread
        weights = torch.stack([entry[1] for entry in found]).sum(dim=0).abs()
        weights = weights.gather(0, lowest[:, :, None].expand(-1, -1, BANDS))[0]
        parts = units[:, None] * weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        level = torch.zeros_like(units)
        if self.uses_level:
            level = LEVEL_SLOPE * (DECIBELS * features[:, 0, 0].double() - self.loudest_db).clamp_min(0.0)
        return units + level, torch.cat([parts, level[:, None]], dim=1), found[0][2].gather(0, lowest)[0]


class MahalanobisDistance(nn.Module):
    """:class:`Mahalanobis`."""

    means: Tensor
    precision: Tensor

    def __init__(self, scorer: Mahalanobis) -> None:
        super().__init__()
        self.register_buffer("means", scorer.means[:, None])
        self.register_buffer("precision", scorer.precision[:, None])

    def forward(self, features: Tensor) -> Scored:
        offsets = features.double().transpose(0, 1)[:, :, None] - self.means
        distances = ((offsets @ self.precision) * offsets).sum(dim=3).clamp_min(0.0).sqrt()
        parts = distances.transpose(0, 1) / distances.shape[0]  # (windows, parts, domains)
        domain = parts.sum(dim=1).argmin(dim=1)
        chosen = parts.gather(2, domain[:, None, None].expand(-1, distances.shape[0], 1))[:, :, 0]
        return chosen.sum(dim=1), chosen, torch.full_like(domain, -1)


EXPORTED_BACKENDS: dict[type[Any], Callable[[Any], nn.Module]] = {
    NearestNeighbours: Nearest,
    TolerantNeighbours: Tolerant,
    Mahalanobis: MahalanobisDistance,
}


def exported_backend(scorer: Scorer) -> nn.Module:
    """The module of a fitted back-end.

    Raises:
        InputError: if it has none.
    """
    if type(scorer) not in EXPORTED_BACKENDS:
        raise cannot("scoring.backend", type(scorer).__name__)
    return EXPORTED_BACKENDS[type(scorer)](scorer)
