"""Batches as pure functions of seed and step: the order, the slices, every augmentation."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nearfar.config import Audio, Augmentation, load_recipe
from nearfar.data.audio import read_waveform
from nearfar.data.clips import parse_clip
from nearfar.encoders import ENCODERS
from nearfar.errors import InputError
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.training.batches import Batch, Batches, WaveformCache, depth_generator, step_samples
from nearfar.training.labels import LabelledSamples, label_samples
from nearfar.views import read_views

PADDED = 20_000
"""The clips have 16,000 samples, so every row ends in padding."""

EVERYTHING = Augmentation(
    time_shift=True, gain_db=6.0, mixup_probability=0.5, frequency_mask_bins=20, time_mask_frames=30
)


def make(
    labelled: LabelledSamples,
    augmentation: Augmentation | None = None,
    *,
    padded_samples: int = PADDED,
    batch_size: int = 8,
    seed: int = 0,
    **options: float,
) -> Batches:
    changes = {"audio.clip_seconds": padded_samples / 16_000, "training.batch_size": batch_size, "seed": seed}
    recipe = load_recipe("tiny-fusion").with_changes(**changes)
    return Batches(labelled, recipe.model_copy(update={"augmentation": augmentation or Augmentation()}), **options)


def tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def assert_same(one: Batch, other: Batch) -> None:
    assert one.files == other.files
    assert tensors(one).keys() == tensors(other).keys()
    for name, value in tensors(one).items():
        assert torch.equal(value, tensors(other)[name]), name


def original(labelled: LabelledSamples, index: int) -> Tensor:
    sample = labelled.samples[index]
    return torch.from_numpy(read_waveform(sample.clip.path, (sample.view,))[0])


# --- the samples of a step --------------------------------------------------------------------------------------


@given(count=st.integers(1, 50), batch_size=st.integers(1, 17), seed=st.integers(0, 9))
def test_every_sample_comes_once_in_every_epoch(count: int, batch_size: int, seed: int) -> None:
    epochs = 3
    steps = -(-epochs * count // batch_size)
    drawn = [index for step in range(steps) for index in step_samples(step, batch_size, count, seed)]
    assert len(drawn) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [tuple(step_samples(epoch, 40, 40, seed)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert tuple(range(40)) not in orders
    assert tuple(step_samples(0, 40, 40, 0)) == orders[0]


def test_doubling_the_batch_joins_two_steps() -> None:
    assert step_samples(3, 16, 50, 7) == step_samples(6, 8, 50, 7) + step_samples(7, 8, 50, 7)


# --- what a row is ----------------------------------------------------------------------------------------------


def test_without_augmentation_rows_are_the_padded_recordings(labelled: LabelledSamples) -> None:
    batch = make(labelled).rows(2, 0, 8)
    chosen = step_samples(2, 8, len(labelled.samples), 0)
    assert batch.waveform.shape == (8, PADDED)
    assert batch.waveform.dtype == torch.float32
    assert batch.samples.tolist() == [16_000] * 8
    assert batch.labels.tolist() == [labelled.labels[index] for index in chosen]
    assert batch.files == tuple(str(labelled.samples[index].clip.path) for index in chosen)
    assert (batch.other_labels, batch.mixup_lambda, batch.spec_mask) == (None, None, None)
    for row, index in zip(batch.waveform, chosen, strict=True):
        assert torch.equal(row[:16_000], original(labelled, index))
        assert not row[16_000:].any()
    assert {labelled.samples[index].view for index in chosen} == {"near", "far"}


def test_crops_are_random_pieces_of_the_recordings(labelled: LabelledSamples) -> None:
    crops = make(labelled, Augmentation(crop_seconds=0.25))
    begins = set()
    for step in range(4):
        batch = crops.rows(step, 0, 8)
        assert batch.waveform.shape == (8, 4_000)
        assert batch.samples.tolist() == [4_000] * 8
        for row, index in zip(batch.waveform, step_samples(step, 8, len(labelled.samples), 0), strict=True):
            pieces = original(labelled, index).unfold(0, 4_000, 1)
            (begin,) = torch.nonzero((pieces == row).all(dim=1))[:, 0].tolist()
            begins.add(begin)
    assert len(begins) > 20
    assert min(begins) < 3_000
    assert max(begins) > 9_000
    assert_same(crops.rows(2, 0, 8), make(labelled, Augmentation(crop_seconds=0.25)).rows(2, 0, 8))


def test_crops_longer_than_the_recordings_are_padded(labelled: LabelledSamples) -> None:
    batch = make(labelled, Augmentation(crop_seconds=1.5)).rows(0, 0, 4)
    assert batch.waveform.shape == (4, 24_000)
    assert batch.samples.tolist() == [16_000] * 4


def test_the_near_sample_is_channel_0_and_the_far_one_channel_1(labelled: LabelledSamples) -> None:
    batches = make(labelled, batch_size=len(labelled.samples))
    chosen = step_samples(0, len(labelled.samples), len(labelled.samples), 0)
    for row, index in zip(batches.rows(0, 0, len(chosen)).waveform, chosen, strict=True):
        sample = labelled.samples[index]
        file, _ = sf.read(sample.clip.path, dtype="float32")
        assert torch.equal(row[:16_000], torch.from_numpy(file[:, 0 if sample.view == "near" else 1].copy()))


def test_near_alone_reads_mono_recordings(tmp_path: Path) -> None:
    path = tmp_path / "fan" / "train" / "section_00_source_train_normal_0000_noAttribute.wav"
    path.parent.mkdir(parents=True)
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    clip = parse_clip(path, "fan", "train")
    batch = make(label_samples([clip], ["near"]), batch_size=2).rows(0, 0, 2)
    assert torch.equal(batch.waveform[0, :16_000], torch.from_numpy(read_waveform(path, ["near"])[0]))
    with pytest.raises(InputError, match="mono"):
        make(label_samples([clip])).rows(0, 0, 2)


def test_clips_of_different_lengths_state_them(labelled: LabelledSamples, tmp_path: Path) -> None:
    path = tmp_path / "pump" / "train" / "section_00_source_train_normal_0000_noAttribute.wav"
    path.parent.mkdir(parents=True)
    sf.write(path, 0.1 * np.random.default_rng(0).standard_normal((12_345, 2)), 16_000)
    both = label_samples([labelled.samples[0].clip, parse_clip(path, "pump", "train")])
    batch = make(both, batch_size=4).rows(0, 0, 4)
    for file, samples in zip(batch.files, batch.samples.tolist(), strict=True):
        assert samples == (12_345 if "pump" in file else 16_000)


# --- a pure function of seed, step and row ----------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_and_on_nothing_that_came_before(labelled: LabelledSamples) -> None:
    batches = make(labelled, EVERYTHING)
    forwards = [batches.rows(step, 0, 8) for step in range(6)]
    np.random.seed(99)
    random.seed(99)
    torch.manual_seed(99)
    fresh = make(labelled, EVERYTHING)
    for step in reversed(range(6)):
        assert_same(fresh.rows(step, 0, 8), forwards[step])
    assert not torch.equal(forwards[0].waveform, forwards[1].waveform)
    other_seed = make(labelled, EVERYTHING, seed=1).rows(0, 0, 8)
    assert not torch.equal(other_seed.waveform, forwards[0].waveform)


def test_drawing_batches_leaves_the_global_random_states_alone(labelled: LabelledSamples) -> None:
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    make(labelled, EVERYTHING).rows(0, 0, 8)
    depth_generator(0, 0)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist())
    assert before == after


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING])
@pytest.mark.parametrize("cuts", [(0, 4, 8), (0, 1, 2, 8), (0, 3, 5, 6, 8)])
def test_slices_of_a_batch_for_several_processes_make_the_whole_batch(
    labelled: LabelledSamples, augmentation: Augmentation, cuts: tuple[int, ...]
) -> None:
    whole = make(labelled, augmentation).rows(3, 0, 8)
    parts = [make(labelled, augmentation).rows(3, first, last) for first, last in itertools.pairwise(cuts)]
    assert sum((part.files for part in parts), ()) == whole.files
    for name, value in tensors(whole).items():
        assert torch.equal(torch.cat([tensors(part)[name] for part in parts]), value), name


def test_a_part_of_a_batch_holds_the_same_rows(labelled: LabelledSamples) -> None:
    whole = replace(make(labelled, EVERYTHING).rows(3, 0, 8), branch_keep=torch.rand(2, 2, 8))
    part = whole.part(slice(3, 6))
    assert part.files == whole.files[3:6]
    assert torch.equal(part.branch_keep, whole.branch_keep[:, :, 3:6])
    for name in tensors(whole).keys() - {"branch_keep"}:
        assert torch.equal(tensors(part)[name], tensors(whole)[name][3:6]), name


def test_the_same_sample_is_changed_differently_each_time(labelled: LabelledSamples) -> None:
    count = len(labelled.samples)
    batches = make(labelled, Augmentation(time_shift=True), batch_size=count)
    versions = []
    for step in range(3):
        row = step_samples(step, count, count, 0).index(0)
        versions.append(batches.rows(step, row, row + 1).waveform[0])
    assert not torch.equal(versions[0], versions[1])
    assert not torch.equal(versions[1], versions[2])


def test_stochastic_depth_has_a_stream_for_every_seed_and_step() -> None:
    draws = {
        (seed, step): torch.rand(4, generator=depth_generator(seed, step)) for seed in (0, 1) for step in (0, 1)
    }
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == 4
    assert torch.equal(torch.rand(4, generator=depth_generator(1, 0)), draws[1, 0])


# --- augmentations ----------------------------------------------------------------------------------------------


def test_a_time_shift_rotates_the_clip_before_it_is_padded(labelled: LabelledSamples) -> None:
    batch = make(labelled, Augmentation(time_shift=True)).rows(0, 0, 8)
    shifts = set()
    for row, index in zip(batch.waveform, step_samples(0, 8, len(labelled.samples), 0), strict=True):
        clip = original(labelled, index)
        # The shift is where the circular correlation is highest; then the samples must be the very same.
        correlation = torch.fft.irfft(torch.fft.rfft(row[:16_000]) * torch.fft.rfft(clip).conj(), n=16_000)
        shift = int(correlation.argmax())
        assert torch.equal(row[:16_000], clip.roll(shift))
        assert not row[16_000:].any()
        shifts.add(shift)
    assert len(shifts) > 4
    assert max(shifts) - min(shifts) > 4_000


def test_gain_stays_within_its_decibels_and_spreads_over_them(labelled: LabelledSamples) -> None:
    batches, gains = make(labelled, Augmentation(gain_db=6.0), batch_size=40), []
    for step in range(3):
        batch = batches.rows(step, 0, 40)
        for row, index in zip(batch.waveform, step_samples(step, 40, len(labelled.samples), 0), strict=True):
            clip = original(labelled, index)
            gain = float(row[:16_000] @ clip / (clip @ clip))
            torch.testing.assert_close(row[:16_000], gain * clip, atol=1e-6, rtol=1e-4)
            gains.append(20 * np.log10(gain))
    assert -6.0 <= min(gains) < -5.0
    assert 5.0 < max(gains) <= 6.0
    assert abs(np.mean(gains)) < 1.0
    assert len({round(float(gain), 4) for gain in gains}) > 110, "every row of every step has a gain of its own"


def test_mixup_mixes_waveforms_and_labels_in_the_same_proportion(labelled: LabelledSamples) -> None:
    batch = make(labelled, Augmentation(mixup_probability=1.0), batch_size=40).rows(0, 0, 40)
    assert batch.other_labels is not None
    assert batch.mixup_lambda is not None
    originals = [original(labelled, index) for index in range(len(labelled.samples))]
    partners = []
    chosen = step_samples(0, 40, len(labelled.samples), 0)
    for row, index, other_label, mixup_lambda in zip(
        batch.waveform, chosen, batch.other_labels.tolist(), batch.mixup_lambda.tolist(), strict=True
    ):
        rest = (row[:16_000] - mixup_lambda * originals[index]) / (1 - mixup_lambda)
        errors = [float((rest - candidate).abs().max()) for candidate in originals]
        partner = int(np.argmin(errors))
        assert errors[partner] * (1 - mixup_lambda) < 1e-6
        assert other_label == labelled.labels[partner]
        partners.append(partner)
    assert batch.labels.tolist() == [labelled.labels[index] for index in chosen]
    assert len(set(partners)) > 15
    assert batch.mixup_lambda.min() < 0.2
    assert batch.mixup_lambda.max() > 0.8


def test_mixup_leaves_the_others_whole_and_takes_the_stated_fraction_of_rows(labelled: LabelledSamples) -> None:
    batches, mixed, rows = make(labelled, Augmentation(mixup_probability=0.25), batch_size=40), 0, 0
    for step in range(10):
        batch = batches.rows(step, 0, 40)
        assert batch.other_labels is not None
        assert batch.mixup_lambda is not None
        assert batch.mixup_lambda.dtype == torch.float32
        whole = batch.mixup_lambda == 1.0
        assert torch.equal(batch.other_labels[whole], batch.labels[whole])
        for row in whole.nonzero()[:3, 0].tolist():
            index = step_samples(step, 40, len(labelled.samples), 0)[row]
            assert torch.equal(batch.waveform[row, :16_000], original(labelled, index))
        mixed, rows = mixed + int((~whole).sum()), rows + 40
    assert mixed / rows == pytest.approx(0.25, abs=0.08)


def test_a_mixed_clip_is_as_long_as_the_longer_of_both(tmp_path: Path) -> None:
    lengths = {"fan": 9_000, "pump": 15_000}
    clips = []
    for machine, length in lengths.items():
        path = tmp_path / machine / "train" / "section_00_source_train_normal_0000_noAttribute.wav"
        path.parent.mkdir(parents=True)
        sf.write(path, 0.1 * np.random.default_rng(length).standard_normal((length, 2)), 16_000)
        clips.append(parse_clip(path, machine, "train"))
    labelled = label_samples(clips)
    batch = make(labelled, Augmentation(mixup_probability=1.0), batch_size=20).rows(0, 0, 20)
    assert batch.other_labels is not None
    for own, other, samples in zip(
        batch.labels.tolist(), batch.other_labels.tolist(), batch.samples.tolist(), strict=True
    ):
        assert samples == max(lengths[labelled.classes[label].split("|")[0]] for label in (own, other))
    assert set(batch.samples.tolist()) == {9_000, 15_000}


def spans(line: Tensor) -> int:
    """How many separate runs of True a (cells,) bool tensor holds."""
    return int((line[1:] & ~line[:-1]).sum() + line[0])


@pytest.mark.parametrize(("bins", "frames"), [(20, 0), (0, 30), (20, 30), (128, 10_000)])
def test_spec_masks_cover_one_band_and_one_span_of_the_padded_spectrogram(
    labelled: LabelledSamples, bins: int, frames: int
) -> None:
    augmentation = Augmentation(frequency_mask_bins=bins, time_mask_frames=frames)
    batch = make(labelled, augmentation, batch_size=40).rows(0, 0, 40)
    assert batch.spec_mask is not None
    assert batch.spec_mask.shape == KaldiFbank()(batch.waveform).shape
    widths, lengths = [], []
    for mask in batch.spec_mask[:, 0]:
        band, span = mask.all(dim=0), mask.all(dim=1)
        whole = bool(mask.all())  # then band and span cannot be distinguished
        assert torch.equal(mask, band[None, :] | span[:, None])
        assert spans(band) <= 1
        assert spans(span) <= 1
        widths.append(0 if whole else int(band.sum()))
        lengths.append(0 if whole else int(span.sum()))
    assert max(widths) <= bins
    assert max(lengths) <= frames
    assert (max(widths) > bins / 2) == (bins > 0)
    assert (max(lengths) > min(frames, len(batch.spec_mask[0, 0])) / 2) == (frames > 0)
    assert len({tuple(row.flatten().nonzero()[:1, 0].tolist()) for row in batch.spec_mask[:, 0]}) > 5, (
        "positions differ"
    )


@pytest.mark.parametrize(("family", "shape"), [("eat", (128, 128)), ("beats", (112, 128)), ("dasheng", (124, 64))])
def test_spec_masks_have_the_shape_of_the_encoders_spectrogram(
    labelled: LabelledSamples, family: str, shape: tuple[int, int]
) -> None:
    mean, std = ENCODERS[family].fbank
    changes = {
        "encoder.family": family,
        "fbank.mean": mean,
        "fbank.std": std,
        "audio.clip_seconds": PADDED / 16_000,
    }
    recipe = load_recipe("tiny-fusion").with_changes(**changes, **{"augmentation.frequency_mask_bins": 20})
    batch = Batches(labelled, recipe).rows(0, 0, 4)
    assert batch.spec_mask is not None
    assert batch.spec_mask.shape == (4, 1, *shape)
    assert batch.spec_mask.shape == ENCODERS[family].frontend(mean, std)(batch.waveform).shape


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [0.0, 0.3, 2_000.0])
def test_the_cache_changes_nothing(labelled: LabelledSamples, megabytes: float) -> None:
    reference = make(labelled, EVERYTHING)
    cached = make(labelled, EVERYTHING, cache_megabytes=megabytes)
    for step in range(8):  # more than an epoch, so that most clips are read a second time
        assert_same(cached.rows(step, 0, 8), reference.rows(step, 0, 8))


@pytest.mark.parametrize(("megabytes", "reads"), [(2_000.0, 3), (0.2, 5), (0.0, 6)])
def test_the_cache_reads_a_clip_once_as_long_as_there_is_room(
    labelled: LabelledSamples, megabytes: float, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[Path] = Counter()

    def counting(path: Path, *_: object, **__: object) -> np.ndarray:
        counted[path] += 1
        return read_waveform(path)

    monkeypatch.setattr("nearfar.training.batches.read_views", counting)
    cache = WaveformCache(("near", "far"), megabytes, Audio(), {})  # a clip takes 2 * 16,000 * 4 bytes = 0.128 MB
    clips = list(dict.fromkeys(sample.clip for sample in labelled.samples))[:3]
    for _ in range(2):
        for clip in clips:
            cache.read(clip, "near")
    assert counted.total() == reads


def test_a_full_cache_makes_no_view_but_the_one_that_is_asked_for(
    labelled: LabelledSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []

    def noting(path: Path, views: tuple[str, ...], *others: Any, **more: Any) -> np.ndarray:
        made.append(tuple(views))
        return read_views(path, views, *others, **more)

    monkeypatch.setattr("nearfar.training.batches.read_views", noting)
    views: tuple[str, ...] = ("near", "far", "cancelled")
    cache, ample = (WaveformCache(views, size, Audio(), {}) for size in (0.0, 10.0))
    clip = labelled.samples[0].clip
    for view in views:
        assert np.array_equal(cache.read(clip, view), ample.read(clip, view))
    assert made == [views, views, ("far",), ("cancelled",)]  # both ask for near first


def test_the_cache_hands_out_the_channel_that_is_asked_for(labelled: LabelledSamples) -> None:
    clip = labelled.samples[0].clip
    near, far = read_waveform(clip.path)
    cache = WaveformCache(("far", "near"), 10.0, Audio(), {})
    for _ in range(2):
        assert np.array_equal(cache.read(clip, "near"), near)
        assert np.array_equal(cache.read(clip, "far"), far)


def test_a_clip_that_is_too_long_is_an_error_that_names_it(labelled: LabelledSamples) -> None:
    with pytest.raises(InputError, match=r"found a clip of 1 s; expected at most the recipe's 0.5 s") as error:
        make(labelled, padded_samples=8_000).rows(0, 0, 8)
    assert "train_normal" in str(error.value)


def test_a_clip_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "fan" / "train" / "section_00_source_train_normal_0000_noAttribute.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="train_normal_0000"):
        make(label_samples([parse_clip(path, "fan", "train")])).rows(0, 0, 1)
