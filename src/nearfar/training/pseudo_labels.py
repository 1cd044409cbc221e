"""Pseudo-attributes for machines without attributes: clusters of their training clips.

A class per machine, domain and channel leaves the network little to discriminate. Public systems cluster features
with k-means, the source domain into several clusters and the target domain into one, and train on the clusters as
if they were attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nearfar.data.clips import Clip

ATTRIBUTE = "cluster"


def cluster_attributes(
    clips: Sequence[Clip], features: Callable[[Sequence[Clip]], NDArray[np.floating]], clusters: int, seed: int
) -> list[Clip]:
    """Give the source clips of machines without any attributes the attribute ``cluster``.

    Args:
        clips: training clips of any machines; those of machines with attributes are returned unchanged.
        features: (clips, numbers) features of given clips; called once per machine and section to be clustered.
        clusters: number of clusters of the source domain, fewer if there are fewer distinct clips. The target
            domain is a cluster, and a class, of its own.
        seed: of k-means.
    """
    with_attributes = {(clip.machine, clip.section) for clip in clips if clip.attributes}
    out = list(clips)
    for group in dict.fromkeys((clip.machine, clip.section) for clip in clips):
        indices = [
            index
            for index, clip in enumerate(clips)
            if (clip.machine, clip.section) == group and clip.domain == "source"
        ]
        if group in with_attributes or len(indices) < 2:
            continue
        labels = cluster(standardised(features([clips[index] for index in indices])), clusters, seed)
        for index, label in zip(indices, labels, strict=True):
            out[index] = replace(clips[index], attributes=((ATTRIBUTE, str(label)),))
    return out


def standardised(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """(clips, numbers) float64, each column with mean 0 and deviation 1; constant columns become 0."""
    table = features.astype(np.float64)
    deviation = table.std(axis=0)
    return np.asarray((table - table.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf))


def cluster(table: NDArray[np.float64], clusters: int, seed: int) -> list[int]:
    """k-means labels of (clips, numbers), numbered by first appearance."""
    from sklearn.cluster import KMeans

    count = min(clusters, len(np.unique(table, axis=0)))
    labels = KMeans(count, n_init=4, random_state=seed).fit_predict(table).tolist()
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    return [number[label] for label in labels]
