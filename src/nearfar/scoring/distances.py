"""Scaling of features, and pairwise distances of clips for each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.scoring.settings import Distance

EPSILON = 1e-12
ELEMENTS = 1 << 21
"""Largest number of distances in one matrix, to bound memory (16 MB in double precision)."""


class Scaling:
    """The scaling of features before their distance is computed, fitted on normal clips.

    ``cosine`` divides every part by its length. ``standardised`` subtracts the normal clips' mean from every
    dimension, divides by their population deviation and by the square root of the part's number of dimensions, so
    that two independent clips are about sqrt(2) apart; a dimension with a deviation of 1e-6 or less is ignored.
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
        """Scaled features, (clips, parts, dim): float32 for the cosine, float64 for standardised distances.

        Raises:
            ValueError: if a feature is not finite or, for the cosine, a part is zero.
        """
        if self.distance == "standardised":
            if not bool(torch.isfinite(features).all()):
                raise ValueError("a feature is not finite")
            return (features.double() - self.mean) * self.factor
        features = features.float()
        lengths: Tensor = features.norm(dim=-1, keepdim=True)
        if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
            raise ValueError("an embedding is zero or not finite, so it has no direction")
        return features / lengths  # F.normalize does not give unit length to vectors shorter than 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class CentredPoints:
    """A part of clips relative to a centre: ``values`` (clips, dim), and ``half`` of their squared norms.

    Of all parts together, both have one more axis in front.
    """

    values: Tensor
    half: Tensor

    def __getitem__(self, clips: Tensor) -> CentredPoints:
        return CentredPoints(self.values[clips], self.half[clips])

    def by_part(self) -> list[CentredPoints]:
        """Each part of all of them, without a copy."""
        return [CentredPoints(*part) for part in zip(self.values, self.half, strict=True)]


def centred(scaled: Tensor, centres: Tensor) -> CentredPoints:
    """Scaled features, (clips, parts, dim), relative to the centres (parts, dim), of all parts together."""
    values = scaled.transpose(0, 1).clone(memory_format=torch.contiguous_format).sub_(centres[:, None])
    return CentredPoints(values, torch.stack([part.square().sum(dim=1) / 2 for part in values]))


def mean_distance(
    queries: Sequence[CentredPoints], normals: Sequence[CentredPoints], distance: Distance
) -> Tensor:
    """The mean over parts of :func:`pairwise_distance`, (queries, normals) float64."""
    total = pairwise_distance(queries[0], normals[0], distance)
    for query, normal in zip(queries[1:], normals[1:], strict=True):
        total += pairwise_distance(query, normal, distance)
    return total.div_(len(normals)) if len(normals) > 1 else total


def pairwise_distance(queries: CentredPoints, normals: CentredPoints, distance: Distance) -> Tensor:
    """Distances, (..., queries, normals) float64: ``1 - cos``, or that of standardised features, Euclidean.

    Unit vectors u and v have ``1 - cos = |u - v|² / 2``, which does not change if a common centre is subtracted
    from both. Relative to the centre of the bank, one single-precision matrix product is then exact to about 1e-6
    *of the spread of the bank*. (``1 - u @ v`` is exact to 1e-7, which is 1 % of the distances between embeddings
    of nearly the same direction, such as those of encoders that are not fine-tuned.) Smaller distances are set to
    0, so that the distance between identical clips is 0.
    """
    product = torch.baddbmm if queries.values.dim() == 3 else torch.addmm
    half = product(normals.half.unsqueeze(-2), queries.values, normals.values.mT, alpha=-1.0)
    half += queries.half.unsqueeze(-1)
    resolution = 1e-6 if half.dtype == torch.float32 else 1e-14
    half.masked_fill_(half < resolution * queries.half.unsqueeze(-1), 0.0)
    return half.double() if distance == "cosine" else (2.0 * half.clamp_min_(0.0)).sqrt()


def chunks(rows: int, columns: int) -> Iterator[Tensor]:
    """Row indices from 0 in chunks: a matrix of a chunk's rows and ``columns`` has at most :data:`ELEMENTS`."""
    yield from torch.split(torch.arange(rows), max(1, ELEMENTS // max(columns, 1)))
