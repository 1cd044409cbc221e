"""Batches of crops: what they hold, and that they depend on seed and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch

from nearfar.data.recordings import AudioFile, find_recordings
from nearfar.encoders.eat import SIZES
from nearfar.pretraining.batches import Crops
from nearfar.pretraining.recipe import PretrainRecipe


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[AudioFile]:
    """A mono recording of 2.5 s and one of two channels of 1 s; every channel is at its own constant level."""
    folder = tmp_path_factory.mktemp("levels")
    soundfile.write(folder / "long.wav", np.full(40_000, 0.25), 16_000, subtype="FLOAT")
    soundfile.write(folder / "stereo.wav", np.tile([0.5, 0.75], (16_000, 1)), 16_000, subtype="FLOAT")
    return find_recordings([folder])


def crops(recordings: list[AudioFile], seed: int = 3) -> Crops:
    tables = {"masking": {"clones": 2}, "training": {"batch_size": 5}}
    recipe = PretrainRecipe.model_validate({"name": "small", "seed": seed, "crop_seconds": 1.0, **tables})
    return Crops(recordings, recipe, SIZES["tiny"])


def test_an_epoch_takes_every_channel_once_per_crop_length(recordings: list[AudioFile]) -> None:
    source = crops(recordings)
    assert len(source) == 3 + 2
    for step in range(3):  # a batch is an epoch here
        levels = Counter(float(row[0]) for row in source.rows(step, 0, 5).waveform)
        assert levels == {0.25: 3, 0.5: 1, 0.75: 1}


def test_rows_follow_from_seed_step_and_row_alone(recordings: list[AudioFile]) -> None:
    whole = crops(recordings).rows(4, 0, 5)
    again = crops(recordings).rows(4, 2, 5)
    assert torch.equal(whole.waveform[2:], again.waveform)
    assert torch.equal(whole.masked[4:], again.masked)
    assert whole.noise_seeds[2:] == again.noise_seeds
    assert whole.files[2:] == again.files
    assert not torch.equal(whole.masked, crops(recordings, seed=4).rows(4, 0, 5).masked)
    assert not torch.equal(whole.masked, crops(recordings).rows(5, 0, 5).masked)
    assert len({*whole.noise_seeds, *crops(recordings).rows(5, 0, 5).noise_seeds}) == 10


def test_a_part_has_all_views_of_its_rows(recordings: list[AudioFile]) -> None:
    whole = crops(recordings).rows(0, 0, 5)
    part = whole.part(slice(3, 9))
    assert part.waveform.shape == (2, 16_000)
    assert torch.equal(part.masked, whole.masked[6:])
    assert part.files == whole.files[3:]
    assert part.noise_seeds == whole.noise_seeds[3:]


def test_shapes_are_those_of_the_encoders_grid(recordings: list[AudioFile]) -> None:
    batch = crops(recordings).rows(0, 0, 5)
    assert batch.waveform.shape == (5, 16_000)
    assert batch.waveform.dtype == torch.float32
    assert batch.masked.shape == (10, 7 * 8)  # 98 frames, padded to 112
    assert set((~batch.masked).sum(dim=1).tolist()) == {11}
