"""Distances between the features of clips, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Distance = Literal["cosine", "standardised"]
EPSILON = 1e-12
ELEMENTS = 1 << 21
"""Entries of a matrix of distances at work at once, to bound memory (16 MB in double precision)."""


def directions(features: Tensor) -> Tensor:
    """Every part of every clip divided by its length: (clips, parts, dim) float32.

    Raises:
        ValueError: if a part is zero or not finite.
    """
    features = features.float()
    lengths: Tensor = features.norm(dim=-1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("an embedding is zero or not finite, so it has no direction")
    return features / lengths  # F.normalize would leave a length below 1e-12 short of one


class Scaling:
    """The scaling of features before their distance is computed, fitted on normal clips.

    ``cosine`` divides every part by its length. ``standardised`` takes the normal clips' mean off every dimension,
    divides by their population deviation and by the square root of the part's number of dimensions, so that two
    independent clips are about sqrt(2) apart; a dimension that never varies (by more than 1e-6) does not count.
    """

    def __init__(self, normals: Tensor, distance: Distance) -> None:
        self.distance: Distance = distance
        self.mean = self.factor = torch.zeros(())
        if distance == "standardised":
            wide = normals.double()
            deviation = wide.std(dim=0, correction=0)
            self.mean = wide.mean(dim=0)
            size = normals.shape[-1] ** 0.5
            self.factor = torch.where(deviation > 1e-6, 1.0 / (size * deviation.clamp_min(1e-6)), 0.0)

    def __call__(self, features: Tensor) -> Tensor:
        """(clips, parts, dim) features, scaled: float32 directions, or float64.

        Raises:
            ValueError: if a part has no direction, or a number is not finite.
        """
        if self.distance == "cosine":
            return directions(features)
        if not bool(torch.isfinite(features).all()):
            raise ValueError("a feature is not finite")
        return (features.double() - self.mean) * self.factor


@dataclass(frozen=True, slots=True, eq=False)
class CentredPoints:
    """Some clips relative to a centre: ``values`` (clips, dim), and ``half`` their squared lengths."""

    values: Tensor
    half: Tensor

    def __getitem__(self, clips: Tensor) -> CentredPoints:
        return CentredPoints(self.values[clips], self.half[clips])


def points(scaled: Tensor, centre: Tensor) -> CentredPoints:
    """Scaled features of one part, (clips, dim), relative to a centre (dim,)."""
    values = (scaled - centre).contiguous()
    return CentredPoints(values, values.square().sum(dim=1) / 2)


def pairwise_distance(queries: CentredPoints, normals: CentredPoints, distance: Distance) -> Tensor:
    """Distances, (queries, normals) float64: ``1 - cos``, or the Euclidean distance of standardised features.

    Directions u and v have ``1 - cos = |u - v|² / 2``, which stays the same if a common centre is taken off both.
    Relative to the middle of the bank, one single-precision matrix product is then exact to about 1e-6 *of the
    spread of the bank*. (``1 - u @ v`` is exact to 1e-7 of 1, which is a per cent of the distances between
    embeddings that all point much the same way, as those of plain encoders do.) What lies below is 0, so that
    clips that are alike are at distance 0.
    """
    half: Tensor = torch.addmm(normals.half[None], queries.values, normals.values.T, alpha=-1.0)
    half += queries.half[:, None]
    resolution = 1e-6 if half.dtype == torch.float32 else 1e-14
    half.masked_fill_(half < resolution * queries.half[:, None], 0.0)
    return half.double() if distance == "cosine" else (2.0 * half.clamp_min_(0.0)).sqrt()


def chunks(rows: int, columns: int) -> Iterator[Tensor]:
    """The numbers 0 to ``rows``, so many at a time that a matrix of ``columns`` keeps to :data:`ELEMENTS`."""
    yield from torch.split(torch.arange(rows), max(1, ELEMENTS // max(columns, 1)))
