"""Attributes for machines that have none: clusters of what their training clips sound like.

A class per machine, domain and channel leaves the network little to tell apart. Public systems cluster features
with k-means, the source domain into several clusters and the target domain into one, and train on the clusters as
if they were attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from nearfar.config import Audio, Cancellation, Features
from nearfar.data.clips import Clip
from nearfar.features.extractors import LogMelFeatures
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.views import read_views

ATTRIBUTE = "cluster"


def with_pseudo_attributes(clips: Sequence[Clip], clusters: int, audio: Audio, seed: int) -> list[Clip]:
    """Give clips of machines without any attributes the attribute ``cluster``.

    Args:
        clips: training clips of any machines; those of machines with attributes come back as they are.
        clusters: of the source domain, fewer where there are fewer clips; the target domain is one cluster of its
            own, as its class is already.
        audio: which channel is near.
        seed: of k-means.

    Returns:
        the clips in their order.

    Raises:
        InputError: if a recording cannot be read.
    """
    described = {(clip.machine, clip.section) for clip in clips if clip.attributes}
    out = list(clips)
    for group in dict.fromkeys((clip.machine, clip.section) for clip in clips):
        places = [
            place
            for place, clip in enumerate(clips)
            if (clip.machine, clip.section) == group and clip.domain == "source"
        ]
        if group in described or len(places) < 2:
            continue
        labels = cluster(statistics([clips[place] for place in places], audio), clusters, seed)
        for place, label in zip(places, labels, strict=True):
            out[place] = replace(clips[place], attributes=((ATTRIBUTE, str(label)),))
    return out


def statistics(clips: Sequence[Clip], audio: Audio) -> NDArray[np.float64]:
    """Log-mel statistics of the near channel, (clips, numbers) float64, each with mean 0 and deviation 1."""
    extractor = LogMelFeatures(KaldiFbank(), Features(source="log-mel", lags=(1, 4, 16)))
    rows = []
    for clip in clips:
        waveform = torch.from_numpy(read_views(clip.path, ("near",), audio, Cancellation()))
        rows.append(extractor(waveform, torch.tensor([waveform.shape[1]]))[0].flatten().double().numpy())
    table = np.stack(rows)
    deviation = table.std(axis=0)
    scaled: NDArray[np.float64] = (table - table.mean(axis=0)) / np.where(deviation > 1e-6, deviation, np.inf)
    return scaled


def cluster(table: NDArray[np.float64], clusters: int, seed: int) -> list[int]:
    """k-means labels of (clips, numbers), numbered by first appearance."""
    from sklearn.cluster import KMeans

    count = min(clusters, len(np.unique(table, axis=0)))
    labels = KMeans(count, n_init=4, random_state=seed).fit_predict(table).tolist()
    number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    return [number[label] for label in labels]
