"""Batches of machines in simulated rooms, as a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.data.recordings import AudioFile, read_crop
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe
from nearfar.pretraining.noise_aware.rooms import build_room, render
from nearfar.training.batches import rms

_SAMPLE = 201
"""Purpose of the random streams of samples; each is seeded by (seed, purpose, step, row)."""

LEVEL_DBFS = (-45.0, -12.0)
SILENCE_RMS = 1e-4
TRIES = 8


@dataclass(frozen=True)
class RoomBatch:
    """Rows of one step.

    Attributes:
        noisy: (rows, 2, samples) float32 at 16 kHz, near and far.
        wanted: (rows, samples) float32, near without noise and without late reflections.
        files: the recording of each row's machine.
    """

    noisy: Tensor
    wanted: Tensor
    files: tuple[str, ...]

    def part(self, rows: slice) -> RoomBatch:
        """The batch of some of the rows."""
        return RoomBatch(self.noisy[rows], self.wanted[rows], self.files[rows])


class RoomBatches:
    """Machines in noise, in random rooms.

    Args:
        machines, noises: recordings, of which random crops of random channels are taken.
        recipe: settings.
        first_room: number of the first of ``recipe.rooms.count`` rooms.
    """

    def __init__(
        self,
        machines: Sequence[AudioFile],
        noises: Sequence[AudioFile],
        recipe: NoiseAwareRecipe,
        first_room: int = 0,
    ) -> None:
        self.machines, self.noises, self.recipe, self.first_room = machines, noises, recipe, first_room
        self.samples = round(recipe.crop_seconds * SAMPLE_RATE_HZ)

    def rows(self, step: int, first: int, last: int) -> RoomBatch:
        """Rows ``first`` to ``last`` (exclusive) of a step's batch.

        Raises:
            InputError: if a recording cannot be read.
        """
        rows = [self._row(step, row) for row in range(first, last)]
        noisy, wanted, files = zip(*rows, strict=True)
        return RoomBatch(torch.from_numpy(np.stack(noisy)), torch.from_numpy(np.stack(wanted)), tuple(files))

    def _row(self, step: int, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
        rooms = self.recipe.rooms
        rng = np.random.default_rng((self.recipe.seed, _SAMPLE, self.first_room, step, row))
        room = build_room(rooms, self.recipe.seed, self.first_room + int(rng.integers(rooms.count)))
        machine, file = self._crop(rng, self.machines)
        noises = np.stack([self._crop(rng, self.noises)[0] for _ in range(rooms.noises)])
        noisy, wanted = render(room, machine, noises, rng.uniform(*rooms.snr_db))
        gain = 10 ** (rng.uniform(*LEVEL_DBFS) / 20) / rms(noisy[0])
        peak = gain * max(float(np.abs(noisy).max()), float(np.abs(wanted).max()))
        gain /= max(peak, 1.0)  # nothing is clipped, so that near and far stay related
        return noisy * np.float32(gain), wanted * np.float32(gain), str(file.path)

    def _crop(
        self, rng: np.random.Generator, recordings: Sequence[AudioFile]
    ) -> tuple[NDArray[np.float32], AudioFile]:
        """A crop of one channel of a recording; a silent one is drawn again, a few times."""
        for _ in range(TRIES):
            file = recordings[int(rng.integers(len(recordings)))]
            crop = read_crop(file, int(rng.integers(file.channels)), self.samples, rng)
            if rms(crop) > SILENCE_RMS:
                break
        return crop, file
