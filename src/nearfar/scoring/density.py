"""Distances to the normal clips of one bank, made comparable by how densely normal clips lie around each of them.

With D(x, i) the distance of a clip to normal clip i, and the density b_i the mean distance of i to its K nearest
other normal clips, a distance is rescaled as

* ``ratio``: D / b_i, and ``difference``: D - b_i: local density normalisation (Wilkinghoff et al.,
  arXiv 2509.10951);
* ``varmin``: D - alpha b_i with alpha = Cov(d, b) / Var(b) over the bank, where d_i is the distance of i to its
  nearest other normal clip; 0 where Var(b) <= 1e-12 (Matsumoto et al., DCASE Workshop 2025). This alpha is the one
  for which d - alpha b varies least.

A score is the mean of the smallest ``neighbours`` rescaled distances. The leave-one-out score of a normal clip is
exactly what a bank fitted without it gives it; densities and alpha are those of that bank.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["none", "ratio", "difference", "varmin"]
EPSILON = 1e-12
CHUNK = 1024
"""Rows of a matrix of distances at work at once, to bound memory."""


class DensityBank:
    """One bank's distances among its normal clips.

    Args:
        between: (normals, normals) distances, at least one normal clip; the diagonal is not looked at.
        normalisation: how distances are rescaled.
        density_neighbours: K of b_i; fewer where there are fewer others. A bank of one clip has no densities and
            leaves distances as they are.
        neighbours: how many rescaled distances make a score; fewer where there are fewer normal clips.
    """

    def __init__(
        self, between: Tensor, normalisation: Normalisation, density_neighbours: int, neighbours: int = 1
    ) -> None:
        self.size = len(between)
        self.normalisation: Normalisation = normalisation if self.size > 1 else "none"
        self.neighbours, self.density_neighbours = neighbours, density_neighbours
        self.between = between.double().clone()
        self.between.fill_diagonal_(torch.inf)
        deepest = min(max(density_neighbours, neighbours) + 1, max(self.size - 1, 0))
        nearest = self.between.topk(deepest, largest=False)
        self.distances, self.indices = nearest.values, nearest.indices
        if self.normalisation != "none":
            others = min(density_neighbours, self.size - 1)
            self.density = self.distances[:, :others].mean(dim=1)
        if self.normalisation == "varmin":
            self.alpha = float(_slope(self.distances[:, 0], self.density))

    def rescaled(self, distances: Tensor) -> Tensor:
        """(queries, normals) distances, rescaled."""
        if self.normalisation == "none":
            return distances
        if self.normalisation == "ratio":
            return distances / self.density.clamp_min(EPSILON)
        return distances - (self.alpha if self.normalisation == "varmin" else 1.0) * self.density

    def score(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of queries, (queries,), and their first neighbours, (queries,) int64, from (queries, normals)."""
        count = min(self.neighbours, self.size)
        nearest = self.rescaled(distances.double()).topk(count, dim=1, largest=False)
        return nearest.values.mean(dim=1), nearest.indices[:, 0]

    def leave_one_out(self) -> Tensor:
        """(normals,) float64; needs at least two normal clips."""
        parts = [self._left_out(first) for first in range(0, self.size, CHUNK)]
        return torch.cat(parts)

    def _left_out(self, first: int) -> Tensor:
        rows = self.between[first : first + CHUNK]
        if self.normalisation != "none" and self.size > 2:  # a bank of one, which is left of two, has no densities
            density = self._without(first, len(rows), self.density_neighbours)
            if self.normalisation == "ratio":
                rows = rows / density.clamp_min(EPSILON)
            elif self.normalisation == "difference":
                rows = rows - density
            else:
                nearest = self._without(first, len(rows), 1)
                keep = torch.ones_like(density, dtype=torch.bool)
                keep[torch.arange(len(rows)), first + torch.arange(len(rows))] = False
                rows = rows - _slope(nearest, density, keep)[:, None] * density
        count = min(self.neighbours, self.size - 1)
        smallest: Tensor = rows.topk(count, dim=1, largest=False).values.mean(dim=1)
        return smallest

    def without(self, first: int, rows: int) -> Tensor:
        """Leave-one-out scores of all normal clips in banks that lack one more; only of plain distances.

        Entry (r, i) is the mean of the smallest distances of clip i to the clips that are neither i nor
        ``first + r``: (rows, normals) float64; entries of a clip with itself mean nothing.
        """
        return self._without(first, rows, self.neighbours)

    def _without(self, first: int, rows: int, count: int) -> Tensor:
        """Mean distance of every clip i to its ``count`` nearest others in the bank without clip ``first + r``."""
        count = min(count, self.size - 2)
        reach = self.distances[:, : count + 1]
        total = reach.sum(dim=1)
        out = ((total - reach[:, -1]) / count).repeat(rows, 1)
        # Where the clip that is left out is among a clip's count nearest, the next one takes its place.
        clip, place = torch.nonzero(
            (self.indices[:, :count] >= first) & (self.indices[:, :count] < first + rows), as_tuple=True
        )
        gone = self.indices[clip, place] - first
        out[gone, clip] = (total[clip] - self.distances[clip, place]) / count
        return out


def _slope(d: Tensor, b: Tensor, keep: Tensor | None = None) -> Tensor:
    """Cov(d, b) / Var(b) over the last axis, where ``keep``; 0 where b does not vary."""
    weights = torch.ones_like(b) if keep is None else keep.to(b.dtype)
    count = weights.sum(dim=-1, keepdim=True)
    d = torch.where(weights > 0, d, torch.zeros_like(d))
    d_mean, b_mean = ((weights * x).sum(dim=-1, keepdim=True) / count for x in (d, b))
    covariance = (weights * (d - d_mean) * (b - b_mean)).sum(dim=-1)
    variance = (weights * (b - b_mean) ** 2).sum(dim=-1)
    enough = variance / count[..., 0] > EPSILON
    return torch.where(
        enough, covariance / variance.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(variance)
    )
