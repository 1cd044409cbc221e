"""From features to anomaly scores: a bank of normal clips, and how far a clip is from it.

With one part, the cosine distance and one neighbour this is equation 3 of the report,
``1 - max_n cos(E, E_n)``. With several parts, each finds its own nearest normal clip and the distances are
averaged (BEAM of public systems), unless ``shared_neighbour`` lets them choose together.

With two domains apart, the score is the lower of the two: ``min(S_source, S_target)`` with the densities of each
domain's own bank (domain-wise local density, after Wilkinghoff et al., arXiv 2509.10951), or
``min(S_source / m_source, S_target / m_target)``, where m is the median of the domain's own leave-one-out scores
(domain-wise standardisation).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Scoring
from nearfar.scoring.bank import Bank, make_bank
from nearfar.scoring.density import DensityBank
from nearfar.scoring.distances import EPSILON, Distance, Points, Scaling, between, chunks, points
from nearfar.scoring.neighbours import NeighbourLists

Scores = NDArray[np.float64]


class _Domain:
    """The bank's entries of one domain, or of both together: a density bank per part, or one of all parts.

    ``clips`` are the normal clips of the domain, ``members`` the entries.
    """

    def __init__(
        self, distance: Distance, scaled: Tensor, bank: Bank, members: Tensor, clips: Tensor, scoring: Scoring
    ) -> None:
        self._distance, self._bank, self._scoring = distance, bank, scoring
        self.members, self.clips, self._now = members, clips, bank.now[members]
        entries = bank.entries if len(members) == len(bank.entries) else bank.entries[members]
        self._centres = bank.entries[members[self._now]].mean(dim=0)
        self._points = self.seen(entries)
        self._of_clips = self.seen(scaled[clips])
        of_target = scoring.domains != "pooled" and bool(bank.target[members[0]])
        count = scoring.target_density_neighbours if of_target else scoring.density_neighbours
        parts = [[part] for part in range(len(self._points))]
        self._together = [list(range(len(parts)))] if scoring.shared_neighbour else parts
        self._banks = [
            DensityBank(
                partial(self._among, parts=each), self._now, scoring.normalisation, count, scoring.neighbours
            )
            for each in self._together
        ]
        if scoring.domains == "standardised":
            self._lists = [
                NeighbourLists(partial(self._unrelated, parts=each), len(clips), len(members), scoring.neighbours)
                for each in self._together
            ]
            self._alone = [lists.means(self._now, scoring.neighbours) for lists in self._lists]

    def seen(self, scaled: Tensor) -> list[Points]:
        """Scaled features, (clips, parts, dim), by part and from the middle of the bank."""
        return [points(part, centre) for part, centre in zip(scaled.unbind(dim=1), self._centres, strict=True)]

    def score(self, queries: list[Points], present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean score over parts, and the entry that is nearest over all parts together.

        ``present``, (queries, entries of the whole bank) bool, is which of them are present for each query.
        """
        here = None if present is None else present[:, self.members]
        total, overall = torch.zeros(len(queries[0].half), dtype=torch.float64), None
        for bank, parts in zip(self._banks, self._together, strict=True):
            scores, rescaled = bank.score(self._mean_distance(queries, parts), here)
            total += scores
            overall = rescaled if overall is None else overall.add_(rescaled)
        assert overall is not None, "features have one part or more"
        return total / len(self._banks), self.members[overall.argmin(dim=1)]

    def median(self) -> Tensor:
        """The median leave-one-out score of the domain's normal clips, (1,); NaN where there is none."""
        alone = torch.stack([mean for mean, _ in self._alone]).mean(dim=0)
        return _median(alone[None])

    def medians_without(self, clips: Tensor, present: Tensor) -> Tensor:
        """The same in the bank that one of ``clips`` is missing from: (clips,)."""
        here, count = present[:, self.members], self._scoring.neighbours
        scores = [
            lists.means_without(self._now, here, count, alone)
            for lists, alone in zip(self._lists, self._alone, strict=True)
        ]
        mean = torch.stack(scores).mean(dim=0)
        return _median(mean.masked_fill(self.clips == clips[:, None], torch.nan))

    def _mean_distance(self, queries: list[Points], parts: list[int]) -> Tensor:
        total = between(queries[parts[0]], self._points[parts[0]], self._distance)
        for part in parts[1:]:
            total += between(queries[part], self._points[part], self._distance)
        return total.div_(len(parts)) if len(parts) > 1 else total

    def _among(self, entries: Tensor, parts: list[int]) -> Tensor:
        return self._mean_distance([each[entries] for each in self._points], parts)

    def _unrelated(self, rows: Tensor, parts: list[int]) -> Tensor:
        """Distances of some of the domain's clips to entries that are not made of them."""
        distances = self._mean_distance([each[rows] for each in self._of_clips], parts)
        related = self._bank.parents[self.members].T[:, None] == self.clips[rows][:, None]
        return distances.masked_fill_(related.any(dim=0), torch.inf)


class Scorer:
    """A fitted scorer of one machine's clips and one view; made by :func:`fit_scorer`.

    Attributes:
        features: (normals, parts, dim) float32 that it was fitted on.
        target: (normals,) bool.
        bank: what clips are compared with.
    """

    def __init__(self, features: Tensor, target: Tensor, scoring: Scoring, seed: int) -> None:
        self.features, self.target, self._scoring = features, target, scoring
        self._scaling = Scaling(features, scoring.distance)
        scaled = self._scaling(features)
        self.bank = make_bank(self._scaling, scaled, target, scoring, seed)
        clips, entries = torch.arange(len(target)), torch.arange(len(self.bank.now))
        groups = [(entries, clips)]
        if scoring.domains != "pooled":
            groups = [(entries[self.bank.target == domain], clips[target == domain]) for domain in (False, True)]
        self._domains = [
            _Domain(scoring.distance, scaled, self.bank, members, of_domain, scoring)
            for members, of_domain in groups
            if len(of_domain)
        ]
        self._scales: Tensor | None = None
        if scoring.domains == "standardised":
            self._scales = _usable(torch.stack([domain.median() for domain in self._domains]))

    def score(self, features: Tensor) -> tuple[Scores, NDArray[np.int64]]:
        """Score clips.

        Args:
            features: (clips, parts, dim) float32.

        Returns:
            (clips,) float64, higher is more anomalous, and (clips,) int64, the nearest normal clip of each: over
            all parts together, where there are several. Of a made-up clip it is the target clip it is made of.

        Raises:
            ValueError: if the features have other sizes than the normal clips', or one is not finite (or, for the
                cosine, zero).
        """
        if features.dim() != 3 or features.shape[1:] != self.features.shape[1:]:
            raise ValueError(
                f"expected features of (clips, {self.features.shape[1]}, {self.features.shape[2]}), "
                f"got {tuple(features.shape)}"
            )
        scores = np.empty(len(features), dtype=np.float64)
        nearest = np.empty(len(features), dtype=np.int64)
        for part in self._chunks(len(features)):
            lowest, which = self._lowest(features[part], None, self._scales)
            scores[part.numpy()], nearest[part.numpy()] = lowest.numpy(), which.numpy()
        return scores, nearest

    def leave_one_out(self) -> Scores:
        """The score of every normal clip in a bank that it is left out of, (normals,) float64.

        Exact: what a scorer fitted on the other clips gives it, in the sense of :mod:`nearfar.scoring.bank` where
        clips are drawn or clustered. Only the scaling of ``standardised`` distances is kept, which belongs to the
        features. A domain that is left without clips has no say.

        Raises:
            ValueError: if there is one normal clip only.
        """
        if len(self.features) < 2:
            raise ValueError("a single normal clip has no others to be scored against")
        scores = np.empty(len(self.features), dtype=np.float64)
        for clips in self._chunks(len(self.features)):
            present = self.bank.without(clips)
            scales = None
            if self._scales is not None:
                found = [domain.medians_without(clips, present) for domain in self._domains]
                scales = _usable(torch.stack(found))
            scores[clips.numpy()] = self._lowest(self.features[clips], present, scales)[0].numpy()
        return scores

    def _lowest(self, features: Tensor, present: Tensor | None, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        """The lowest score over domains, and the nearest normal clip."""
        scaled = self._scaling(features)
        found = [domain.score(domain.seen(scaled), present) for domain in self._domains]
        each = torch.stack([score for score, _ in found])
        lowest, which = (each if scales is None else each / scales).min(dim=0)
        entry = torch.stack([nearest for _, nearest in found]).gather(0, which[None])[0]
        return lowest, self.bank.parents[entry, 0]

    def _chunks(self, clips: int) -> Iterator[Tensor]:
        """Clips at work at once: bounded by the distances to the bank, and by the features themselves."""
        yield from chunks(clips, max(len(self.bank.now), self.features[0].numel()))


def _median(scores: Tensor) -> Tensor:
    """The median of every row's numbers that are not NaN; NaN where there are none: (rows,) float64."""
    ordered = scores.sort(dim=1).values  # NaN comes last
    count = (~ordered.isnan()).sum(dim=1, keepdim=True)
    lower, upper = (count - 1).clamp_min(0) // 2, torch.minimum(count // 2, (count - 1).clamp_min(0))
    return (ordered.gather(1, lower) + ordered.gather(1, upper))[:, 0] / 2


def _usable(medians: Tensor) -> Tensor:
    """(domains, clips) to divide by: where a median is none, or 0 because clips are alike, the other domain's."""
    usable = medians > EPSILON
    others = medians.flip(0)
    return torch.where(usable, medians, torch.where(others > EPSILON, others, 1.0))


def fit_scorer(features: Tensor, target: Tensor, scoring: Scoring, seed: int = 0) -> Scorer:
    """Fit a scorer on normal clips.

    Memory: the features and, with them, three numbers for each of some tens of neighbours of every entry; matrices
    of distances are taken in chunks (:data:`nearfar.scoring.distances.ELEMENTS`).

    Args:
        features: (normals, parts, dim) float32 of one machine and view.
        target: (normals,) bool, true for clips of the target domain.
        scoring: distance, neighbours, normalisation, domains and enrichment are read.
        seed: of made-up clips and of k-means.

    Raises:
        ValueError: if there are no normal clips, or a feature is not finite (or, for the cosine, zero).
    """
    if features.dim() != 3 or len(features) == 0 or target.shape != features.shape[:1]:
        raise ValueError(
            f"expected features of (normals >= 1, parts, dim) and their domains, got {tuple(features.shape)} and "
            f"{tuple(target.shape)}"
        )
    return Scorer(features, target, scoring, seed)
