"""Localisation of anomalies in time and frequency by patches of log-mel spectrograms.

A patch has the size of an EAT token, 16 frames (160 ms) by 16 mel bins, on a grid of time columns by 8 frequency
bands. Its features are the mean and the standard deviation over time of every mel bin, after the mean level of the
clip is subtracted. Its value in the map of departures is the distance to the nearest normal patch of its band, at
any time, as in PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022), divided
by the typical distance of a normal patch of the band to the nearest one of *another* normal clip, minus 1.
docs/results/localisation.md compares features, scales and smoothing on simulated faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

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
from nearfar.threads import one_thread

BANDS = MEL_BINS // PATCH_FRAMES
MOST_PATCHES = 1_000
"""Largest number of normal patches per band; of more, a subset that covers the others best."""
MOST_ADDED = 250
"""The same of the clips that are added at one time."""
MOST_CLIPS = 300
"""Largest number of normal clips that are used; of more, every n-th."""
NOTABLE = 0.95
"""A clip is notable if its peak exceeds the peaks of this fraction of normal clips."""
FACTS = ("level", "variation", "contrast")
"""Statistics of a patch: mean log energy, its deviation over time, that of the mean spectrum over frequency."""
_MOST_CANDIDATES = 20_000
"""Candidates per band for the bank; of more patches, every n-th."""
_FLOOR = 1e-3
"""Lower bound of the typical distance, which is 0 between clips of digital silence."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalPatches:
    """Features of normal patches by band.

    Attributes:
        patches: (bands, patches, dim) float32.
        owners: (bands, patches) int64, index of the clip of each patch.
        typical: (bands,) float32, median distance of a normal patch to the nearest of ``patches`` of another clip.
    """

    patches: Tensor
    owners: Tensor
    typical: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PatchBank(NormalPatches):
    """Normal patches with :func:`patch_features` and statistics of a machine's normal clips; a few MB at most.

    ``owners`` index the clips passed to :func:`fit_patches`.

    Attributes:
        peaks: (clips,) float32, largest value of the map of every normal clip against the others.
        facts: (clips, 2, bands, 3) float32, minimum and maximum over time of :func:`patch_facts` of each clip.
        levels: (clips,) float32, :func:`clip_level` of each clip.
    """

    peaks: Tensor
    facts: Tensor
    levels: Tensor

    @property
    def usual_peak(self) -> float:
        """The peak that 95 % of the normal clips do not exceed."""
        return float(self.peaks.quantile(NOTABLE))

    def tensors(self) -> dict[str, Tensor]:
        """The attributes by name, for a safetensors file."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> PatchBank:
        """The inverse of :meth:`tensors`."""
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})


def patch_features(log_mel: Tensor) -> Tensor:
    """Features of the patches of one clip.

    Args:
        log_mel: (frames, 128) float32 natural logarithms of energy, at least 16 frames, without padding; frames
            after the last whole column are ignored.

    Returns:
        (columns, bands, 32) float32: for each of a patch's 16 mel bins the mean over its 16 frames, minus the mean
        of the whole clip; then for each the standard deviation over its frames.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    patches = cut_patches(levelled(log_mel))
    means = patches.mean(dim=2)
    deviations = (patches - means.unsqueeze(2)).square_().mean(dim=2).sqrt_()  # torch.std takes 20 times as long
    return torch.cat([means, deviations], dim=2)


def patch_facts(log_mel: Tensor) -> Tensor:
    """Statistics of the patches of one clip for the sentence of an explanation.

    Args:
        log_mel: as for :func:`patch_features`; the mean level of the clip is subtracted here too.

    Returns:
        (columns, bands, 3) float32: level, variation and contrast, see :data:`FACTS`.
    """
    patches = cut_patches(levelled(log_mel))
    energy = patches.mean(dim=3)
    contrast = patches.mean(dim=2).std(dim=2, correction=0)
    return torch.stack([energy.mean(dim=2), energy.std(dim=2, correction=0), contrast], dim=2)


def clip_level(log_mel: Tensor) -> Tensor:
    """The mean of (frames, 128) log-mel values without the filter that covers no FFT bin, () float32."""
    return log_mel.mean(dim=0)[~_empty_filters()].mean()


def levelled(log_mel: Tensor) -> Tensor:
    """(frames, 128) minus the clip's mean level; 0 in the mel bin whose filter covers no FFT bin."""
    return (log_mel - clip_level(log_mel)).masked_fill_(_empty_filters(), 0.0)


@cache
def _empty_filters() -> Tensor:
    """(128,) bool, the mel filters that cover no FFT bin."""
    return mel_bank().sum(dim=1) == 0


def cut_patches(log_mel: Tensor) -> Tensor:
    """(frames, 128) to (columns, bands, 16 frames, 16 bins); patch (t, f) is EAT's token ``t * 8 + f``.

    Raises:
        ValueError: if there are fewer than 16 frames.
    """
    columns = len(log_mel) // PATCH_FRAMES
    if columns == 0:
        raise ValueError(f"expected at least {PATCH_FRAMES} frames, got {len(log_mel)}")
    whole = log_mel[: columns * PATCH_FRAMES]
    return whole.reshape(columns, PATCH_FRAMES, BANDS, PATCH_FRAMES).transpose(1, 2)


@one_thread()
def fit_patches(log_mels: Sequence[Tensor]) -> PatchBank:
    """Fit the bank of a machine's normal clips.

    Args:
        log_mels: (frames, 128) float32 of every normal clip of a machine, without padding, at least 16 frames.

    Raises:
        ValueError: if there is no clip, or one is shorter than a patch.
    """
    if not log_mels:
        raise ValueError("expected at least one normal clip")
    every = -(-len(log_mels) // MOST_CLIPS)
    clips = log_mels[::every]
    normal, maps = fit_normal_patches([patch_features(clip) for clip in clips])
    facts = [patch_facts(clip) for clip in clips]
    return PatchBank(
        normal.patches,
        normal.owners * every,
        normal.typical,
        peaks=torch.stack([grid.max() for grid in maps]),
        facts=torch.stack([torch.stack([fact.amin(dim=0), fact.amax(dim=0)]) for fact in facts]),
        levels=torch.stack([clip_level(clip) for clip in clips]),
    )


@one_thread()
def with_clips(bank: PatchBank, log_mels: Sequence[Tensor]) -> PatchBank:
    """The bank with more normal clips behind the others, and with the same typical distances.

    Args:
        bank: of the clips so far.
        log_mels: of the new ones, as for :func:`fit_patches`.
    """
    every = -(-len(log_mels) // MOST_CLIPS)
    clips = log_mels[::every]
    features = [patch_features(clip) for clip in clips]
    rows = torch.cat(features).float().transpose(0, 1).contiguous()
    first = int(bank.owners.max()) + 1
    owner = torch.repeat_interleave(first + torch.arange(len(clips)), torch.tensor([len(f) for f in features]))
    candidates = torch.arange(0, len(owner), -(-len(owner) // _MOST_CANDIDATES))
    chosen = torch.stack([candidates[_covering(band[candidates], MOST_ADDED)] for band in rows])
    patches = torch.cat([bank.patches, rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2]))], dim=1)
    owners = torch.cat([bank.owners, owner[chosen]], dim=1)
    nearest = [
        _nearest_other(band, normal, owner, owner_of)
        for band, normal, owner_of in zip(rows, patches, owners, strict=True)
    ]
    maps = torch.split((torch.stack(nearest) / bank.typical[:, None] - 1.0).T, [len(f) for f in features])
    facts = [patch_facts(clip) for clip in clips]
    return PatchBank(
        patches,
        owners,
        bank.typical,
        peaks=torch.cat([bank.peaks, torch.stack([smoothed(grid).max() for grid in maps])]),
        facts=torch.cat([bank.facts, torch.stack([torch.stack([f.amin(dim=0), f.amax(dim=0)]) for f in facts])]),
        levels=torch.cat([bank.levels, torch.stack([clip_level(clip) for clip in clips])]),
    )


def truncated(bank: PatchBank, patches: int, clips: int) -> PatchBank:
    """The bank with its first ``patches`` per band and its first ``clips``: undoes :func:`with_clips`."""
    return PatchBank(
        bank.patches[:, :patches].clone(),
        bank.owners[:, :patches].clone(),
        bank.typical,
        peaks=bank.peaks[:clips].clone(),
        facts=bank.facts[:clips].clone(),
        levels=bank.levels[:clips].clone(),
    )


def fit_normal_patches(clips: Sequence[Tensor]) -> tuple[NormalPatches, list[Tensor]]:
    """Select normal patches and compute the map of departures of every normal clip against the others.

    Args:
        clips: (columns, bands, dim) float32 features of every normal clip.

    Returns:
        the patches, and (columns, bands) float32 for every clip. The patches of a single clip are compared with
        one another.
    """
    lengths = [len(clip) for clip in clips]
    features = torch.cat(list(clips)).float().transpose(0, 1).contiguous()
    owner = torch.repeat_interleave(torch.arange(len(clips)), torch.tensor(lengths))
    group = owner if len(clips) > 1 else torch.arange(len(owner))
    candidates = torch.arange(0, len(owner), -(-len(owner) // _MOST_CANDIDATES))
    selections, distances = [], []
    for band in features:
        selected = candidates[_covering(band[candidates], MOST_PATCHES)]
        selections.append(selected)
        distances.append(_nearest_other(band, band[selected], group, group[selected]))
    selection, leave_one_out = torch.stack(selections), torch.stack(distances)
    patches = torch.stack([band[selected] for band, selected in zip(features, selection, strict=True)])
    typical = leave_one_out.median(dim=1).values.clamp_min(_FLOOR)
    normal = NormalPatches(patches, owner[selection], typical)
    relative = (leave_one_out / typical[:, None] - 1.0).T
    return normal, [smoothed(clip) for clip in torch.split(relative, lengths)]


def _covering(points: Tensor, most: int) -> Tensor:
    """Indices of up to ``most`` points that cover the others, (selected,) int64, by farthest-point sampling.

    The radius is at most twice the best (Gonzalez, "Clustering to minimize the maximum intercluster distance",
    Theoretical Computer Science 38, 1985).
    """
    if len(points) <= most:
        return torch.arange(len(points))
    squares = points.square().sum(dim=1)
    distance = torch.full_like(squares, torch.inf)
    chosen = torch.zeros(most, dtype=torch.int64)
    for count in range(1, most):
        last = chosen[count - 1]
        distance = torch.minimum(distance, squares + squares[last] - 2.0 * (points @ points[last]))
        chosen[count] = distance.argmax()
    return chosen


def _nearest_other(patches: Tensor, selected: Tensor, group: Tensor, selected_group: Tensor) -> Tensor:
    """(patches,) distances to the nearest selected patch of another group; 0 if there is none."""
    out = []
    for rows, groups in zip(torch.split(patches, 1024), torch.split(group, 1024), strict=True):
        distances = torch.cdist(rows, selected).masked_fill(groups[:, None] == selected_group[None], torch.inf)
        out.append(distances.min(dim=1).values)
    nearest = torch.cat(out)
    return torch.where(torch.isfinite(nearest), nearest, torch.zeros_like(nearest))


def patch_distances(features: Tensor, normal: NormalPatches) -> Tensor:
    """The distance of every patch of a clip to the nearest normal patch of its band.

    Args:
        features: (columns, bands, dim) float32, the same kind of features as in ``normal``.

    Returns:
        (columns, bands) float32.
    """
    rows = features.float().transpose(0, 1)
    # Band by band: the distances of one band fit the cache.
    pairs = zip(rows, normal.patches, strict=True)
    lowest = torch.stack([_half_squares(band, patches).amin(dim=1) for band, patches in pairs])
    halves = lowest + rows.square().sum(dim=2) / 2
    return (2.0 * halves.clamp_min_(0.0)).sqrt_().T


def nearest_patches(features: Tensor, normal: NormalPatches, bands: slice = slice(None)) -> Tensor:
    """The indices of the nearest normal patches, (columns, bands) int64, of the patches of some bands."""
    pairs = zip(features.float().transpose(0, 1), normal.patches[bands], strict=True)
    return torch.stack([_half_squares(band, patches).argmin(dim=1) for band, patches in pairs], dim=1)


def _half_squares(rows: Tensor, patches: Tensor) -> Tensor:
    """Half the squared distances (rows, patches) of one band, without half the squared norms of the rows."""
    return torch.addmm(patches.square().sum(dim=1).div_(2)[None], rows, patches.T, alpha=-1.0)


def departures(features: Tensor, normal: NormalPatches) -> Tensor:
    """The map of departures of one clip, smoothed in time.

    Args:
        features: (columns, bands, dim) float32, the same kind of features as in ``normal``.

    Returns:
        (columns, bands) float32: 0 at the typical distance of a normal patch of the band, 1 at twice that.
    """
    return smoothed(patch_distances(features, normal) / normal.typical - 1.0)


def smoothed(grid: Tensor) -> Tensor:
    """(columns, bands) averaged with the neighbours in time, weights 1, 2, 1, to suppress single outliers."""
    padded = torch.cat([grid[:1], grid, grid[-1:]])
    return (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0


def time_edges_s(columns: int) -> list[float]:
    """The ``columns + 1`` edges of the time columns in seconds.

    Frames of 25 ms every 10 ms overlap; each stands for the 10 ms around its centre, so the first column begins at
    7.5 ms and every one lasts 160 ms.
    """
    start = (FRAME_SAMPLES - FRAME_SHIFT) / 2
    return [(start + column * PATCH_FRAMES * FRAME_SHIFT) / SAMPLE_RATE_HZ for column in range(columns + 1)]


@cache
def band_edges_hz() -> tuple[float, ...]:
    """The nine edges of the eight bands in hertz, at which the triangular filters of neighbouring bands cross.

    Kaldi's mel scale is 1127 ln(1 + f / 700); filter m of 128 (from 0) peaks m + 1 steps above 20 Hz, so that
    bands of 16 filters meet half a step before the first filter of the upper one.
    """
    low, high = (1127.0 * torch.log1p(torch.tensor(hz / 700.0, dtype=torch.float64)) for hz in (LOW_HZ, HIGH_HZ))
    step = (high - low) / (MEL_BINS + 1)
    edges = low + step * (PATCH_FRAMES * torch.arange(BANDS + 1, dtype=torch.float64) + 0.5)
    return tuple((700.0 * torch.expm1(edges / 1127.0)).tolist())
