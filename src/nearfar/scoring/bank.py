"""The bank of one machine: its normal clips, synthetic clips made from them, and the bank without one clip.

The bank without a clip *r* of the N that it was made from:

* plain banks and MemMix: the bank of the other N - 1 clips;
* SMOTE: the synthetic clips made from *r* are removed with it; all others stay as they were drawn;
* prototypes: the centres of k-means stay; if *r* is the clip nearest to one, the next nearest of its cluster
  replaces it.

(Sampling or clustering again would change the rest of the bank at random, and so the scores of clips that are
unrelated to *r*.)
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.distances import EPSILON, Scaling, centred, chunks, mean_distance
from nearfar.scoring.settings import NearestSettings


@dataclass(frozen=True, slots=True, eq=False)
class NormalBank:
    """The entries of a bank, and spare entries that replace others if a clip is left out.

    Attributes:
        entries: (entries, parts, dim), scaled features.
        target: (entries,) bool, true for entries of the target domain.
        parents: (entries, 2) int64, the two normal clips that an entry is made from; the same one twice for a
            normal clip itself.
        active: (entries,) bool, false for spare entries, which are not in the whole bank.
        replacements: (pairs, 2) int64, sorted: a clip, and the spare entry that is added if it is left out.
    """

    entries: Tensor
    target: Tensor
    parents: Tensor
    active: Tensor
    replacements: Tensor

    def without(self, clips: Tensor) -> Tensor:
        """Masks of the entries of the bank without each of ``clips`` in turn: (clips, entries) bool."""
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
    """The bank of scaled normal clips, (normals, parts, dim); ``seed`` is that of SMOTE and k-means."""
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
    """(1 - weight) * first + weight * second; for the cosine, scaled to unit length."""
    weight = weight.to(scaled.dtype)[:, None, None]
    made = torch.lerp(scaled[pairs[:, 0]], scaled[pairs[:, 1]], weight)
    if scaling.distance == "cosine":
        made /= made.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    return made


def _memmix_replacements(pairs: Tensor, held: Tensor, first: int) -> Tensor:
    """(pairs, 2): the source clip of a mix, and the spare mix of the same target clip."""
    spare = torch.nonzero(~held)[:, 0]
    if not len(spare):
        return pairs[:0]
    of_target = torch.full((int(pairs[:, 0].max()) + 1,), -1)
    of_target[pairs[spare, 0]] = spare + first
    return torch.stack([pairs[held, 1], of_target[pairs[held, 0]]], dim=1)


def _distances(scaling: Scaling, queries: Tensor, normals: Tensor) -> Tensor:
    """Mean distance over parts of scaled features: (queries, normals) float64."""
    centres = [part.mean(dim=0) for part in normals.unbind(dim=1)]
    return mean_distance(centred(queries, centres), centred(normals, centres), scaling.distance)


def memmix_pairs(scaling: Scaling, scaled: Tensor, target: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """MemMix: each target clip is mixed with its ``sources`` nearest source clips, by mean distance over parts.

    Returns:
        (pairs, 2) int64, target and source clip; and (pairs,) bool, false for the spare pair of every target clip,
        with its next nearest source clip.
    """
    of_target, of_source = torch.nonzero(target)[:, 0], torch.nonzero(~target)[:, 0]
    if not len(of_target) or not len(of_source):
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.bool)
    count = min(sources + 1, len(of_source))
    parts = [scaled[of_target[part]] for part in chunks(len(of_target), len(of_source))]
    nearest = torch.cat(
        [_distances(scaling, part, scaled[of_source]).topk(count, largest=False).indices for part in parts]
    )
    pairs = torch.stack([of_target.repeat_interleave(count), of_source[nearest.flatten()]], dim=1)
    return pairs, (torch.arange(count) < sources).repeat(len(of_target))


def smote_pairs(
    scaling: Scaling, scaled: Tensor, target: Tensor, neighbours: int, ratio: float, seed: int
) -> tuple[Tensor, Tensor]:
    """SMOTE on the target domain (Chawla et al., JAIR 2002): interpolation of target clips and their neighbours.

    Clips are added until the target domain has ``ratio`` times as many as the source domain; none if it has fewer
    than two.

    Returns:
        (made, 2) int64, the two target clips of each synthetic one; and (made,) float64, the weight of the second.
    """
    of_target = torch.nonzero(target)[:, 0]
    missing = round(ratio * int((~target).sum())) - len(of_target)
    if missing <= 0 or len(of_target) < 2:
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    own = scaled[of_target]
    distances = _distances(scaling, own, own)
    distances.fill_diagonal_(torch.inf)
    nearest = distances.topk(min(neighbours, len(of_target) - 1), dim=1, largest=False).indices
    random = np.random.default_rng(seed)
    first = torch.from_numpy(random.integers(len(of_target), size=missing))
    which = torch.from_numpy(random.integers(nearest.shape[1], size=missing))
    pairs = torch.stack([of_target[first], of_target[nearest[first, which]]], dim=1)
    return pairs, torch.from_numpy(random.random(missing))


def prototypes(scaled: Tensor, target: Tensor, count: int, seed: int) -> Tensor:
    """The source clip nearest to the centre of every k-means cluster (of the concatenated parts).

    Returns:
        (clusters, 2) int64: the clip, and the next nearest of the cluster, which replaces it if it is left out; -1
        if the cluster has no other. If there are at most ``count`` source clips, all are used.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    of_source = torch.nonzero(~target)[:, 0]
    if len(of_source) <= count:
        return torch.stack([of_source, torch.full_like(of_source, -1)], dim=1)
    flat = scaled[of_source].flatten(1).double().numpy()
    with warnings.catch_warnings():  # identical clips give fewer clusters, which is harmless
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(count, n_init=1, random_state=seed).fit(flat)
    to_centre = np.linalg.norm(flat - means.cluster_centers_[means.labels_], axis=1)
    to_centre = to_centre.round(6)  # both clips of a cluster of two are equally far from it: the first is used
    chosen = []
    for cluster in np.unique(means.labels_):
        members = np.flatnonzero(means.labels_ == cluster)
        nearest = members[to_centre[members].argsort(kind="stable")[:2]]
        second = int(of_source[nearest[1]]) if len(nearest) > 1 else -1
        chosen.append((int(of_source[nearest[0]]), second))
    return torch.tensor(chosen, dtype=torch.int64)
