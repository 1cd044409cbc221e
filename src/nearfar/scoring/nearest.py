"""The nearest-neighbour back-end: distance of a clip to the nearest clips of a bank of normal clips.

With one part, the cosine distance and one neighbour this is equation 3 of the report,
``1 - max_n cos(E, E_n)``. With several parts, each has its own nearest normal clip and the distances are
averaged (BEAM of public systems); with ``shared_neighbour`` the nearest clip is that of the mean distance.

With two separate domains, the score is the lower of the two: ``min(S_source, S_target)`` with the densities of
each domain's own bank (domain-wise local density, after Wilkinghoff et al., arXiv 2509.10951), or
``min(S_source / m_source, S_target / m_target)``, where m is the median of the domain's own leave-one-out scores
(domain-wise standardisation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from nearfar.scoring.backends import Domains, Features, Indices, Scores, as_features, as_target
from nearfar.scoring.bank import NormalBank, make_bank
from nearfar.scoring.contributions import Contributions, divided
from nearfar.scoring.density import DensityBank, NeighbourLists
from nearfar.scoring.distances import (
    EPSILON,
    CentredPoints,
    Pairs,
    Scaling,
    centred,
    chunks,
    mean_distance,
    pairwise_distance,
    without_itself,
)
from nearfar.scoring.parts import REDUCTIONS
from nearfar.scoring.settings import NearestSettings


@dataclass(frozen=True, slots=True, eq=False)
class BankTables:
    """What scores are computed from, of the entries of one domain or of both pooled.

    Attributes:
        centres: (parts, dim), subtracted from scaled features.
        values: (parts, entries, dim), the entries relative to the centres.
        half: (parts, entries), half of their squared norms.
        terms: (parts or 1, entries) float64, by which distances to entries are multiplied (``ratio``) or which
            are subtracted from them; None without normalisation.
        clips: (entries,) int64, the normal clip that each entry is, or is made from.
        scale: the divisor of the scores.
    """

    centres: Tensor
    values: Tensor
    half: Tensor
    terms: Tensor | None
    clips: Tensor
    scale: float


class _Domain:
    """The entries of one domain, or of both pooled: a density bank per part, or one of all parts.

    ``clips`` are indices of the normal clips of the domain, ``members`` of its entries.
    """

    def __init__(
        self, scaled: Tensor, bank: NormalBank, members: Tensor, clips: Tensor, settings: NearestSettings
    ) -> None:
        self._bank, self._settings, self._reduction = bank, settings, REDUCTIONS[settings.over_parts]
        self.members, self.clips, self._active = members, clips, bank.active[members]
        entries = bank.entries if len(members) == len(bank.entries) else bank.entries[members]
        self._centres = bank.entries[members[self._active]].mean(dim=0)
        self._together = centred(entries, self._centres)
        self._points = self._together.by_part()
        of_target = settings.domains != "pooled" and bool(bank.target[members[0]])
        count = settings.target_density_neighbours if of_target else settings.density_neighbours
        parts = len(self._points)
        rescaling = (settings.normalisation, count, settings.neighbours, settings.varmin_scale)
        self._groups = [slice(parts)] if settings.shared_neighbour else [slice(i, i + 1) for i in range(parts)]
        self._banks = [
            DensityBank(self._pairs(self._points, group, without_itself), self._active, *rescaling)
            for group in self._groups
        ]
        if settings.domains == "standardised":
            of_clips = centred(scaled[clips], self._centres).by_part()
            others = partial(_without_descendants, parents=bank.parents[members], clips=clips)
            self._lists = [
                NeighbourLists(self._pairs(of_clips, group, others), len(clips), len(members), settings.neighbours)
                for group in self._groups
            ]
            self._leave_one_out = [lists.means(self._active, settings.neighbours) for lists in self._lists]

    def score(self, scaled: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean score over parts, and the entry with the smallest mean of rescaled distances over parts.

        ``scaled`` are features (clips, parts, dim), and ``present`` is a mask of the entries to compare each clip
        with, (clips, entries of the whole bank) bool.
        """
        if present is None:
            scores, rescaled = self._rescaled(centred(scaled, self._centres))
            return self._reduction.score(scores), self.members[rescaled.sum(dim=0).argmin(dim=1)]
        mask, queries = present[:, self.members], centred(scaled, self._centres).by_part()
        of_parts, overall = [], None
        for bank, parts in zip(self._banks, self._groups, strict=True):
            scores, rescaled = bank.score(self._mean_distance(queries, parts), mask)
            of_parts.append(scores)
            overall = rescaled if overall is None else overall.add_(rescaled)
        assert overall is not None, "features have one part or more"
        return self._reduction.score(torch.stack(of_parts)), self.members[overall.argmin(dim=1)]

    def _rescaled(self, queries: CentredPoints) -> tuple[Tensor, Tensor]:
        """Scores (banks, clips) and rescaled distances (banks, clips, entries) of all banks in one pass."""
        distances = pairwise_distance(queries, self._together, self._settings.distance)
        if len(self._banks) < len(distances):  # one bank of all parts
            distances = distances.mean(dim=0, keepdim=True)
        return DensityBank.score_parts(self._banks, distances)

    def contributions(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of :meth:`score`.

        Returns:
            (clips, parts, dim) float64, which add up to the score; and (clips, parts, neighbours) int64, the
            entries that a part is compared with, the nearest first. Where fewer are present, the last ones repeat
            the first.
        """
        queries = centred(scaled, self._centres)
        _, rescaled = self._rescaled(queries)
        nearest = rescaled.topk(min(self._settings.neighbours, rescaled.shape[2]), dim=2, largest=False)
        there = torch.isfinite(nearest.values)
        value = nearest.values.masked_fill(~there, 0.0) / there.sum(dim=2, keepdim=True)
        value = value * self._reduction.weights(value.sum(dim=2))[:, :, None]
        chosen = torch.where(there, nearest.indices, nearest.indices[:, :, :1])  # (banks, clips, neighbours)
        parts = torch.arange(len(self._points))[:, None, None]
        of_parts = chosen.expand(len(parts), -1, -1)  # parts that share a bank have the same neighbours
        squares = (queries.values[:, :, None] - self._together.values[parts, of_parts]).double().square_()
        distance = squares.sum(dim=3)
        weights = distance if self._settings.distance == "cosine" else distance.sqrt()
        # Each bank's value among its parts, and each part's among its dimensions.
        by_bank = weights.reshape(len(chosen), -1, *weights.shape[1:]).movedim(1, -1)
        by_part = divided(value, by_bank).movedim(-1, 1).reshape(weights.shape)
        return divided(by_part, squares).sum(dim=2).transpose(0, 1), self.members[of_parts].transpose(0, 1)

    def tables(self, scale: float) -> BankTables:
        """What :meth:`score` of the whole bank is computed from."""
        active, members = self._active, self.members
        terms = None
        if self._settings.normalisation != "none":
            terms = torch.stack([bank.terms[active] for bank in self._banks])
        values, half = self._together.values[:, active], self._together.half[:, active]
        return BankTables(self._centres, values, half, terms, self._bank.parents[members[active], 0], scale)

    def median(self) -> Tensor:
        """The median leave-one-out score of the domain's normal clips, (1,); NaN if there is none."""
        scores = torch.stack([mean for mean, _ in self._leave_one_out])
        return _median(self._reduction.score(scores)[None])

    def medians_without(self, clips: Tensor, present: Tensor) -> Tensor:
        """The median for the bank without each of ``clips`` in turn: (clips,); ``present`` as in :meth:`score`."""
        mask, count = present[:, self.members], self._settings.neighbours
        scores = [
            lists.means_without(self._active, mask, count, leave_one_out)
            for lists, leave_one_out in zip(self._lists, self._leave_one_out, strict=True)
        ]
        mean = self._reduction.score(torch.stack(scores))
        return _median(mean.masked_fill(self.clips == clips[:, None], torch.nan))

    def _mean_distance(self, queries: list[CentredPoints], parts: slice) -> Tensor:
        return mean_distance(queries[parts], self._points[parts], self._settings.distance)

    def _pairs(
        self, queries: list[CentredPoints], parts: slice, leave_out: Callable[[Tensor, Tensor], object]
    ) -> Pairs:
        """Distances to the entries. (They do not refer to this object: a cycle would outlive its use.)"""
        return Pairs(queries[parts], self._points[parts], self._settings.distance, leave_out)


def _without_descendants(distances: Tensor, rows: Tensor, parents: Tensor, clips: Tensor) -> None:
    """Set the distances of some clips, ``clips[rows]``, to the entries that are made from them to infinity."""
    related = parents.T[:, None] == clips[rows][:, None]
    distances.masked_fill_(related.any(dim=0), torch.inf)


class NearestNeighbours:
    """Distance to the nearest normal clips.

    Memory: the features and, for every entry, three numbers for each of a few tens of neighbours; matrices of
    distances are computed in chunks (:data:`nearfar.scoring.distances.ELEMENTS`).

    Args:
        settings: settings; by default the plain cosine distance to the nearest clip (K = 1).
        seed: seed of SMOTE and k-means.
        changes: fields of :class:`NearestSettings` that differ from ``settings``.

    Attributes:
        features: (normals, parts, dim) float32 that it was fitted on.
        target: (normals,) bool, true for clips of the target domain.
        bank: the entries that clips are compared with.
    """

    features: Tensor
    target: Tensor
    bank: NormalBank

    def __init__(self, settings: NearestSettings | None = None, *, seed: int = 0, **changes: Any) -> None:
        given = (settings or NearestSettings()).model_dump()
        self.settings = NearestSettings.model_validate(given | changes)
        self.seed = seed

    def fit(self, normals: Features, domains: Domains = None) -> Self:
        """Fit on normal clips.

        Args:
            normals: (normals, parts, dim) or (normals, dim) float32 of one machine and view.
            domains: ``"source"`` or ``"target"`` per clip, or bool, true for the target domain; None: all source.

        Raises:
            ValueError: if there are no normal clips, or a feature is not finite (or, for the cosine, zero).
        """
        settings = self.settings
        self.features = as_features(normals)
        self.target = target = as_target(domains, len(self.features))
        self._scaling = Scaling(self.features, settings.distance)
        scaled = self._scaling(self.features)
        self.bank = make_bank(self._scaling, scaled, target, settings, self.seed)
        clips, entries = torch.arange(len(target)), torch.arange(len(self.bank.active))
        groups = [(entries, clips)]
        if settings.domains != "pooled":
            groups = [(entries[self.bank.target == domain], clips[target == domain]) for domain in (False, True)]
        self._domains = [
            _Domain(scaled, self.bank, members, of_domain, settings)
            for members, of_domain in groups
            if len(of_domain)
        ]
        self._scales: Tensor | None = None
        if settings.domains == "standardised":
            self._scales = _usable(torch.stack([domain.median() for domain in self._domains]))
        return self

    def score(self, features: Features) -> Scores:
        """Scores of clips, (clips,) float64, higher is more anomalous; see :meth:`score_and_nearest`."""
        return self.score_and_nearest(features)[0]

    def score_and_nearest(self, features: Features) -> tuple[Scores, Indices]:
        """Score clips and find the nearest normal clip of each.

        Args:
            features: (clips, parts, dim) or (clips, dim) float32.

        Returns:
            (clips,) float64 scores, and (clips,) int64 indices of the normal clips nearest by the mean over parts.
            For a synthetic clip it is the target clip that it is made from.

        Raises:
            ValueError: if the features have other sizes than the normal clips', or one is not finite (or, for the
                cosine, zero).
        """
        features = as_features(features, like=self.features)
        found = [self._lowest(features[part], None, self._scales) for part in self._chunks_of_all(len(features))]
        scores, nearest = (torch.cat(values).numpy() for values in zip(*found, strict=True))
        return scores, nearest

    @property
    def scaling(self) -> Scaling:
        """The scaling of features."""
        return self._scaling

    def tables(self) -> list[BankTables]:
        """What scores are computed from, by domain: the lowest score over domains counts."""
        scales = [1.0] * len(self._domains) if self._scales is None else self._scales.flatten().tolist()
        return [domain.tables(scale) for domain, scale in zip(self._domains, scales, strict=True)]

    def leave_one_out(self) -> Scores:
        """The score of every normal clip by a bank without it, (normals,) float64.

        It equals that of a new fit on the other clips, except for the scaling of ``standardised`` distances, which
        stays that of all clips. (For SMOTE and prototypes see :mod:`nearfar.scoring.bank`.) A domain without other
        clips is ignored.

        Raises:
            ValueError: if there is only one normal clip.
        """
        if len(self.features) < 2:
            raise ValueError("leave-one-out scores need two normal clips or more")
        scores = []
        for clips in self._chunks(len(self.features)):
            present = self.bank.without(clips)
            scales = None
            if self._scales is not None:
                scales = _usable(torch.stack([domain.medians_without(clips, present) for domain in self._domains]))
            scores.append(self._lowest(self.features[clips], present, scales)[0])
        return torch.cat(scores).numpy()

    def score_without(self, features: Features, clips: Tensor) -> Scores:
        """Scores of clips, each by a bank without one normal clip, for domains that are not standardised.

        Args:
            features: (clips, parts, dim) float32.
            clips: (clips,) int64, the normal clip that is left out for each.

        Returns:
            (clips,) float64; infinite where no normal clip is left.
        """
        features = as_features(features, like=self.features)
        chunks_of = [(rows, clips[rows]) for rows in self._chunks(len(features))]
        found = [self._lowest(features[rows], self.bank.without(left), None)[0] for rows, left in chunks_of]
        scores: Scores = torch.cat(found).numpy()
        return scores

    def _lowest(self, features: Tensor, present: Tensor | None, scales: Tensor | None) -> tuple[Tensor, Tensor]:
        """The lowest score over domains, and the nearest normal clip."""
        scaled = self._scaling(features)
        found = [domain.score(scaled, present) for domain in self._domains]
        scores, nearest = (torch.stack(values) for values in zip(*found, strict=True))
        lowest, domains = (scores if scales is None else scores / scales).min(dim=0)
        return lowest, self.bank.parents[nearest.gather(0, domains[None])[0], 0]

    def contributions(self, features: Features) -> Contributions:
        """The parts of the scores of clips.

        Args:
            features: (clips, parts, dim) or (clips, dim) float32.

        Returns:
            shares that add up to :meth:`score`: each part's rescaled distances to its nearest entries, divided
            among its dimensions in proportion to the squared differences of the scaled features; and the
            differences from these entries, of a synthetic one from the target clip that it is made of.

        Raises:
            ValueError: as :meth:`score_and_nearest`.
        """
        features = as_features(features, like=self.features)
        found = [self._contributions(features[part]) for part in self._chunks_of_all(len(features))]
        shares, differences = zip(*found, strict=True) if found else ([features.double()], [features.double()])
        return Contributions(torch.cat(list(shares)), torch.cat(list(differences)))

    def _contributions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        scaled = self._scaling(features)
        scales = torch.ones(len(self._domains), 1).double() if self._scales is None else self._scales
        which = torch.zeros(len(features), dtype=torch.int64)
        if len(self._domains) > 1:
            which = (torch.stack([domain.score(scaled, None)[0] for domain in self._domains]) / scales).argmin(
                dim=0
            )
        shares, differences = torch.empty_like(features.double()), torch.empty_like(features.double())
        for number in sorted(set(which.tolist())):
            rows = torch.nonzero(which == number)[:, 0]
            own, entries = self._domains[number].contributions(scaled)
            shares[rows] = own[rows] / scales[number]
            normals = self.features[self.bank.parents[entries[rows], 0], torch.arange(features.shape[1])[:, None]]
            differences[rows] = features[rows].double() - normals.double().mean(dim=2)
        return shares, differences

    def _chunks_of_all(self, clips: int) -> Iterator[Tensor]:
        """The same where the distances of all parts are computed together."""
        yield from chunks(clips, max(self.features.shape[1] * len(self.bank.active), self.features[0].numel()))

    def _chunks(self, clips: int) -> Iterator[Tensor]:
        """Indices of clips in chunks, bounded by the size of their distances to the bank and of their features."""
        yield from chunks(clips, max(len(self.bank.active), self.features[0].numel()))


class VarMin(NearestNeighbours):
    """:class:`NearestNeighbours` with variance-minimising rescaling (Matsumoto et al., DCASE Workshop 2025)."""

    def __init__(self, density_neighbours: int = 4, *, seed: int = 0, **changes: Any) -> None:
        super().__init__(seed=seed, normalisation="varmin", density_neighbours=density_neighbours, **changes)


class LocalDensity(NearestNeighbours):
    """:class:`NearestNeighbours` with local density normalisation (Wilkinghoff et al., arXiv 2509.10951).

    Args:
        density_neighbours: K of the density around a normal clip.
        kind: ``ratio`` (D / b) or ``difference`` (D - b).
    """

    def __init__(self, density_neighbours: int = 4, kind: str = "ratio", *, seed: int = 0, **changes: Any) -> None:
        super().__init__(seed=seed, normalisation=kind, density_neighbours=density_neighbours, **changes)


class BEAM(NearestNeighbours):
    """Mean over bands of the distance to each band's own nearest normal clip; fit it on (normals, bands, dim)."""

    def __init__(self, *, seed: int = 0, **changes: Any) -> None:
        super().__init__(seed=seed, shared_neighbour=False, **changes)


def _median(scores: Tensor) -> Tensor:
    """The median of every row without its NaN values; NaN if there are no others: (rows,) float64."""
    ordered = scores.sort(dim=1).values  # NaN comes last
    count = (~ordered.isnan()).sum(dim=1, keepdim=True)
    lower, upper = (count - 1).clamp_min(0) // 2, torch.minimum(count // 2, (count - 1).clamp_min(0))
    return (ordered.gather(1, lower) + ordered.gather(1, upper))[:, 0] / 2


def _usable(medians: Tensor) -> Tensor:
    """Divisors (domains, clips): the medians, or the other domain's if one is NaN or 0 (of identical clips)."""
    usable = medians > EPSILON
    others = medians.flip(0)
    return torch.where(usable, medians, torch.where(others > EPSILON, others, 1.0))
