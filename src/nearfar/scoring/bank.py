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
        replacements: (pairs, 2) int64: a clip, and the spare entry that is added if it is left out.
    """

    entries: Tensor
    target: Tensor
    parents: Tensor
    active: Tensor
    replacements: Tensor

    def without(self, clips: Tensor) -> Tensor:
        """Masks of the entries of the bank without each of ``clips`` in turn: (clips, entries) bool."""
        present = self.active & (self.parents[:, 0] != clips[:, None]) & (self.parents[:, 1] != clips[:, None])
        row, pair = torch.nonzero(clips[:, None] == self.replacements[:, 0], as_tuple=True)
        present[row, self.replacements[pair, 1]] = True
        return present


def make_bank(
    scaling: Scaling, scaled: Tensor, target: Tensor, settings: NearestSettings, seed: int
) -> NormalBank:
    """The bank of scaled normal clips, (normals, parts, dim); ``seed`` is that of SMOTE and k-means."""
    clips = torch.arange(len(scaled))
    active, replaced = torch.ones(len(scaled), dtype=torch.bool), [torch.empty(0, 2, dtype=torch.int64)]
    if settings.prototypes is not None:
        chosen = prototypes(scaled, target, settings.prototypes, seed)
        active = target.clone()
        active[chosen[:, 0]] = True
        replaced.append(chosen[chosen[:, 1] >= 0])
    pairs, weight, in_bank = torch.empty(0, 2, dtype=torch.int64), torch.empty(0), active[:0]
    if settings.enrichment == "memmix":
        pairs, in_bank = memmix_pairs(scaling, scaled, target, settings.memmix_sources)
        weight = torch.full((len(pairs),), 1.0 - settings.memmix_lambda)
        replaced.append(_memmix_replacements(pairs, in_bank, first=len(scaled)))
    elif settings.enrichment == "smote":
        pairs, weight = smote_pairs(scaling, scaled, target, settings.smote_neighbours, settings.smote_ratio, seed)
        in_bank = torch.ones(len(pairs), dtype=torch.bool)
    active, replacements = torch.cat([active, in_bank]), torch.unique(torch.cat(replaced), dim=0)
    parents = torch.cat([torch.stack([clips, clips], dim=1), pairs])
    of_target = torch.cat([target, torch.ones(len(pairs), dtype=torch.bool)])
    if bool(active.all()) and not len(pairs):
        return NormalBank(scaled, of_target, parents, active, replacements)  # no copy: most of the memory
    used = active.clone()  # entries of the bank and spare ones
    used[replacements[:, 1]] = True
    replacements[:, 1] = used.cumsum(dim=0)[replacements[:, 1]] - 1
    real, mixed = used[: len(scaled)], used[len(scaled) :]
    first, second = scaled[pairs[mixed]].unbind(dim=1)
    synthetic = torch.lerp(first, second, weight[mixed].to(scaled.dtype)[:, None, None])
    if scaling.distance == "cosine":
        synthetic /= synthetic.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    entries = torch.cat([scaled[real], synthetic])
    return NormalBank(entries, of_target[used], parents[used], active[used], replacements)


def _memmix_replacements(pairs: Tensor, in_bank: Tensor, first: int) -> Tensor:
    """(pairs, 2): the source clip of a mix, and the spare mix of the same target clip."""
    spare = torch.nonzero(~in_bank)[:, 0]
    if not len(spare):
        return pairs[:0]
    of_target = torch.full((int(pairs[:, 0].max()) + 1,), -1)
    of_target[pairs[spare, 0]] = spare + first
    return torch.stack([pairs[in_bank, 1], of_target[pairs[in_bank, 0]]], dim=1)


def _distances(scaling: Scaling, queries: Tensor, normals: Tensor) -> Tensor:
    """Mean distance over parts of scaled features: (queries, normals) float64."""
    centres = normals.mean(dim=0)
    points, entries = (centred(clips, centres).by_part() for clips in (queries, normals))
    return mean_distance(points, entries, scaling.distance)


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
        (synthetic, 2) int64, the two target clips of each; and (synthetic,) float64, the weight of the second.
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
    rank = torch.from_numpy(random.integers(nearest.shape[1], size=missing))
    pairs = torch.stack([of_target[first], of_target[nearest[first, rank]]], dim=1)
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
    order = np.lexsort((to_centre, means.labels_))  # clusters one after another, the nearest clip of each first
    _, first, sizes = np.unique(means.labels_[order], return_index=True, return_counts=True)
    second = of_source[order[np.minimum(first + 1, len(order) - 1)]]
    return torch.stack([of_source[order[first]], torch.where(torch.from_numpy(sizes > 1), second, -1)], dim=1)
