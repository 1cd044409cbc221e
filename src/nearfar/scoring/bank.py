"""The bank of one machine: its normal clips, synthetic ones made of them, and the bank without one of the clips.

The bank without a clip *r* of the N that it was made from:

* plain banks and MemMix: the bank of the other N - 1 clips;
* SMOTE: the synthetic clips that *r* is a parent of are removed with it; all others stay as they were drawn;
* prototypes: the centres of k-means stay; if *r* is the clip nearest to one, the next nearest of its cluster
  replaces it.

(Drawing or clustering again would change the rest of the bank at random, and so the scores of clips that are
unrelated to *r*.)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.distances import EPSILON, Scaling, chunks, pairwise_distance, points
from nearfar.scoring.settings import NearestSettings


@dataclass(frozen=True, slots=True, eq=False)
class NormalBank:
    """The entries of a bank, and those that would replace another if a clip were left out.

    Attributes:
        entries: (entries, parts, dim), scaled features.
        target: (entries,) bool, whether an entry is of the target domain.
        parents: (entries, 2) int64, the normal clips an entry is made of; a clip that is itself, twice.
        active: (entries,) bool, which entries the whole bank holds.
        replacements: (pairs, 2) int64, in rising order: if the first, a clip, is left out, the second, an entry,
            is added.
    """

    entries: Tensor
    target: Tensor
    parents: Tensor
    active: Tensor
    replacements: Tensor

    def without(self, clips: Tensor) -> Tensor:
        """The entries of the bank without one of ``clips``, for each: (clips, entries) bool."""
        present = self.active & (self.parents[:, 0] != clips[:, None]) & (self.parents[:, 1] != clips[:, None])
        row = torch.full((int(self.replacements[:, 0].max()) + 1 if len(self.replacements) else 0,), -1)
        inside = torch.nonzero(clips < len(row))[:, 0]
        row[clips[inside]] = inside
        of_these = row[self.replacements[:, 0]]
        present[of_these[of_these >= 0], self.replacements[of_these >= 0, 1]] = True
        return present


def make_bank(
    scaling: Scaling, scaled: Tensor, target: Tensor, settings: NearestSettings, seed: int
) -> NormalBank:
    """The bank of normal clips, (normals, parts, dim) scaled; ``seed`` is of synthetic clips and of k-means."""
    clips = torch.arange(len(scaled))
    active, joins = torch.ones(len(scaled), dtype=torch.bool), [torch.empty(0, 2, dtype=torch.int64)]
    if settings.prototypes is not None:
        chosen = prototypes(scaled, target, settings.prototypes, seed)
        active = target.clone()
        active[chosen[:, 0]] = True
        joins.append(chosen[chosen[:, 1] >= 0])
    pairs, weight, held = torch.empty(0, 2, dtype=torch.int64), torch.empty(0), active[:0]
    if settings.enrichment == "memmix":
        pairs, held = memmix_pairs(scaling, scaled, target, settings.memmix_sources)
        weight = torch.full((len(pairs),), 1.0 - settings.memmix_lambda)
        joins.append(_memmix_replacements(pairs, held, first=len(scaled)))
    elif settings.enrichment == "smote":
        pairs, weight = smote_pairs(scaling, scaled, target, settings.smote_neighbours, settings.smote_ratio, seed)
        held = torch.ones(len(pairs), dtype=torch.bool)
    active, replacements = torch.cat([active, held]), torch.unique(torch.cat(joins), dim=0)
    parents = torch.cat([torch.stack([clips, clips], dim=1), pairs])
    of_target = torch.cat([target, torch.ones(len(pairs), dtype=torch.bool)])
    if bool(active.all()) and not len(pairs):
        return NormalBank(scaled, of_target, parents, active, replacements)  # no copy: most of the memory
    ever = active.clone()
    ever[replacements[:, 1]] = True
    replacements[:, 1] = ever.cumsum(dim=0)[replacements[:, 1]] - 1
    real, mixed = ever[: len(scaled)], ever[len(scaled) :]
    made = _mixed(scaling, scaled, pairs[mixed], weight[mixed])
    return NormalBank(torch.cat([scaled[real], made]), of_target[ever], parents[ever], active[ever], replacements)


def _mixed(scaling: Scaling, scaled: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """(1 - weight) * first + weight * second; for the cosine again of length one."""
    weight = weight.to(scaled.dtype)[:, None, None]
    made = torch.lerp(scaled[pairs[:, 0]], scaled[pairs[:, 1]], weight)
    if scaling.distance == "cosine":
        made /= made.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    return made


def _memmix_replacements(pairs: Tensor, held: Tensor, first: int) -> Tensor:
    """If a source clip that a target clip is mixed with is left out, the target clip's spare mix is added."""
    spare = torch.nonzero(~held)[:, 0]
    if not len(spare):
        return pairs[:0]
    of_target = torch.full((int(pairs[:, 0].max()) + 1,), -1)
    of_target[pairs[spare, 0]] = spare + first
    return torch.stack([pairs[held, 1], of_target[pairs[held, 0]]], dim=1)


def mean_distance(scaling: Scaling, queries: Tensor, normals: Tensor) -> Tensor:
    """Distance of scaled features averaged over parts: (queries, normals) float64."""
    total = torch.zeros(len(queries), len(normals), dtype=torch.float64)
    for query, normal in zip(queries.unbind(dim=1), normals.unbind(dim=1), strict=True):
        centre = normal.mean(dim=0)
        total += pairwise_distance(points(query, centre), points(normal, centre), scaling.distance)
    return total / normals.shape[1]


def memmix_pairs(scaling: Scaling, scaled: Tensor, target: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """MemMix: each target clip is mixed with its ``sources`` nearest source clips, by mean distance over parts.

    Returns:
        (pairs, 2) int64, target and source clip; and (pairs,) bool, false for one more source clip of every target
        clip, which replaces another that is left out.
    """
    of_target, of_source = torch.nonzero(target)[:, 0], torch.nonzero(~target)[:, 0]
    if not len(of_target) or not len(of_source):
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.bool)
    count = min(sources + 1, len(of_source))
    parts = [scaled[of_target[part]] for part in chunks(len(of_target), len(of_source))]
    found = [mean_distance(scaling, part, scaled[of_source]).topk(count, largest=False) for part in parts]
    nearest = torch.cat([part.indices for part in found])
    pairs = torch.stack([of_target.repeat_interleave(count), of_source[nearest.flatten()]], dim=1)
    return pairs, (torch.arange(count) < sources).repeat(len(of_target))


def smote_pairs(
    scaling: Scaling, scaled: Tensor, target: Tensor, neighbours: int, ratio: float, seed: int
) -> tuple[Tensor, Tensor]:
    """SMOTE on the target domain (Chawla et al., JAIR 2002): points between a target clip and a near other one.

    Target clips, synthetic ones included, become ``ratio`` times as many as source clips; none are added where
    they are that many already, or where there are fewer than two.

    Returns:
        (made, 2) int64, the two target clips of each; and (made,) float64, the interpolation weight of the second.
    """
    of_target = torch.nonzero(target)[:, 0]
    missing = round(ratio * int((~target).sum())) - len(of_target)
    if missing <= 0 or len(of_target) < 2:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    own = scaled[of_target]
    distances = mean_distance(scaling, own, own)
    distances.fill_diagonal_(torch.inf)
    nearest = distances.topk(min(neighbours, len(of_target) - 1), dim=1, largest=False).indices
    random = np.random.default_rng(seed)
    first = torch.from_numpy(random.integers(len(of_target), size=missing))
    which = torch.from_numpy(random.integers(nearest.shape[1], size=missing))
    pairs = torch.stack([of_target[first], of_target[nearest[first, which]]], dim=1)
    return pairs, torch.from_numpy(random.random(missing))


def prototypes(scaled: Tensor, target: Tensor, count: int, seed: int) -> Tensor:
    """The source clips to use: of every k-means cluster (over the parts side by side) the nearest to its centre.

    Returns:
        (clusters, 2) int64: the clip, and the next nearest of the cluster, which replaces it where it is left
        out; -1 where a cluster has no other. Every source clip is used where they are ``count`` or fewer.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    of_source = torch.nonzero(~target)[:, 0]
    if len(of_source) <= count:
        return torch.stack([of_source, torch.full_like(of_source, -1)], dim=1)
    flat = scaled[of_source].flatten(1).double().numpy()
    with warnings.catch_warnings():  # clips that are alike make fewer clusters, which does no harm
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(count, n_init=1, random_state=seed).fit(flat)
    own = np.linalg.norm(flat - means.cluster_centers_[means.labels_], axis=1)
    own = own.round(6)  # the two clips of a cluster of two are equally far from its centre: the first is used
    chosen = []
    for cluster in np.unique(means.labels_):
        members = np.flatnonzero(means.labels_ == cluster)
        nearest = members[own[members].argsort(kind="stable")[:2]]
        second = int(of_source[nearest[1]]) if len(nearest) > 1 else -1
        chosen.append((int(of_source[nearest[0]]), second))
    return torch.tensor(chosen, dtype=torch.int64)
