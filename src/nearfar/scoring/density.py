"""Distances to the entries of one bank, made comparable by how densely other entries lie around each of them.

With D(x, i) the distance of a clip to entry i, and the density b_i the mean distance of i to its K nearest other
entries, a distance is rescaled as

* ``ratio``: D / b_i, and ``difference``: D - b_i: local density normalisation (Wilkinghoff et al.,
  arXiv 2509.10951);
* ``varmin``: D - alpha b_i with alpha = Cov(d, b) / Var(b) over the bank, where d_i is the distance of i to its
  nearest other entry; 0 where Var(b) <= 1e-12 (Matsumoto et al., DCASE Workshop 2025). This alpha is the one
  for which d - alpha b varies least.

A score is the mean of the smallest ``neighbours`` rescaled distances. Densities and alpha of a bank that a clip is
missing from are those of that bank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from nearfar.scoring.distances import EPSILON
from nearfar.scoring.neighbours import NeighbourLists

Normalisation = Literal["none", "ratio", "difference", "varmin"]


class DensityBank:
    """The entries of one bank and the densities around them, for one part of the features.

    Where fewer others are present than K or ``neighbours`` ask for, they are those. A bank of one entry has no
    densities and leaves distances as they are. A ratio takes b_i as at least 1e-12: beside an entry with K others
    just like it, everything that is not like it is far out, and another entry will be nearer.

    Args:
        among: from (n,) entries to (n, entries) distances.
        now: (entries,) bool, which of them are present unless it is said otherwise.
        normalisation: how distances are rescaled.
        density_neighbours: K of b_i.
        neighbours: how many rescaled distances make a score.
    """

    def __init__(
        self,
        among: Callable[[Tensor], Tensor],
        now: Tensor,
        normalisation: Normalisation,
        density_neighbours: int,
        neighbours: int = 1,
    ) -> None:
        self.normalisation: Normalisation = normalisation
        self._now, self._neighbours, self._all_present = now, neighbours, bool(now.all())
        self._counts = {"density": density_neighbours} | ({"nearest": 1} if normalisation == "varmin" else {})
        if normalisation != "none":

            def among_others(entries: Tensor) -> Tensor:
                distances = among(entries)
                distances[torch.arange(len(entries)), entries] = torch.inf
                return distances

            self._lists = NeighbourLists(among_others, len(now), len(now), density_neighbours)
            self._means = {name: self._lists.means(now, count) for name, count in self._counts.items()}
            self._terms = self._of_means({name: mean for name, (mean, _) in self._means.items()}, now)

    def score(self, distances: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of clips.

        Args:
            distances: (clips, entries) float64; overwritten.
            present: (clips, entries) bool, which entries are present for each clip; None is those present now.

        Returns:
            (clips,) float64, infinite where no entry is present; and the rescaled distances (clips, entries),
            infinite where an entry is not present.
        """
        if self.normalisation != "none":
            terms = self._terms if present is None else self._terms_without(present)
            distances = distances.mul_(terms) if self.normalisation == "ratio" else distances.sub_(terms)
        if present is not None or not self._all_present:
            distances = distances.masked_fill_(~(self._now if present is None else present), torch.inf)
        if self._neighbours == 1:
            return distances.amin(dim=1), distances
        smallest = distances.topk(min(self._neighbours, distances.shape[1]), dim=1, largest=False).values
        some = torch.isfinite(smallest)
        some[:, 0] = True  # a clip without any entry stays infinitely far
        return smallest.masked_fill(~some, 0.0).sum(dim=1) / some.sum(dim=1), distances

    def _terms_without(self, present: Tensor) -> Tensor:
        means = {
            name: self._lists.means_without(self._now, present, count, self._means[name])
            for name, count in self._counts.items()
        }
        return self._of_means(means, present)

    def _of_means(self, means: dict[str, Tensor], present: Tensor) -> Tensor:
        """What distances are multiplied by (``ratio``) or what is taken off them: (..., entries)."""
        density = means["density"]
        if self.normalisation == "ratio":
            return 1.0 / density.clamp_min(EPSILON).nan_to_num(nan=1.0)
        density = density.nan_to_num(nan=0.0)
        if self.normalisation == "difference":
            return density
        return slope(means["nearest"].nan_to_num(nan=0.0), density, present)[..., None] * density


def slope(d: Tensor, b: Tensor, keep: Tensor) -> Tensor:
    """Cov(d, b) / Var(b) over the last axis, where ``keep``; 0 where b does not vary."""
    weights = keep.to(b.dtype)
    count = weights.sum(dim=-1, keepdim=True).clamp_min(1.0)
    d_mean, b_mean = ((weights * x).sum(dim=-1, keepdim=True) / count for x in (d, b))
    off = weights * (b - b_mean)
    covariance, variance = (off * (d - d_mean)).sum(dim=-1), (off * (b - b_mean)).sum(dim=-1)
    enough = variance / count[..., 0] > EPSILON
    return torch.where(enough, covariance / torch.where(enough, variance, 1.0), torch.zeros_like(variance))
