"""Where in time and frequency a clip departs from normal: patches of its log-mel spectrogram against normal ones.

A patch is what EAT looks at, 16 frames (160 ms) by 16 mel bins, on a grid of time columns by 8 frequency bands. It
is described by its mean spectrum, its mean profile over time and how much it varies from frame to frame, and
compared with the normal patches of its band, wherever these lie in time. Its deviation is the distance to the
nearest of them, in units of how far normal patches of that band are from the nearest of *other* normal clips: mean
0, deviation 1. A fault that lasts shows in the mean deviation of a band over the clip, which is brought to the
scale of normal clips' in the same way. The map is the sum of both, the patches smoothed over time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.models.fbank import (
    FRAME_SAMPLES,
    FRAME_SHIFT,
    HIGH_HZ,
    LOW_HZ,
    MEL_BINS,
    PATCH_FRAMES,
    SAMPLE_RATE_HZ,
)

BANDS = MEL_BINS // PATCH_FRAMES
MOST_PATCHES = 2_000
"""Normal patches kept per band; of more, some are drawn."""
MOST_CLIPS = 300
"""Normal clips that are looked at; of more, every n-th."""
FLOOR = 1e-6
CLIP_FLOOR = 0.05
"""Deviations are divided by no less: a few normal clips may happen to be alike."""
FACTS = ("level", "variation", "contrast")
"""Of a patch: mean log energy, its deviation over time, and the deviation of the mean spectrum over frequency."""


@dataclass(frozen=True, slots=True, eq=False)
class PatchBank:
    """What normal patches are like, band by band.

    Attributes:
        patches: (bands, kept, features) float32.
        mean, deviation: (bands,) float32, of normal patches' distances to other clips' patches.
        clip_mean, clip_deviation: (bands,) float32, of normal clips' mean deviations.
        peaks: (clips,) float32: the largest value of every normal clip's own map.
        facts: (clips, 2, bands, 3) float32: the lowest and the highest of every fact within each normal clip.
    """

    patches: Tensor
    mean: Tensor
    deviation: Tensor
    clip_mean: Tensor
    clip_deviation: Tensor
    peaks: Tensor
    facts: Tensor

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
        (columns, bands, 16 + 8 + 16) float32: mean spectrum, mean energy in pairs of frames, deviation over time
        of differences from frame to frame.
    """
    patches = _patches(log_mel)
    spectrum = patches.mean(dim=2)
    profile = patches.mean(dim=3).unfold(2, 2, 2).mean(dim=3)
    changes = patches.diff(dim=2).std(dim=2, correction=0)
    return torch.cat([spectrum, profile - profile.mean(dim=2, keepdim=True), 2.0 * changes], dim=2)


def patch_facts(log_mel: Tensor) -> Tensor:
    """Facts that a sentence can be made of, (columns, bands, 3) float32; see :data:`FACTS`."""
    patches = _patches(log_mel)
    energy = patches.mean(dim=3)
    contrast = patches.mean(dim=2).std(dim=2, correction=0)
    return torch.stack([energy.mean(dim=2), energy.std(dim=2, correction=0), contrast], dim=2)


def _patches(log_mel: Tensor) -> Tensor:
    """(columns, bands, 16 frames, 16 bins)."""
    columns = len(log_mel) // PATCH_FRAMES
    if columns == 0:
        raise ValueError(f"expected at least {PATCH_FRAMES} frames, got {len(log_mel)}")
    whole = log_mel[: columns * PATCH_FRAMES]
    return whole.reshape(columns, PATCH_FRAMES, BANDS, PATCH_FRAMES).transpose(1, 2)


def fit_patches(log_mels: list[Tensor], seed: int = 0) -> PatchBank:
    """Learn what normal patches are like.

    Args:
        log_mels: (frames, 128) of every normal clip, without padding.
        seed: decides which patches are kept where there are many.

    Raises:
        ValueError: if there is no clip, or one is shorter than a patch.
    """
    if not log_mels:
        raise ValueError("expected at least one normal clip")
    log_mels = log_mels[:: -(-len(log_mels) // MOST_CLIPS)]
    described = [patch_features(clip) for clip in log_mels]
    lengths = torch.tensor([len(clip) for clip in described])
    owner = torch.repeat_interleave(torch.arange(len(described)), lengths)
    features = torch.cat(described).transpose(0, 1).contiguous()
    chosen = torch.arange(len(owner))
    if len(owner) > MOST_PATCHES:
        order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(seed))
        chosen = order[:MOST_PATCHES].sort().values
    patches = features[:, chosen].contiguous()
    # A single clip has no others, so that its patches are compared with one another.
    group = owner if len(described) > 1 else torch.arange(len(owner))
    distances = torch.stack(
        [_nearest_other(band, kept, group, chosen) for band, kept in zip(features, patches, strict=True)]
    )
    mean, deviation = distances.mean(dim=1), distances.std(dim=1, correction=0).clamp_min(FLOOR)
    relative = (distances - mean[:, None]) / deviation[:, None]
    clips = [clip.T for clip in torch.split(relative, lengths.tolist(), dim=1)]
    of_clips = torch.stack([clip.mean(dim=0) for clip in clips])
    clip_mean = of_clips.mean(dim=0)
    clip_deviation = of_clips.std(dim=0, correction=0).clamp_min(CLIP_FLOOR)
    lasting = (of_clips - clip_mean) / clip_deviation
    peaks = torch.stack([(smoothed(clip) + level).max() for clip, level in zip(clips, lasting, strict=True)])
    facts = [patch_facts(clip) for clip in log_mels]
    return PatchBank(
        patches,
        mean,
        deviation,
        clip_mean,
        clip_deviation,
        peaks,
        torch.stack([torch.stack([fact.amin(dim=0), fact.amax(dim=0)]) for fact in facts]),
    )


def _nearest_other(patches: Tensor, kept: Tensor, group: Tensor, chosen: Tensor) -> Tensor:
    """Distance of every normal patch to the nearest kept one of another group; 0 where there is none."""
    out = []
    for begin in range(0, len(patches), 1024):
        rows = slice(begin, begin + 1024)
        distances = torch.cdist(patches[rows], kept)
        distances = distances.masked_fill(group[rows, None] == group[chosen][None], torch.inf)
        out.append(distances.min(dim=1).values)
    nearest = torch.cat(out)
    return torch.where(torch.isfinite(nearest), nearest, torch.zeros_like(nearest))


def deviations(log_mel: Tensor, bank: PatchBank) -> Tensor:
    """The map of one clip: (columns, bands) float32, 0 where it is as normal clips are.

    Args:
        log_mel: (frames, 128) float32, at least 16 frames, without padding.
        bank: of the same machine and view.
    """
    described = patch_features(log_mel).transpose(0, 1)
    nearest = torch.stack(
        [torch.cdist(ours, theirs).min(dim=1).values for ours, theirs in zip(described, bank.patches, strict=True)]
    )
    patches = ((nearest - bank.mean[:, None]) / bank.deviation[:, None]).T
    lasting = (patches.mean(dim=0) - bank.clip_mean) / bank.clip_deviation
    return smoothed(patches) + lasting


def smoothed(grid: Tensor) -> Tensor:
    """Deviations averaged with their neighbours in time, weights 1, 2, 1: one odd patch does not decide."""
    padded = torch.cat([grid[:1], grid, grid[-1:]])
    return (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0


def column_seconds(column: int) -> tuple[float, float]:
    """When a time column begins and ends; its last frame ends 9 ms into the next column."""
    hop = FRAME_SHIFT / SAMPLE_RATE_HZ
    last = (PATCH_FRAMES - 1) * hop + FRAME_SAMPLES / SAMPLE_RATE_HZ
    begin = column * PATCH_FRAMES * hop
    return begin, begin + last


def band_edges_hz() -> list[float]:
    """The nine edges of the eight bands: where the triangles of neighbouring bands' mel filters cross."""
    low, high = (1127.0 * torch.log1p(torch.tensor(hz / 700.0, dtype=torch.float64)) for hz in (LOW_HZ, HIGH_HZ))
    step = (high - low) / (MEL_BINS + 1)
    places = low + step * (PATCH_FRAMES * torch.arange(BANDS + 1, dtype=torch.float64) + 0.5)
    return [float(edge) for edge in 700.0 * torch.expm1(places / 1127.0)]
