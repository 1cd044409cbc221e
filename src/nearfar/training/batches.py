"""Batches of fine-tuning as a pure function of recipe and step.

The samples of a step and every random change to them are functions of (seed, step, row). A resumed training
therefore has the batches of an uninterrupted one, and several processes divide one batch among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar.config import Audio, Recipe
from nearfar.data.audio import zero_pad
from nearfar.data.clips import Clip
from nearfar.encoders import ENCODERS
from nearfar.training.labels import LabelledSamples
from nearfar.views import read_views
from nearfar.views.base import ViewSettings

_ORDER, _ROW, _DEPTH, _BALANCE = 0, 1, 2, 3
"""Purposes of random streams; each stream is seeded by (seed, purpose, ...)."""


@dataclass(frozen=True)
class Batch:
    """Rows of one optimiser step.

    Attributes:
        waveform: (rows, padded samples) float32 at 16 kHz, or (rows, signals, padded samples).
        samples: (rows,) int64, lengths before padding.
        labels: (rows,) int64, the first labels.
        other_labels: (rows,) int64, the second labels of mixed samples, or None without mixup.
        mixup_lambda: (rows,) float32, the weight of the first sample and label of a mixture, or None.
        spec_mask: (rows, 1, frames, mel bins) bool, spectrogram cells to set to zero, or None.
        files: the recording of each row.
        branch_keep: (depth, 2, rows) float32, factors of stochastic depth, or None.
    """

    waveform: Tensor
    samples: Tensor
    labels: Tensor
    other_labels: Tensor | None
    mixup_lambda: Tensor | None
    spec_mask: Tensor | None
    files: tuple[str, ...]
    branch_keep: Tensor | None = None

    def part(self, rows: slice) -> Batch:
        """The batch of some of the rows."""
        cut: dict[str, Any] = {name: None if value is None else value[rows] for name, value in vars(self).items()}
        if self.branch_keep is not None:
            cut["branch_keep"] = self.branch_keep[:, :, rows]
        return Batch(**cut)


class WaveformCache:
    """Cache of the views of training clips in memory, up to a limit: small data sets are read only once."""

    def __init__(self, views: tuple[str, ...], megabytes: float, audio: Audio, settings: ViewSettings) -> None:
        self._views, self._audio, self._settings = views, audio, settings
        self._free = int(megabytes * 1e6)
        self._waveforms: dict[Clip, NDArray[np.float32]] = {}
        self._full = False
        self._lock = Lock()

    def read(self, clip: Clip, view: str) -> NDArray[np.float32]:
        """(samples,) float32 of one view, or (signals, samples)."""
        waveforms, was_full = self._waveforms.get(clip), self._full
        if waveforms is None:
            waveforms = read_views(
                clip.path,
                (view,) if was_full else self._views,
                self._settings,
                sample_rate_hz=self._audio.sample_rate_hz,
                near=self._audio.near_channel,
                far=self._audio.far_channel,
            )
            if was_full:  # the other views would not be cached either
                return np.asarray(waveforms[0])
            with self._lock:
                if clip not in self._waveforms:
                    self._full = self._full or waveforms.nbytes > self._free
                    if waveforms.nbytes <= self._free:
                        self._waveforms[clip] = waveforms
                        self._free -= waveforms.nbytes
        return np.asarray(waveforms[self._views.index(view)])


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)


def step_samples(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Indices of the samples of one step: one permutation of all samples per epoch, cut into batches."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(_epoch_order(seed, position // count, count)[position % count]) for position in positions]


def torch_seed(*key: int) -> int:
    """A seed for torch, of 63 bits, that is a function of some integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def depth_generator(seed: int, step: int) -> torch.Generator:
    """The random generator of stochastic depth at one step."""
    return torch.Generator().manual_seed(torch_seed(seed, _DEPTH, step))


class Batches:
    """The batches of a fine-tuning.

    Args:
        labelled: training samples and classes.
        recipe: resolved, so ``audio.clip_seconds``, the length of every row, is a number.
        cache_megabytes: limit of the waveform cache.
    """

    def __init__(self, labelled: LabelledSamples, recipe: Recipe, cache_megabytes: float = 2_000.0) -> None:
        audio, augmentation = recipe.audio, recipe.augmentation
        assert not isinstance(audio.clip_seconds, str), "audio.clip_seconds must be resolved to a number"
        self.labelled, self.recipe, self.augmentation = labelled, recipe, augmentation
        seconds = augmentation.crop_seconds or audio.clip_seconds
        self.padded_samples, self.seed = round(seconds * audio.sample_rate_hz), recipe.seed
        views = tuple(dict.fromkeys(sample.view for sample in labelled.samples))
        if augmentation.far_noise_probability > 0 and "far" not in views:
            views = (*views, "far")
        self._targets = [i for i, sample in enumerate(labelled.samples) if sample.clip.domain == "target"]
        self._clips_by_machine: dict[str, list[Clip]] = {}
        for clip in dict.fromkeys(sample.clip for sample in labelled.samples):
            self._clips_by_machine.setdefault(clip.machine, []).append(clip)
        self._masks = augmentation.frequency_mask_bins > 0 or augmentation.time_mask_frames > 0
        self._spectrogram_shape = _spectrogram_shape(recipe, self.padded_samples) if self._masks else (0, 0)
        self._cache = WaveformCache(views, cache_megabytes, audio, recipe.view_settings())

    def rows(self, step: int, first: int, last: int) -> Batch:
        """Rows ``first`` to ``last`` (exclusive) of a step's batch.

        Raises:
            InputError: if a recording cannot be read or is longer than the recipe's clip length.
        """
        batch_size, count = self.recipe.training.batch_size, len(self.labelled.samples)
        ordered = step_samples(step, batch_size, count, self.seed)[first:last]
        chosen = [self._balanced(step, row, index) for row, index in enumerate(ordered, start=first)]
        rows = [self._row(step, row, index) for row, index in enumerate(chosen, start=first)]
        waveforms, samples, other_labels, mixup_lambdas, spec_masks = zip(*rows, strict=True)
        mixed = self.augmentation.mixup_probability > 0
        return Batch(
            waveform=torch.from_numpy(np.stack(waveforms)),
            samples=torch.tensor(samples),
            labels=torch.tensor([self.labelled.labels[index] for index in chosen]),
            other_labels=torch.tensor(other_labels) if mixed else None,
            mixup_lambda=torch.tensor(mixup_lambdas, dtype=torch.float32) if mixed else None,
            spec_mask=torch.from_numpy(np.stack(spec_masks)) if self._masks else None,
            files=tuple(str(self.labelled.samples[index].clip.path) for index in chosen),
        )

    def _balanced(self, step: int, row: int, index: int) -> int:
        """``index``, or, with probability ``training.target_share``, the index of a random target sample."""
        target_share = self.recipe.training.target_share
        if target_share == 0.0 or not self._targets:
            return index
        random = np.random.default_rng((self.seed, _BALANCE, step, row))
        if random.random() >= target_share:
            return index
        return self._targets[int(random.integers(len(self._targets)))]

    def _row(
        self, step: int, row: int, index: int
    ) -> tuple[NDArray[np.float32], int, int, float, NDArray[np.bool_]]:
        """Waveform, length, second label, weight of the first and spectrogram mask of a row of :class:`Batch`."""
        random = np.random.default_rng((self.seed, _ROW, step, row))
        waveform, samples = self._augmented(index, random)
        other_label, mixup_lambda = self.labelled.labels[index], 1.0
        if random.random() < self.augmentation.mixup_probability:
            other = int(random.integers(len(self.labelled.samples)))
            other_waveform, other_samples = self._augmented(other, random)
            other_label, mixup_lambda = self.labelled.labels[other], random.random()
            waveform = np.float32(mixup_lambda) * waveform + np.float32(1.0 - mixup_lambda) * other_waveform
            samples = max(samples, other_samples)
        return waveform, samples, other_label, mixup_lambda, self._spec_mask(random)

    def _augmented(self, index: int, random: np.random.Generator) -> tuple[NDArray[np.float32], int]:
        sample = self.labelled.samples[index]
        waveform = self._cache.read(sample.clip, sample.view)
        if self.augmentation.time_shift:
            waveform = np.roll(waveform, int(random.integers(waveform.shape[-1])), axis=-1)
        if self.augmentation.crop_seconds is not None and waveform.shape[-1] > self.padded_samples:
            begin = int(random.integers(waveform.shape[-1] - self.padded_samples + 1))
            waveform = waveform[..., begin : begin + self.padded_samples]
        probability = self.augmentation.far_noise_probability
        # Probability 0 draws no number, so that a disabled augmentation leaves other draws unchanged.
        if sample.view != "far" and probability > 0 and random.random() < probability:
            waveform = self._with_far_noise(waveform, sample.clip, random)
        if self.augmentation.gain_db > 0:
            decibels = random.uniform(-self.augmentation.gain_db, self.augmentation.gain_db)
            waveform = waveform * np.float32(10.0 ** (decibels / 20.0))
        return zero_pad(waveform, self.padded_samples, sample.clip.path), waveform.shape[-1]

    def _with_far_noise(
        self, waveform: NDArray[np.float32], clip: Clip, random: np.random.Generator
    ) -> NDArray[np.float32]:
        """The waveform plus the far channel of another clip of the machine at a random signal-to-noise ratio."""
        others = self._clips_by_machine[clip.machine]
        chosen = int(random.integers(len(others)))
        if others[chosen] == clip:
            chosen = (chosen + 1) % len(others)
        noise = self._cache.read(others[chosen], "far")
        noise = np.resize(np.roll(noise, int(random.integers(len(noise)))), waveform.shape[-1])
        snr_db = random.uniform(*self.augmentation.far_noise_snr_db)
        gain = rms(waveform) / rms(noise) * 10.0 ** (-snr_db / 20.0)
        return waveform + np.float32(gain) * noise

    def _spec_mask(self, random: np.random.Generator) -> NDArray[np.bool_]:
        frames, bins = self._spectrogram_shape
        mask = np.zeros((1, frames, bins), dtype=np.bool_)
        mask[:, :, _span(random, self.augmentation.frequency_mask_bins, bins)] = True
        mask[:, _span(random, self.augmentation.time_mask_frames, frames)] = True
        return mask


def _spectrogram_shape(recipe: Recipe, padded_samples: int) -> tuple[int, int]:
    """Frames and mel bins of the padded rows, as the front end of the encoder makes them."""
    family = ENCODERS[recipe.encoder.family]
    frontend = family.frontend(recipe.fbank.mean, recipe.fbank.std)
    shape = (1, padded_samples) if family.signals == 1 else (1, family.signals, padded_samples)
    frames, bins = frontend(torch.zeros(shape)).shape[-2:]
    return int(frames), int(bins)


def rms(waveform: NDArray[np.floating]) -> float:
    """Root mean square of (samples,), at least 1e-9."""
    return max(float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))), 1e-9)


def _span(random: np.random.Generator, widest: int, size: int) -> slice:
    """A random span of 0 to ``widest`` cells inside ``size`` (SpecAugment, Park et al., Interspeech 2019)."""
    width = int(random.integers(min(widest, size) + 1))
    first = int(random.integers(size - width + 1))
    return slice(first, first + width)
