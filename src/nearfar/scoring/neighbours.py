"""The nearest entries of a bank, kept as short lists, and what changes in them if clips are taken out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nearfar.scoring.distances import chunks

SPARE = 8
"""Entries that a list holds beyond those it is needed for, to take the place of some that are taken out."""


class NeighbourLists:
    """For every row (a clip, or an entry of the bank itself) the nearest entries of a bank.

    Means over the nearest *present* entries are exact: where too few entries of a list are present, the row's
    distances are taken again, all of them.

    Args:
        among: from (n,) row numbers to (n, entries) distances, infinite where an entry does not count for a row.
        rows: how many there are.
        entries: of the bank.
        reach: how many nearest entries are asked for at most.
    """

    def __init__(self, among: Callable[[Tensor], Tensor], rows: int, entries: int, reach: int) -> None:
        self._among, self.rows, self.entries = among, rows, entries
        length = min(reach + SPARE, entries)
        found = [among(part).topk(length, largest=False) for part in chunks(rows, entries)]
        self.distances = torch.cat([part.values for part in found])
        self.indices = torch.cat([part.indices for part in found])
        # Where an entry is on which lists: slots by entry.
        self._by_entry, self._slots = self.indices.flatten().sort(stable=True)

    def means(self, present: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Mean distance of every row to its ``count`` nearest present entries, fewer where there are fewer.

        Args:
            present: (entries,) bool.
            count: at most the lists' reach.

        Returns:
            (rows,) float64, NaN where no entry is present; and (rows,) int64, up to which place of its list an
            entry matters to the mean.
        """
        mean, ends = [], []
        for part in chunks(self.rows, self.indices.shape[1]):
            one, end = self._first(present[None], part, count, torch.zeros_like(part))
            mean.append(one)
            ends.append(end)
        return torch.cat(mean), torch.cat(ends)

    def means_without(self, now: Tensor, present: Tensor, count: int, means: tuple[Tensor, Tensor]) -> Tensor:
        """The same for several sets of present entries, most of which are those present now.

        Args:
            now: (entries,) bool.
            present: (sets, entries) bool.
            count: at most the lists' reach.
            means: of ``now``, from :meth:`means`.

        Returns:
            (sets, rows) float64.
        """
        mean, end = means
        out = mean.repeat(len(present), 1)
        changed = present ^ now
        which, row, place = self._listed(*torch.nonzero(changed, as_tuple=True))
        matters = place <= end[row]
        # To a row whose list is too short already, any change may matter, of entries that are not on it as well.
        exhausted = torch.nonzero(end == self.indices.shape[1])[:, 0]
        some = torch.nonzero(changed.any(dim=1))
        pairs = torch.unique(
            torch.cat([which[matters] * self.rows + row[matters], (some * self.rows + exhausted).flatten()])
        )
        for part in chunks(len(pairs), self.indices.shape[1]):
            which, row = pairs[part] // self.rows, pairs[part] % self.rows
            out[which, row] = self._first(present, row, count, which)[0]
        return out

    def _listed(self, which: Tensor, entry: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Every place on a list that one of the entries has: the entry's ``which``, the row, and the place."""
        begin = torch.searchsorted(self._by_entry, entry)
        length = torch.searchsorted(self._by_entry, entry, right=True) - begin
        pair = torch.repeat_interleave(torch.arange(len(entry)), length)
        within = torch.arange(len(pair)) - (length.cumsum(0) - length)[pair]
        slot = self._slots[begin[pair] + within]
        return which[pair], slot // self.indices.shape[1], slot % self.indices.shape[1]

    def _first(self, present: Tensor, row: Tensor, count: int, which: Tensor) -> tuple[Tensor, Tensor]:
        """Means and ends of some rows; of each, ``present[which]`` says which entries are present."""
        distances = self.distances[row]
        there = present[which[:, None], self.indices[row]] & torch.isfinite(distances)
        use = there & (there.cumsum(dim=1) <= count)
        found = use.sum(dim=1)
        mean = distances.masked_fill(~use, 0.0).sum(dim=1) / found
        length = self.indices.shape[1]
        end = torch.where(found == count, (use * torch.arange(length)).amax(dim=1), length)
        short = torch.nonzero(found < count)[:, 0] if length < self.entries else found[:0]
        for part in chunks(len(short), self.entries):
            these = short[part]
            mean[these] = _mean_of_smallest(self._among(row[these]), present[which[these]], count)
        return mean, end


def _mean_of_smallest(distances: Tensor, present: Tensor, count: int) -> Tensor:
    """Mean of the ``count`` smallest present and finite values of every row; NaN where there is none."""
    smallest = (
        distances.masked_fill(~present, torch.inf).topk(min(count, distances.shape[1]), largest=False).values
    )
    some = torch.isfinite(smallest)
    return smallest.masked_fill(~some, 0.0).sum(dim=1) / some.sum(dim=1)
