"""Banks with more of the target domain, or less of the source domain."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearfar.scoring.distances import Scaling


def mean_distance(scaling: Scaling, queries: Tensor, normals: Tensor) -> Tensor:
    """Distance of scaled features averaged over parts: (queries, normals)."""
    parts = range(normals.shape[1])
    return torch.stack([scaling.between(queries[:, part], normals[:, part]) for part in parts]).mean(dim=0)


def memmix(scaling: Scaling, scaled: Tensor, target: Tensor, share: float, sources: int) -> tuple[Tensor, Tensor]:
    """MemMix: every target clip mixed with its nearest source clips, share * y_target + (1 - share) * y_source.

    Args:
        scaling: gives distances.
        scaled: (normals, parts, dim).
        target: (normals,) bool.
        share: lambda.
        sources: how many nearest source clips; all where there are fewer.

    Returns:
        (made, parts, dim), and for each the index of its target clip, (made,) int64.
    """
    of_target, of_source = torch.nonzero(target)[:, 0], torch.nonzero(~target)[:, 0]
    if not len(of_target) or not len(of_source):
        return scaled[:0], of_target[:0]
    distances = mean_distance(scaling, scaled[of_target], scaled[of_source])
    nearest = distances.topk(min(sources, len(of_source)), dim=1, largest=False).indices
    parents = of_target.repeat_interleave(nearest.shape[1])
    mixed = share * scaled[parents] + (1.0 - share) * scaled[of_source[nearest.flatten()]]
    return mixed, parents


def smote(
    scaling: Scaling, scaled: Tensor, target: Tensor, neighbours: int, ratio: float, seed: int
) -> tuple[Tensor, Tensor]:
    """SMOTE on the target domain (Chawla et al., JAIR 2002): points between a target clip and a near other one.

    Target clips, made-up ones included, become ``ratio`` times as many as source clips; none are made up where
    they are that many already, or where there are fewer than two. Arguments and result as for :func:`memmix`.
    """
    of_target = torch.nonzero(target)[:, 0]
    missing = round(ratio * int((~target).sum())) - len(of_target)
    if missing <= 0 or len(of_target) < 2:
        return scaled[:0], of_target[:0]
    own = scaled[of_target]
    distances = mean_distance(scaling, own, own).double()
    distances.fill_diagonal_(torch.inf)
    nearest = distances.topk(min(neighbours, len(of_target) - 1), dim=1, largest=False).indices
    random = np.random.default_rng(seed)
    first = torch.from_numpy(random.integers(len(of_target), size=missing))
    which = torch.from_numpy(random.integers(nearest.shape[1], size=missing))
    share = torch.from_numpy(random.random(missing)).to(scaled.dtype)[:, None, None]
    made = own[first] + share * (own[nearest[first, which]] - own[first])
    return made, of_target[first]


def prototypes(scaled: Tensor, target: Tensor, count: int, seed: int) -> Tensor:
    """Indices of the normal clips to keep: all of the target domain, and ``count`` of the source domain.

    k-means over the source clips' parts side by side; of every cluster the clip nearest to its centre is kept.

    Returns:
        indices in rising order, (kept,) int64.
    """
    from sklearn.cluster import KMeans

    of_target, of_source = torch.nonzero(target)[:, 0], torch.nonzero(~target)[:, 0]
    if len(of_source) <= count:
        return torch.arange(len(scaled))
    flat = scaled[of_source].flatten(1).double().numpy()
    means = KMeans(count, n_init=1, random_state=seed).fit(flat)
    distances = means.transform(flat)
    kept = []
    for cluster in range(count):
        members = np.flatnonzero(means.labels_ == cluster)
        if members.size:
            kept.append(int(members[distances[members, cluster].argmin()]))
    return torch.cat([of_source[kept], of_target]).sort().values
