"""Banks with more of the target domain, or less of the source domain."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.distances import Scaling, between, chunks, points


def mean_distance(scaling: Scaling, queries: Tensor, normals: Tensor) -> Tensor:
    """Distance of scaled features averaged over parts: (queries, normals) float64."""
    total = torch.zeros(len(queries), len(normals), dtype=torch.float64)
    for query, normal in zip(queries.unbind(dim=1), normals.unbind(dim=1), strict=True):
        centre = normal.mean(dim=0)
        total += between(points(query, centre), points(normal, centre), scaling.distance)
    return total / normals.shape[1]


def memmix_pairs(scaling: Scaling, scaled: Tensor, target: Tensor, sources: int) -> tuple[Tensor, Tensor]:
    """MemMix: which target clip is mixed with which source clips, the nearest ones by mean distance over parts.

    Args:
        scaling: gives distances.
        scaled: (normals, parts, dim).
        target: (normals,) bool.
        sources: how many nearest source clips; all where there are fewer.

    Returns:
        (pairs, 2) int64, target and source clip; and (pairs,) bool, false for one more source clip of every target
        clip, which takes the place of another that is left out.
    """
    of_target, of_source = torch.nonzero(target)[:, 0], torch.nonzero(~target)[:, 0]
    if not len(of_target) or not len(of_source):
        return torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.bool)
    count = min(sources + 1, len(of_source))
    nearest = torch.cat(
        [
            mean_distance(scaling, scaled[of_target[part]], scaled[of_source]).topk(count, largest=False).indices
            for part in chunks(len(of_target), len(of_source))
        ]
    )
    pairs = torch.stack([of_target.repeat_interleave(count), of_source[nearest.flatten()]], dim=1)
    return pairs, (torch.arange(count) < sources).repeat(len(of_target))


def smote_pairs(
    scaling: Scaling, scaled: Tensor, target: Tensor, neighbours: int, ratio: float, seed: int
) -> tuple[Tensor, Tensor]:
    """SMOTE on the target domain (Chawla et al., JAIR 2002): points between a target clip and a near other one.

    Target clips, made-up ones included, become ``ratio`` times as many as source clips; none are made up where
    they are that many already, or where there are fewer than two.

    Returns:
        (made, 2) int64, the two target clips of each; and (made,) float64, how far the way from the first to the
        second it lies.
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
    """The source clips to keep: of every k-means cluster the clip that is nearest to its centre.

    k-means over the source clips' parts side by side.

    Returns:
        (clusters, 2) int64: the clip, and the next nearest of the cluster, which takes its place where it is left
        out; -1 where a cluster holds no other. Every source clip is kept where they are ``count`` or fewer.
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
    own = own.round(
        6
    )  # two clips of one cluster are as far from its centre; the first is kept, not what rounding says
    kept = []
    for cluster in np.unique(means.labels_):
        members = np.flatnonzero(means.labels_ == cluster)
        nearest = members[own[members].argsort(kind="stable")[:2]]
        second = int(of_source[nearest[1]]) if len(nearest) > 1 else -1
        kept.append((int(of_source[nearest[0]]), second))
    return torch.tensor(kept, dtype=torch.int64)
