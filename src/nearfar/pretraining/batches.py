"""Batches of pre-training as a pure function of seed and step, read from disk as they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.recordings import AudioFile, read_crop
from nearfar.encoders.eat import EATConfig
from nearfar.frontends.kaldi import padded_frame_count
from nearfar.pretraining.model import inverse_block_masks
from nearfar.pretraining.recipe import PretrainRecipe
from nearfar.training.batches import step_samples, torch_seed

_CROP, _MASK, _NOISE = 100, 101, 102
"""Purposes of random streams; each stream is seeded by (seed, purpose, step, row)."""


@dataclass(frozen=True)
class CropBatch:
    """Rows of one step.

    Attributes:
        waveform: (rows, samples) float32 at 16 kHz.
        masked: (rows * clones, cells) bool, the views of a row consecutively; True = to be predicted.
        files: the recording of each row.
        noise_seeds: a seed per row, for the decoder's input at masked cells.
    """

    waveform: Tensor
    masked: Tensor
    files: tuple[str, ...]
    noise_seeds: tuple[int, ...]

    def part(self, rows: slice) -> CropBatch:
        """The batch of some of the rows."""
        clones = len(self.masked) // len(self.waveform)
        first, last, _ = rows.indices(len(self.waveform))
        masked = self.masked[first * clones : last * clones]
        return CropBatch(self.waveform[rows], masked, self.files[rows], self.noise_seeds[rows])


class Crops:
    """Random crops of all channels of all recordings.

    An epoch takes from every channel its length divided by the crop length, rounded up, crops, in random order.
    ``config`` of the encoder gives the grid of patches.
    """

    def __init__(self, recordings: Sequence[AudioFile], recipe: PretrainRecipe, config: EATConfig) -> None:
        self.recordings, self.recipe, self.bands = recordings, recipe, config.bands
        self.samples = round(recipe.crop_seconds * SAMPLE_RATE_HZ)
        self.columns = padded_frame_count(self.samples) // config.patch_size
        counts = [file.channels * math.ceil(file.seconds / recipe.crop_seconds) for file in recordings]
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        """Crops in an epoch."""
        return int(self._ends[-1])

    def rows(self, step: int, first: int, last: int) -> CropBatch:
        """Rows ``first`` to ``last`` (exclusive) of a step's batch.

        Raises:
            InputError: if a recording cannot be read.
        """
        seed, masking = self.recipe.seed, self.recipe.masking
        chosen = step_samples(step, self.recipe.training.batch_size, len(self), seed)[first:last]
        waveforms, masks, files = [], [], []
        for row, index in enumerate(chosen, start=first):
            position = int(np.searchsorted(self._ends, index, side="right"))
            recording = self.recordings[position]
            channel = (int(self._ends[position]) - 1 - index) % recording.channels
            random = np.random.default_rng((seed, _CROP, step, row))
            waveforms.append(read_crop(recording, channel, self.samples, random))
            masks.append(
                inverse_block_masks(
                    np.random.default_rng((seed, _MASK, step, row)),
                    masking.clones,
                    self.columns,
                    self.bands,
                    mask_ratio=masking.ratio,
                    adjust=masking.adjust,
                    block=masking.block,
                )
            )
            files.append(str(recording.path))
        return CropBatch(
            torch.from_numpy(np.stack(waveforms)),
            torch.from_numpy(np.concatenate(masks)),
            tuple(files),
            tuple(torch_seed(seed, _NOISE, step, row) for row in range(first, last)),
        )
