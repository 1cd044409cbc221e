"""From features to anomaly scores: a bank of normal clips, and how far a clip is from it.

With one part, the cosine distance and one neighbour this is equation 3 of the report,
``1 - max_n cos(E, E_n)``. With several parts, each finds its own nearest normal clip and the distances are
averaged (BEAM of public systems), unless ``shared_neighbour`` lets them choose together.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Scoring
from nearfar.scoring.density import CHUNK, EPSILON, DensityBank
from nearfar.scoring.distances import Scaling
from nearfar.scoring.enrichment import memmix, prototypes, smote

Scores = NDArray[np.float64]


class _Domain:
    """The normal clips of one domain, or of both together: a density bank per part."""

    def __init__(self, scaling: Scaling, scaled: Tensor, members: Tensor, scoring: Scoring, density: int) -> None:
        self.scaling, self.members, self.shared = scaling, members, scoring.shared_neighbour
        self.normals = scaled[members]
        between = [scaling.between(part, part) for part in self.normals.unbind(dim=1)]
        if self.shared:
            between = [torch.stack(between).mean(dim=0)]
        self.banks = [DensityBank(part, scoring.normalisation, density, scoring.neighbours) for part in between]

    def score(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Mean score over parts, and the members that were nearest in the most telling part."""
        distances = [
            self.scaling.between(query, normal)
            for query, normal in zip(queries.unbind(dim=1), self.normals.unbind(dim=1), strict=True)
        ]
        if self.shared:
            distances = [torch.stack(distances).mean(dim=0)]
        scored = [bank.score(part) for bank, part in zip(self.banks, distances, strict=True)]
        overall = torch.stack(distances).mean(dim=0).argmin(dim=1)
        nearest = scored[0][1] if len(scored) == 1 else overall
        return torch.stack([score for score, _ in scored]).mean(dim=0), self.members[nearest]

    def leave_one_out(self) -> Tensor:
        return torch.stack([bank.leave_one_out() for bank in self.banks]).mean(dim=0)

    def medians_without(self) -> Tensor:
        """For every clip the median leave-one-out score of the others in the bank without it, (members,)."""
        size, out = len(self.members), []
        for first in range(0, size, CHUNK):
            rows = min(CHUNK, size - first)
            scores = torch.stack([bank.without(first, rows) for bank in self.banks]).mean(dim=0)
            scores[torch.arange(rows), first + torch.arange(rows)] = torch.nan
            out.append(torch.from_numpy(np.nanmedian(scores.numpy(), axis=1)))
        return torch.cat(out)


class Scorer:
    """A fitted scorer of one machine's clips and one view; made by :func:`fit_scorer`."""

    def __init__(self, features: Tensor, target: Tensor, scoring: Scoring, seed: int, scaling: Scaling) -> None:
        self.features, self.target = features, target
        self._scoring, self._seed, self._scaling = scoring, seed, scaling
        scaled, domain, self._origin = self._bank(scaling(features), target)
        self._domains = self._split(scaled, domain)
        self._scales = self._medians() if scoring.domains == "standardised" else [1.0] * len(self._domains)

    def _bank(self, scaled: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The bank's features, whether each is of the target domain, and the normal clip it comes from."""
        scoring = self._scoring
        origin = torch.arange(len(scaled))
        if scoring.prototypes is not None:
            origin = prototypes(scaled, target, scoring.prototypes, self._seed)
        made, parents = scaled[:0], origin[:0]
        if scoring.enrichment == "memmix":
            made, parents = memmix(self._scaling, scaled, target, scoring.memmix_lambda, scoring.memmix_sources)
        elif scoring.enrichment == "smote":
            made, parents = smote(
                self._scaling, scaled, target, scoring.smote_neighbours, scoring.smote_ratio, self._seed
            )
        if self._scaling.distance == "cosine" and len(made):
            made = made / made.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
        bank = torch.cat([scaled[origin], made])
        return (
            bank,
            torch.cat([target[origin], torch.ones(len(made), dtype=torch.bool)]),
            torch.cat([origin, parents]),
        )

    def _split(self, scaled: Tensor, target: Tensor) -> list[_Domain]:
        scoring = self._scoring
        source_k, target_k = scoring.density_neighbours, scoring.target_density_neighbours
        if scoring.domains == "pooled":
            return [_Domain(self._scaling, scaled, torch.arange(len(scaled)), scoring, source_k)]
        groups = [(torch.nonzero(~target)[:, 0], source_k), (torch.nonzero(target)[:, 0], target_k)]
        return [_Domain(self._scaling, scaled, members, scoring, k) for members, k in groups if len(members)]

    def _medians(self) -> list[float]:
        """The median leave-one-out score of every domain; a domain of one clip takes the other's."""
        found = [
            float(np.median(domain.leave_one_out().numpy())) if len(domain.members) > 1 else None
            for domain in self._domains
        ]
        return _usable(found)

    def score(self, features: Tensor) -> tuple[Scores, NDArray[np.int64]]:
        """Score clips.

        Args:
            features: (clips, parts, dim) float32.

        Returns:
            (clips,) float64, higher is more anomalous, and (clips,) int64, the nearest normal clip of each: over
            all parts together, where there are several.

        Raises:
            ValueError: if the features have other sizes than the normal clips', or one is not finite (or, for the
                cosine, zero).
        """
        if features.dim() != 3 or features.shape[1:] != self.features.shape[1:]:
            raise ValueError(
                f"expected features of (clips, {self.features.shape[1]}, {self.features.shape[2]}), "
                f"got {tuple(features.shape)}"
            )
        scores, nearest = [], []
        for chunk in torch.split(self._scaling(features), CHUNK):
            found = [domain.score(chunk) for domain in self._domains]
            each = torch.stack([score / scale for (score, _), scale in zip(found, self._scales, strict=True)])
            lowest, which = each.min(dim=0)
            scores.append(lowest)
            members = torch.stack([member for _, member in found])
            nearest.append(self._origin[members.gather(0, which[None])[0]])
        return torch.cat(scores).double().numpy(), torch.cat(nearest).numpy()

    def leave_one_out(self) -> Scores:
        """The score of every normal clip in a bank fitted without it, (normals,) float64.

        Exact, with the scaling of ``standardised`` distances kept, which belongs to the features. Where clips are
        made up or selected, the bank is really fitted anew for every clip.

        Raises:
            ValueError: if there is one normal clip only.
        """
        if len(self.features) < 2:
            raise ValueError("a single normal clip has no others to be scored against")
        scoring = self._scoring
        anew = scoring.enrichment != "none" or scoring.prototypes is not None
        if anew or (scoring.domains != "pooled" and min(len(domain.members) for domain in self._domains) < 4):
            return self._refitted()
        if scoring.domains == "pooled":
            return self._domains[0].leave_one_out().numpy()
        out = torch.empty(len(self.features), dtype=torch.float64)
        scaled = self._scaling(self.features)
        for domain, scale in zip(self._domains, self._scales, strict=True):
            own = domain.leave_one_out()
            own = (
                own / domain.medians_without().clamp_min(EPSILON)
                if scoring.domains == "standardised"
                else own / scale
            )
            for other, other_scale in zip(self._domains, self._scales, strict=True):
                if other is not domain:
                    queries = torch.split(scaled[domain.members], CHUNK)
                    elsewhere = torch.cat([other.score(chunk)[0] for chunk in queries]) / other_scale
                    own = torch.minimum(own, elsewhere)
            out[domain.members] = own
        return out.numpy()

    def _refitted(self) -> Scores:
        clips = torch.arange(len(self.features))
        scores = []
        for clip in clips:
            rest = clips != clip
            smaller = Scorer(self.features[rest], self.target[rest], self._scoring, self._seed, self._scaling)
            scores.append(smaller.score(self.features[clip : clip + 1])[0][0])
        return np.array(scores, dtype=np.float64)


def _usable(medians: list[float | None]) -> list[float]:
    """Medians to divide by: where there is none, or it is 0 because clips are alike, that of the other domain."""
    known = [median for median in medians if median is not None and median > EPSILON]
    return [
        median if median is not None and median > EPSILON else (known[0] if known else 1.0) for median in medians
    ]


def fit_scorer(features: Tensor, target: Tensor, scoring: Scoring, seed: int = 0) -> Scorer:
    """Fit a scorer on normal clips.

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
    return Scorer(features, target, scoring, seed, Scaling(features, scoring.distance))
