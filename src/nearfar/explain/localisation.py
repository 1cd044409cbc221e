"""Where in time and frequency a clip departs from normal: patches of its log-mel spectrogram against normal ones.

A patch is what EAT looks at, 16 frames (160 ms) by 16 mel bins, on a grid of time columns by 8 frequency bands. It
is described by the mean and the deviation over time of every mel bin, after the clip's own mean level has been
taken out, and compared with the normal patches of its band, wherever these lie in time: its distance to the
nearest of them, as PatchCore takes it (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR
2022), relative to how far a normal patch of the band typically is from the nearest one of *another* normal clip.
Which description, scale and smoothing find simulated faults best was measured: see docs/results/localisation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.frontends.kaldi import (
    FRAME_SAMPLES,
    FRAME_SHIFT,
    HIGH_HZ,
    LOW_HZ,
    MEL_BINS,
    PATCH_FRAMES,
    SAMPLE_RATE_HZ,
    mel_bank,
)

BANDS = MEL_BINS // PATCH_FRAMES
MOST_PATCHES = 1_000
"""Normal patches kept per band; of more, those that cover the others best."""
MOST_CLIPS = 300
"""Normal clips that are looked at; of more, every n-th."""
FACTS = ("level", "variation", "contrast")
"""Of a patch: mean log energy, its deviation over time, and the deviation of the mean spectrum over frequency."""
_MOST_CANDIDATES = 20_000
"""Patches per band among which those to keep are chosen; of more, every n-th."""
_FLOOR = 1e-3
"""The least typical distance; what lies between two digital silences would otherwise be infinitely odd."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalPatches:
    """What normal patches are like, band by band; of any description.

    Attributes:
        patches: (bands, kept, dim) float32.
        owners: (bands, kept) int64, which clip each is of.
        typical: (bands,) float32, the median distance of a normal patch to the nearest kept one of another clip.
    """

    patches: Tensor
    owners: Tensor
    typical: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PatchBank:
    """What explaining a machine's clips needs of its normal ones; a few megabytes at most.

    Attributes:
        patches, owners, typical: as in :class:`NormalPatches`, of :func:`patch_features`; owners count the clips
            as they were given.
        peaks: (clips,) float32, the largest value of every normal clip's own map, compared with the others.
        facts: (clips, 2, bands, 3) float32, the lowest and the highest of every fact within each normal clip.
        levels: (clips,) float32, of every normal clip; see :func:`clip_level`.
    """

    patches: Tensor
    owners: Tensor
    typical: Tensor
    peaks: Tensor
    facts: Tensor
    levels: Tensor

    @property
    def normal(self) -> NormalPatches:
        """The patches alone."""
        return NormalPatches(self.patches, self.owners, self.typical)

    def tensors(self) -> dict[str, Tensor]:
        """To be written; :meth:`restored` undoes it."""
        return {name: getattr(self, name).contiguous() for name in self.__slots__}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor]) -> PatchBank:
        """From what :meth:`tensors` gave."""
        return cls(**{name: tensors[name] for name in cls.__slots__})


def patch_features(log_mel: Tensor) -> Tensor:
    """Describe the patches of one clip.

    Args:
        log_mel: (frames, 128) float32, at least 16 frames, without padding; what is left over behind the last
            whole column is not seen.

    Returns:
        (columns, bands, 32) float32: for each of a patch's 16 mel bins the mean over its 16 frames, less the mean
        of the whole clip; then for each the deviation over its frames. Natural logarithms of energy.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    patches = cut_patches(levelled(log_mel))
    return torch.cat([patches.mean(dim=2), patches.std(dim=2, correction=0)], dim=2)


def patch_facts(log_mel: Tensor) -> Tensor:
    """Facts that a sentence can be made of, (columns, bands, 3) float32; see :data:`FACTS`.

    Args:
        log_mel: as for :func:`patch_features`, whose mean level is taken out here too.
    """
    patches = cut_patches(levelled(log_mel))
    energy = patches.mean(dim=3)
    contrast = patches.mean(dim=2).std(dim=2, correction=0)
    return torch.stack([energy.mean(dim=2), energy.std(dim=2, correction=0), contrast], dim=2)


def clip_level(log_mel: Tensor) -> Tensor:
    """The mean of a clip's log-mel values, () float32; the filter that holds no FFT bin is left out."""
    return log_mel[:, mel_bank().sum(dim=1) > 0].mean()


def levelled(log_mel: Tensor) -> Tensor:
    """(frames, 128) less the clip's mean level; 0 in the channel whose filter is empty and knows no level."""
    return (log_mel - clip_level(log_mel)).masked_fill(mel_bank().sum(dim=1) == 0, 0.0)


def cut_patches(log_mel: Tensor) -> Tensor:
    """(frames, 128) to (columns, bands, 16 frames, 16 bins); place (t, f) is EAT's token ``t * 8 + f``.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    columns = len(log_mel) // PATCH_FRAMES
    if columns == 0:
        raise ValueError(f"expected at least {PATCH_FRAMES} frames, got {len(log_mel)}")
    whole = log_mel[: columns * PATCH_FRAMES]
    return whole.reshape(columns, PATCH_FRAMES, BANDS, PATCH_FRAMES).transpose(1, 2)


def fit_patches(log_mels: Sequence[Tensor]) -> PatchBank:
    """Learn what the patches of normal clips are like.

    Args:
        log_mels: (frames, 128) float32 of every normal clip of a machine, without padding, at least 16 frames.

    Raises:
        ValueError: if there is no clip, or one is shorter than a patch.
    """
    if not log_mels:
        raise ValueError("expected at least one normal clip")
    every = -(-len(log_mels) // MOST_CLIPS)
    heard = log_mels[::every]
    normal, maps = fit_normal_patches([patch_features(clip) for clip in heard])
    facts = [patch_facts(clip) for clip in heard]
    return PatchBank(
        normal.patches,
        normal.owners * every,
        normal.typical,
        peaks=torch.stack([grid.max() for grid in maps]),
        facts=torch.stack([torch.stack([fact.amin(dim=0), fact.amax(dim=0)]) for fact in facts]),
        levels=torch.stack([clip_level(clip) for clip in heard]),
    )


def fit_normal_patches(clips: Sequence[Tensor]) -> tuple[NormalPatches, list[Tensor]]:
    """Learn what normal patches are like.

    Args:
        clips: (columns, bands, dim) float32 of every normal clip.

    Returns:
        the patches, and the map of every clip, (columns, bands) float32, each compared with the others. A single
        clip has no others, so its patches are compared with one another.
    """
    lengths = [len(clip) for clip in clips]
    features = torch.cat(list(clips)).float().transpose(0, 1).contiguous()
    owner = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(lengths))
    group = owner if len(clips) > 1 else torch.arange(len(owner))
    candidates = torch.arange(0, len(owner), -(-len(owner) // _MOST_CANDIDATES))
    kept, distances = [], []
    for band in features:
        chosen = candidates[_covering(band[candidates], MOST_PATCHES)]
        kept.append(chosen)
        distances.append(_nearest_other(band, band[chosen], group, group[chosen]))
    places = torch.stack(kept)
    alone = torch.stack(distances)
    patches = torch.stack([band[chosen] for band, chosen in zip(features, places, strict=True)])
    typical = alone.median(dim=1).values.clamp_min(_FLOOR)
    normal = NormalPatches(patches, owner[places], typical)
    relative = (alone / typical[:, None] - 1.0).T
    return normal, [smoothed(clip) for clip in torch.split(relative, lengths)]


def _covering(points: Tensor, most: int) -> Tensor:
    """Which points to keep so that all others are near one of them: the farthest next, (kept,) int64.

    Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; at most twice the best radius.
    """
    if len(points) <= most:
        return torch.arange(len(points))
    squares = points.square().sum(dim=1)
    distance = torch.full_like(squares, torch.inf)
    chosen = torch.zeros(most, dtype=torch.int64)
    for place in range(1, most):
        last = chosen[place - 1]
        distance = torch.minimum(distance, squares + squares[last] - 2.0 * (points @ points[last]))
        chosen[place] = distance.argmax()
    return chosen


def _nearest_other(patches: Tensor, kept: Tensor, group: Tensor, kept_group: Tensor) -> Tensor:
    """Distance of every normal patch to the nearest kept one of another group; 0 where there is none."""
    out = []
    for rows, of in zip(torch.split(patches, 1024), torch.split(group, 1024), strict=True):
        distances = torch.cdist(rows, kept).masked_fill(of[:, None] == kept_group[None], torch.inf)
        out.append(distances.min(dim=1).values)
    nearest = torch.cat(out)
    return torch.where(torch.isfinite(nearest), nearest, torch.zeros_like(nearest))


def nearest_patches(features: Tensor, normal: NormalPatches) -> tuple[Tensor, Tensor]:
    """The nearest normal patch of every patch of a clip.

    Args:
        features: (columns, bands, dim) float32, described as ``normal`` is.

    Returns:
        distances (columns, bands) float32, and which of the band's kept patches, (columns, bands) int64.
    """
    found = [
        torch.cdist(ours, theirs).min(dim=1)
        for ours, theirs in zip(features.float().transpose(0, 1), normal.patches, strict=True)
    ]
    return torch.stack([band.values for band in found], dim=1), torch.stack([b.indices for b in found], dim=1)


def departures(features: Tensor, normal: NormalPatches) -> Tensor:
    """The map of one clip, (columns, bands) float32: 0 where it is as near to normal as normal clips are.

    A cell of 1 is twice as far from the nearest normal patch as a normal patch of its band typically is.

    Args:
        features: (columns, bands, dim) float32, described as ``normal`` is.
    """
    return smoothed(nearest_patches(features, normal)[0] / normal.typical - 1.0)


def smoothed(grid: Tensor) -> Tensor:
    """(columns, bands) averaged with the neighbours in time, weights 1, 2, 1: one odd patch does not decide."""
    padded = torch.cat([grid[:1], grid, grid[-1:]])
    return (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0


def time_edges_s(columns: int) -> list[float]:
    """The ``columns + 1`` edges of the time columns in seconds.

    Frames of 25 ms every 10 ms overlap; each stands for the 10 ms around its centre, so the first column begins at
    7.5 ms and every one lasts 160 ms.
    """
    start = (FRAME_SAMPLES - FRAME_SHIFT) / 2
    return [(start + column * PATCH_FRAMES * FRAME_SHIFT) / SAMPLE_RATE_HZ for column in range(columns + 1)]


def band_edges_hz() -> list[float]:
    """The nine edges of the eight bands in hertz: where the triangles of neighbouring bands' filters cross.

    Kaldi's mel scale is 1127 ln(1 + f / 700); filter m of 128 (from 0) peaks m + 1 steps above 20 Hz, so that
    bands of 16 filters meet half a step before the first filter of the upper one.
    """
    low, high = (1127.0 * torch.log1p(torch.tensor(hz / 700.0, dtype=torch.float64)) for hz in (LOW_HZ, HIGH_HZ))
    step = (high - low) / (MEL_BINS + 1)
    places = low + step * (PATCH_FRAMES * torch.arange(BANDS + 1, dtype=torch.float64) + 0.5)
    return [float(edge) for edge in 700.0 * torch.expm1(places / 1127.0)]
