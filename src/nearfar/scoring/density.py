"""Distances to the entries of one bank, rescaled by the density of the bank around each entry.

With D(x, i) the distance of a clip to entry i, and the density b_i the mean distance of i to its K nearest other
entries, a distance is rescaled as

* ``ratio``: D / b_i, and ``difference``: D - b_i: local density normalisation (Wilkinghoff et al.,
  arXiv 2509.10951);
* ``varmin``: D - alpha b_i with alpha = Cov(d, b) / Var(b) over the bank, where d_i is the distance of i to its
  nearest other entry; 0 if Var(b) <= 1e-12 (Matsumoto et al., DCASE Workshop 2025). This alpha minimises the
  variance of d - alpha b. A scale lambda below 1 keeps a part of the distance's own differences.

A score is the mean of the smallest ``neighbours`` rescaled distances. Densities and alpha of a bank without a clip
are computed from that bank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nearfar.scoring.distances import EPSILON, Pairs, chunks
from nearfar.scoring.settings import Normalisation


class DensityBank:
    """The entries of one bank and the densities around them, for one part of the features.

    If there are fewer other entries than K or ``neighbours``, all of them are used. A bank of one entry has no
    densities: its distances are not rescaled. Ratios divide by at least 1e-12, for entries with K identical ones.

    Args:
        among: the distances between entries, infinite from an entry to itself.
        active: (entries,) bool, the default mask of present entries.
        normalisation: the rescaling of distances.
        density_neighbours: K of b_i.
        neighbours: number of smallest rescaled distances that a score is the mean of.
        varmin_scale: lambda.
    """

    def __init__(
        self,
        among: Pairs,
        active: Tensor,
        normalisation: Normalisation,
        density_neighbours: int,
        neighbours: int,
        varmin_scale: float = 1.0,
    ) -> None:
        self._varmin_scale = varmin_scale
        self.normalisation: Normalisation = normalisation
        self._active, self._neighbours, self._all_present = active, neighbours, bool(active.all())
        self._counts = {"density": density_neighbours} | ({"nearest": 1} if normalisation == "varmin" else {})
        if normalisation != "none":
            self._lists = NeighbourLists(among, len(active), len(active), density_neighbours)
            self._means = {name: self._lists.means(active, count) for name, count in self._counts.items()}
            self._terms = self._of_means({name: mean for name, (mean, _) in self._means.items()}, active)

    @property
    def terms(self) -> Tensor:
        """(entries,) float64 of a normalised bank: the factors (``ratio``) of distances, or what is subtracted."""
        return self._terms

    def score(self, distances: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores of clips.

        Args:
            distances: (clips, entries) float64; overwritten.
            present: (clips, entries) bool, mask of the entries present for each clip; None: the active ones.

        Returns:
            (clips,) float64, infinite if no entry is present; and the rescaled distances (clips, entries),
            infinite to entries that are not present.
        """
        if self.normalisation != "none":
            terms = self._terms if present is None else self._terms_without(present)
            distances = distances.mul_(terms) if self.normalisation == "ratio" else distances.sub_(terms)
        if present is not None or not self._all_present:
            distances = distances.masked_fill_(~(self._active if present is None else present), torch.inf)
        return _lowest(distances, self._neighbours), distances

    @staticmethod
    def score_parts(banks: Sequence[DensityBank], distances: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`score` of several banks that differ in nothing but their entries' features, in one pass.

        Args:
            banks: one for every part.
            distances: (parts, clips, entries) float64; overwritten.

        Returns:
            (parts, clips) float64 scores, and the rescaled distances (parts, clips, entries).
        """
        first = banks[0]
        if first.normalisation != "none":
            terms = torch.stack([bank._terms for bank in banks]).unsqueeze(1)
            distances = distances.mul_(terms) if first.normalisation == "ratio" else distances.sub_(terms)
        if not first._all_present:
            distances = distances.masked_fill_(~first._active, torch.inf)
        return _lowest(distances, first._neighbours), distances

    def _terms_without(self, present: Tensor) -> Tensor:
        lists, means = self._lists, self._means
        counts = self._counts.items()
        without = {name: lists.means_without(self._active, present, count, means[name]) for name, count in counts}
        return self._of_means(without, present)

    def _of_means(self, means: dict[str, Tensor], present: Tensor) -> Tensor:
        """The factors (``ratio``) of distances or the terms to subtract from them: (..., entries)."""
        density = means["density"]
        if self.normalisation == "ratio":
            return 1.0 / density.clamp_min(EPSILON).nan_to_num(nan=1.0)
        density = density.nan_to_num(nan=0.0)
        if self.normalisation == "difference":
            return density
        alpha = slope(means["nearest"].nan_to_num(nan=0.0), density, present)
        return self._varmin_scale * alpha[..., None] * density


def _lowest(distances: Tensor, neighbours: int) -> Tensor:
    """The mean of the smallest distances over the last axis; infinite where none is finite."""
    if neighbours == 1:
        return distances.amin(dim=-1)
    scores = _mean_of_smallest(distances, neighbours)
    return scores.masked_fill_(scores.isnan(), torch.inf)


def slope(d: Tensor, b: Tensor, keep: Tensor) -> Tensor:
    """Cov(d, b) / Var(b) over the entries of the last axis with ``keep``; 0 if b is constant."""
    weights = keep.to(b.dtype)
    count = weights.sum(dim=-1, keepdim=True).clamp_min(1.0)
    d_mean, b_mean = ((weights * x).sum(dim=-1, keepdim=True) / count for x in (d, b))
    deviation = weights * (b - b_mean)
    covariance, variance = (deviation * (d - d_mean)).sum(dim=-1), (deviation * (b - b_mean)).sum(dim=-1)
    varies = variance / count[..., 0] > EPSILON
    return torch.where(varies, covariance / torch.where(varies, variance, 1.0), torch.zeros_like(variance))


SPARE = 8
"""Entries of a list beyond the nearest K, to replace some that are left out."""


class NeighbourLists:
    """For every row (a clip, or an entry of the bank itself) the nearest entries of a bank.

    Means over the nearest *present* entries are exact: if too few entries of a list are present, all distances of
    the row are computed again.

    Args:
        among: the distances of rows to entries, infinite to entries to leave out of a row's list.
        rows: number of rows.
        entries: number of entries of the bank.
        reach: largest number of nearest entries in a mean.
    """

    def __init__(self, among: Pairs, rows: int, entries: int, reach: int) -> None:
        self._among, self.rows, self.entries = among, rows, entries
        length = min(reach + SPARE, entries)
        found = [among.nearest(part, length) for part in chunks(rows, entries)]
        self.distances, self.indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        # The positions in the flattened lists, sorted by entry.
        self._by_entry, self._slots = self.indices.flatten().sort(stable=True)

    def means(self, present: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Mean distance of every row to its ``count`` nearest present entries, or to all if there are fewer.

        Returns:
            (rows,) float64, NaN if no entry is present; and (rows,) int64, the last position in the row's list
            that affects the mean (the length of the list if entries beyond it do).
        """
        parts = chunks(self.rows, self.indices.shape[1])
        means, ends = zip(*(self._first(present[None], p, count, torch.zeros_like(p)) for p in parts), strict=True)
        return torch.cat(means), torch.cat(ends)

    def means_without(self, active: Tensor, present: Tensor, count: int, means: tuple[Tensor, Tensor]) -> Tensor:
        """The means for masks ``present``, (masks, entries), that differ little from ``active``: (masks, rows).

        ``means`` is the result of :meth:`means` for ``active``.
        """
        mean, end = means
        out = mean.repeat(len(present), 1)
        changed = present ^ active
        mask, row, position = self._listed(*torch.nonzero(changed, as_tuple=True))
        affects = position <= end[row]
        # The mean of a row whose list is too short may depend on any entry, also on those that are not listed.
        exhausted = torch.nonzero(end == self.indices.shape[1])[:, 0]
        of_exhausted = torch.nonzero(changed.any(dim=1)) * self.rows + exhausted
        pairs = torch.unique(torch.cat([mask[affects] * self.rows + row[affects], of_exhausted.flatten()]))
        for part in chunks(len(pairs), self.indices.shape[1]):
            mask, row = pairs[part] // self.rows, pairs[part] % self.rows
            out[mask, row] = self._first(present, row, count, mask)[0]
        return out

    def _listed(self, mask: Tensor, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All positions of the entries ``entry`` (n,) in the lists: their ``mask`` (n,), row and position."""
        begin = torch.searchsorted(self._by_entry, entry)
        length = torch.searchsorted(self._by_entry, entry, right=True) - begin
        pair = torch.repeat_interleave(torch.arange(len(entry)), length)
        within = torch.arange(len(pair)) - (length.cumsum(0) - length)[pair]
        slot = self._slots[begin[pair] + within]
        return mask[pair], slot // self.indices.shape[1], slot % self.indices.shape[1]

    def _first(self, present: Tensor, row: Tensor, count: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Means and ends, as :meth:`means` returns, of some rows; ``present[mask]`` is the mask of each."""
        distances = self.distances[row]
        usable = present[mask[:, None], self.indices[row]] & torch.isfinite(distances)
        use = usable & (usable.cumsum(dim=1) <= count)
        found = use.sum(dim=1)
        mean = distances.masked_fill(~use, 0.0).sum(dim=1) / found
        length = self.indices.shape[1]
        end = torch.where(found == count, (use * torch.arange(length)).amax(dim=1), length)
        short = torch.nonzero(found < count)[:, 0] if length < self.entries else found[:0]
        for part in chunks(len(short), self.entries):
            rows, absent = row[short[part]], ~present[mask[short[part]]]
            mean[short[part]] = _mean_of_smallest(self._among(rows).masked_fill(absent, torch.inf), count)
        return mean, end


def _mean_of_smallest(distances: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` smallest finite values of every row, or of all if there are fewer; NaN if none."""
    smallest = distances.topk(min(count, distances.shape[-1]), dim=-1, largest=False).values
    finite = torch.isfinite(smallest)
    return smallest.masked_fill(~finite, 0.0).sum(dim=-1) / finite.sum(dim=-1)
