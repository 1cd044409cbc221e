"""The time, memory and disk space that the systems of a suite will take, before anything is computed.

Estimates, from the matrix products of the encoder alone:

* time: a training step takes three times the operations of a forward pass (Kaplan et al. 2020, section 2.1), at
  the rate of a plain matrix product on the device times :data:`EFFICIENCY`;
* memory of training: four bytes of every parameter, twelve more of every one that is trained (gradient and AdamW's
  moments), and the activations of a batch, ``tokens * dim * (34 + 5 * heads * tokens / dim)`` bytes per block and
  sample in 16 bits (Korthikanti et al. 2022, equation 2), twice that in 32 bits. Attention that does not keep its
  matrices needs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from nearfar.config import Recipe
from nearfar.data import Dataset
from nearfar.data.audio import SAMPLE_RATE_HZ, AudioHeader
from nearfar.data.download.catalogue import ARCHIVES
from nearfar.encoders import ENCODERS, load_encoder
from nearfar.encoders.adaptation import LoraSettings
from nearfar.encoders.eat import EAT_BASE, EATConfig, encoder_flops
from nearfar.errors import InputError
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe
from nearfar.progress import duration
from nearfar.rendering import TextRow, TextTable

EFFICIENCY = 0.5
"""Rate of training and of embedding relative to that of a plain matrix product."""
FRAMES_PER_SECOND = 100
BASE_PARAMETERS, LORA_SHARE = 88_000_000, 0.05
"""Of EAT-base, and the part of parameters that LoRA trains, about."""
_AE_PARAMETERS, _AE_FRAMES_PER_SECOND = 270_000, 31.25
_TRAINING, _TEST = 1_000, 200
"""Clips of a machine in the DCASE 2026 archives."""
_BYTES_PER_SECOND = 2 * 2 * SAMPLE_RATE_HZ
"""Of two channels of 16 bits; the archives hardly compress them."""


class Amount(NamedTuple):
    """How much there is to train on and to score."""

    training: int
    test: int
    mean_seconds: float
    longest_seconds: float
    machines: int
    source: str


def amount_of(dataset: Dataset) -> Amount:
    """Of recordings that are there."""
    headers = [header for header in dataset.headers().values() if isinstance(header, AudioHeader)]
    seconds = [header.seconds for header in headers] or [0.0]
    training = len(dataset.select(split="train").clips)
    mean = sum(seconds) / len(seconds)
    tests = len(dataset.clips) - training
    return Amount(training, tests, mean, max(seconds), len(dataset.machines), f"the recordings in {dataset.root}")


def amount_of_archives() -> Amount:
    """Of the development set of DCASE 2026, from the listing of its archives."""
    archives = [archive for archive in ARCHIVES if archive.part == "dev"]
    count, clips = len(archives), _TRAINING + _TEST
    seconds = sum(archive.about_bytes for archive in archives) / (count * clips) / _BYTES_PER_SECOND
    return Amount(
        count * _TRAINING, count * _TEST, seconds, 16.0, count, "the listing of the archives of DCASE 2026"
    )


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What a system takes for one seed, or ``once`` for all; nothing to train where another one has the model."""

    name: str
    trains: bool
    steps: int
    training_s: float
    scoring_s: float
    memory_bytes: float
    disk_bytes: float
    once: bool = False


def plan_rows(
    recipes: Sequence[Recipe], amount: Amount, flops_per_second: float, layers: NoiseAwareRecipe | None = None
) -> list[PlanRow]:
    """The rows of a plan, for one seed.

    Args:
        recipes: the systems.
        amount: of recordings.
        flops_per_second: rate of a plain matrix product on the device.
        layers: the recipe by which noise-aware layers are pre-trained before.
    """
    rows = [] if layers is None else [_of_layers(layers, flops_per_second)]
    embedded: dict[str, set[str]] = {}  # views by model
    for recipe in recipes:
        key = recipe.model_key()
        is_shared = key in embedded and (recipe.trains or recipe.backend.trains)
        views = set(recipe.scoring.views) - embedded.setdefault(key, set())
        embedded[key] |= views
        row = _of_autoencoder if recipe.backend.trains else partial(_of_encoder, views=len(views))
        rows.append(row(recipe, amount, flops_per_second, is_shared))
    return rows


def _of_layers(recipe: NoiseAwareRecipe, rate: float) -> PlanRow:
    """Near, far and clean sound pass the frozen blocks, gradients those of near: five forward passes a step."""
    config, parameters = _sizes(recipe.encoder.weights)
    steps, batch = recipe.training.steps, recipe.training.batch_size
    frames = round(recipe.crop_seconds * FRAMES_PER_SECOND)
    forward = encoder_flops(config, frames)
    return PlanRow(
        name="noise-aware layers",
        trains=True,
        steps=steps,
        training_s=steps * batch * 5 * forward / (rate * EFFICIENCY),
        scoring_s=0.0,
        memory_bytes=parameters * (4 + 16) + 2 * batch * _activations(config, frames),
        disk_bytes=parameters * 4 * 4,
        once=True,
    )


def _of_encoder(recipe: Recipe, amount: Amount, rate: float, is_shared: bool, views: int) -> PlanRow:
    """``views`` is the number of those that no system before has embedded with this model."""
    config, parameters = _sizes(recipe.encoder.weights)
    clip = recipe.audio.clip_seconds
    seconds = amount.longest_seconds if clip == "longest" else float(clip)
    training = recipe.training
    frames = round((recipe.augmentation.crop_seconds or seconds) * FRAMES_PER_SECOND)
    signals = ENCODERS[recipe.encoder.family].signals
    step = 3 * signals * training.batch_size * encoder_flops(config, frames)
    clips = (amount.training + amount.test) * views * signals
    embedding = clips * encoder_flops(config, round(seconds * FRAMES_PER_SECOND))
    trains = recipe.trains and not is_shared
    share = LORA_SHARE if isinstance(recipe.adaptation_settings(), LoraSettings) else 1.0
    activations = signals * training.batch_size * _activations(config, frames)
    return PlanRow(
        name=recipe.name,
        trains=trains,
        steps=training.steps if trains else 0,
        training_s=training.steps * step / (rate * EFFICIENCY) if trains else 0.0,
        scoring_s=embedding / (rate * EFFICIENCY),
        memory_bytes=parameters * (4 + 12 * share) + activations if recipe.trains else 8 * parameters,
        disk_bytes=parameters * 4 * share * (4 if trains else 0),
    )


def _activations(config: EATConfig, frames: int) -> float:
    """Bytes that one sample keeps for the backward pass, in 32 bits."""
    tokens, dim = frames // config.patch_size * config.bands + 1, config.embed_dim
    return 2 * config.depth * tokens * dim * (34 + 5 * config.num_heads * tokens / dim)


def _of_autoencoder(recipe: Recipe, amount: Amount, rate: float, is_shared: bool) -> PlanRow:
    frames, settings = amount.training * amount.mean_seconds * _AE_FRAMES_PER_SECOND, recipe.backend_settings()
    operations = 0 if is_shared else 6 * _AE_PARAMETERS * frames * settings.epochs
    return PlanRow(
        name=recipe.name,
        trains=not is_shared,
        steps=0 if is_shared else round(frames / settings.batch_size * settings.epochs),
        training_s=operations / (rate * EFFICIENCY),
        scoring_s=2 * _AE_PARAMETERS * frames * 1.2 / (rate * EFFICIENCY),
        memory_bytes=640 * 4 * frames / max(amount.machines, 1),
        disk_bytes=4 * _AE_PARAMETERS * amount.machines,
    )


def _sizes(weights: str) -> tuple[EATConfig, int]:
    """Of an encoder; of EAT-base where its weights are not there yet."""
    if weights.startswith("random:") or "/" not in weights:
        try:
            network = load_encoder(weights)
        except InputError:
            return EAT_BASE, BASE_PARAMETERS
        config = getattr(network, "config", None)
        if isinstance(config, EATConfig):
            return config, sum(parameter.numel() for parameter in network.parameters())
    return EAT_BASE, BASE_PARAMETERS


def plan_table(
    rows: Sequence[PlanRow], amount: Amount, seeds: int, device: str, flops_per_second: float
) -> TextTable:
    """The plan as text; all seeds in its last row."""
    body = [
        TextRow(
            (
                row.name,
                f"{row.steps:,}" if row.trains else "",
                duration(row.training_s) if row.trains else "",
                duration(row.scoring_s),
                _size(row.memory_bytes),
            )
        )
        for row in rows
    ]
    times = [1 if row.once else seeds for row in rows]
    training = sum(count * row.training_s for count, row in zip(times, rows, strict=True))
    scoring = sum(count * row.scoring_s for count, row in zip(times, rows, strict=True))
    memory = max((row.memory_bytes for row in rows), default=0.0)
    steps = sum(count * row.steps for count, row in zip(times, rows, strict=True))
    total = (
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        f"{steps:,}",
        duration(training),
        duration(scoring),
        _size(memory),
    )
    body[-1] = body[-1]._replace(ends_group=True)
    disk = sum(count * row.disk_bytes for count, row in zip(times, rows, strict=True))
    notes = (
        f"Estimated for {amount.training:,} training and {amount.test:,} test clips of {amount.machines} machines "
        f"({amount.source}) on {device}, whose plain matrix product takes {flops_per_second / 1e9:,.0f} GFLOP/s; "
        f"training is taken to reach {EFFICIENCY:.0%} of it.",
        f"In all about {duration(training + scoring)}, and {_size(disk)} of disk space for models and states.",
    )
    return TextTable(
        ("system", "steps", "training", "scoring", "memory"), (*body, TextRow(total, "strong")), notes=notes
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
