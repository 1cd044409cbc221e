"""The description of a system in a submission, from its recipe.

Values are those of the challenge's template where it lists some, and None where they do not apply. Poolings,
losses, back-ends, views and threshold rules are described by their entries in the tables of choices.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nearfar.config import Recipe
from nearfar.data.download.catalogue import ARCHIVES
from nearfar.encoders import SPEEDUPS
from nearfar.encoders.hub import PUBLISHED, SHORT_NAMES
from nearfar.encoders.weights import SHIPPED
from nearfar.pipeline.preparation import RUN
from nearfar.registry import Entry
from nearfar.scoring import FUSIONS
from nearfar.thresholds import RULES
from nearfar.views import VIEWS

DEVELOPMENT_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "dev")
EVALUATION_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "eval")

_AUDIOSET: dict[str, str | None] = {"name": "AudioSet", "url": "https://research.google.com/audioset/"}
_ESC_10: dict[str, str | None] = {"name": "ESC-10", "url": "https://github.com/karolpiczak/ESC-50"}


def describe(recipe: Recipe, trained_on: Iterable[str], rules: Iterable[str] = ()) -> dict[str, Any]:
    """The table ``system.description`` of ``<label>.meta.yaml``.

    Args:
        recipe: the system's.
        trained_on: the machines whose training clips the system was trained on.
        rules: the threshold rules of the decisions, which differ from the recipe's where its rule found no
            threshold; by default the recipe's.
    """
    shares = recipe.trains and set(trained_on) & set(DEVELOPMENT_MACHINES)
    return {
        "input_sampling_rate": f"{recipe.audio.sample_rate_hz // 1000}kHz",
        "data_augmentation": _augmentation(recipe) if recipe.trains else None,
        "front_end": _front_end(recipe),
        "acoustic_features": "log-mel energies",
        "embeddings": recipe.encoder.entry("family").description if recipe.uses_encoder else None,
        "machine_learning_method": _method(recipe),
        "aggregation_method": _aggregation(recipe),
        "domain_adaptation_method": recipe.backend.domain_adaptation(recipe.backend_settings()),
        "domain_generalization_method": _generalisation(recipe),
        "ensemble_method_subsystem_count": len(recipe.scoring.views) if len(recipe.scoring.views) > 1 else None,
        "decision_making": _decision_making(recipe, rules),
        "attribute_usage": "class labels in training" if recipe.trains else None,
        "external_data_usage": "pre-trained model" if external_datasets(recipe) else None,
        "development_data_usage": "model training" if shares else None,
    }


def external_datasets(recipe: Recipe) -> list[dict[str, str | None]] | None:
    """The encoder's weights and their pre-training data sets, if known; None without pre-trained weights."""
    weights = recipe.encoder.weights
    if not recipe.uses_encoder or weights.startswith("random:"):
        return None
    weights = SHORT_NAMES.get(weights, weights)
    if weights in SHIPPED:
        return [{"name": weights, "url": None}, _AUDIOSET, _ESC_10]
    if weights in PUBLISHED:
        return [{"name": weights, "url": PUBLISHED[weights].source}, _AUDIOSET]
    if Path(weights).exists() or weights.count("/") != 1:
        return [{"name": Path(weights).name, "url": None}]
    return [{"name": weights, "url": f"https://huggingface.co/{weights}"}]


def _augmentation(recipe: Recipe) -> str | None:
    chosen = recipe.augmentation
    amounts = {
        "time shift": chosen.time_shift,
        "gain": chosen.gain_db,
        "mixup": chosen.mixup_probability,
        "far channel of other clips as noise": chosen.far_noise_probability,
        "frequency masking": chosen.frequency_mask_bins,
        "time masking": chosen.time_mask_frames,
    }
    return ", ".join(kind for kind, amount in amounts.items() if amount) or None


def _front_end(recipe: Recipe) -> str:
    settings = recipe.view_settings()
    if recipe.trains and len(recipe.training.views) > 1:
        views = f"{' and '.join(recipe.training.views)} channel as separate samples"
    else:
        views = " and ".join(VIEWS[name].described(settings[name]) for name in recipe.scoring.views)
    if recipe.backend.per_machine:
        return views
    return f"{views}, zero-padded to {recipe.audio.clip_seconds} s"


def _method(recipe: Recipe) -> str:
    backend = recipe.backend.described(recipe.backend_settings())
    if recipe.backend.trains:
        return backend
    if not recipe.uses_encoder:
        return f"{recipe.features.entry('source').description}, {backend}"
    encoder = recipe.encoder.entry("family").description
    adaptation: Entry = recipe.training.entry("adaptation")
    parts = [f"{encoder} ({adaptation.described(recipe.adaptation_settings())})"]
    if recipe.trains:
        parts.append(recipe.head.entry("loss").described(recipe.head.settings_of("loss")))
        if recipe.training.pseudo_labels:
            parts.append("pseudo-labels by clustering")
    speedups = recipe.inference
    parts += [SPEEDUPS[name].described(speedups.settings_of("speedups", name)) for name in speedups.speedups]
    return ", ".join([*parts, backend])


def _aggregation(recipe: Recipe) -> str:
    source = recipe.features.entry("source")
    if recipe.trains and source.needs_head(recipe.features.settings_of("source")):
        pooling = recipe.head.entry("pooling")
        steps = [pooling.described(recipe.head.settings_of("pooling"))]
    else:
        steps = [source.aggregation(recipe.features.settings_of("source"))]
    if (words := recipe.backend.aggregation(recipe.backend_settings())) is not None:
        steps.append(words)
    if len(recipe.scoring.views) > 1:
        steps.append(f"{FUSIONS[recipe.scoring.fusion].description} {' and '.join(recipe.scoring.views)} scores")
    return ", ".join(steps)


def _generalisation(recipe: Recipe) -> str | None:
    methods = {
        "domain in the class labels": recipe.trains,
        "target domain drawn more often": recipe.trains and recipe.training.target_share > 0,
        recipe.backend.domain_generalisation(recipe.backend_settings()): True,
    }
    return ", ".join(name for name, is_used in methods.items() if name and is_used) or None


def _decision_making(recipe: Recipe, rules: Iterable[str]) -> str:
    threshold = RUN.completed(recipe.threshold)
    used = list(dict.fromkeys(rules)) or [str(threshold.rule)]
    return "; ".join(RULES[rule].described(threshold) for rule in used if rule in RULES)
