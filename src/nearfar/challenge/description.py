"""What a submission says of its system, word by word from the recipe.

The words are those of the challenge's template where it has some; a value that does not apply is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nearfar.config import Recipe
from nearfar.data.download.catalogue import ARCHIVES
from nearfar.encoders.hub import PUBLISHED, SHORT_NAMES
from nearfar.encoders.weights import SHIPPED

DEVELOPMENT_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "dev")
EVALUATION_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "eval")

_AUDIOSET: dict[str, str | None] = {"name": "AudioSet", "url": "https://research.google.com/audioset/"}
_ESC_10: dict[str, str | None] = {"name": "ESC-10", "url": "https://github.com/karolpiczak/ESC-50"}
_POOLINGS = {
    "mean": "mean over tokens",
    "mean-std": "mean and deviation over tokens",
    "rdp": "relative deviation pooling of tokens",
    "cls": "CLS token",
}
_DENSITIES = {"ratio": "ratio to", "difference": "difference from", "varmin": "variance-minimising share of"}


def describe(recipe: Recipe, trained_on: Iterable[str]) -> dict[str, Any]:
    """The table ``system.description`` of ``<label>.meta.yaml``.

    Args:
        recipe: the system's.
        trained_on: the machines whose training clips the system was trained on.
    """
    learns = is_trained(recipe)
    shares = learns and set(trained_on) & set(DEVELOPMENT_MACHINES)
    autoencoder = recipe.method == "autoencoder"
    return {
        "input_sampling_rate": f"{recipe.audio.sample_rate_hz // 1000}kHz",
        "data_augmentation": _augmentation(recipe) if learns else None,
        "front_end": "near" if autoencoder else _front_end(recipe),
        "acoustic_features": "log-mel energies",
        "embeddings": "EAT" if uses_encoder(recipe) else None,
        "machine_learning_method": _autoencoder(recipe) if autoencoder else _method(recipe),
        "aggregation_method": "average" if autoencoder else _aggregation(recipe),
        "domain_adaptation_method": None if autoencoder else _adaptation(recipe),
        "domain_generalization_method": _generalisation(recipe),
        "ensemble_method_subsystem_count": None if autoencoder else _subsystems(recipe),
        "decision_making": _decision_making(recipe),
        "attribute_usage": "class labels in training" if learns else None,
        "external_data_usage": "pre-trained model" if external_datasets(recipe) else None,
        "development_data_usage": "model training" if shares else None,
    }


def external_datasets(recipe: Recipe) -> list[dict[str, str | None]] | None:
    """The encoder's weights and, where it is known, what they were pre-trained on; None where there are none."""
    weights = recipe.encoder.weights
    if not uses_encoder(recipe) or weights.startswith("random:"):
        return None
    weights = SHORT_NAMES.get(weights, weights)
    if weights in SHIPPED:
        return [{"name": weights, "url": None}, _AUDIOSET, _ESC_10]
    if weights in PUBLISHED:
        return [{"name": weights, "url": PUBLISHED[weights].source}, _AUDIOSET]
    is_local = Path(weights).exists() or weights.count("/") != 1
    return (
        [{"name": Path(weights).name, "url": None}]
        if is_local
        else [{"name": weights, "url": f"https://huggingface.co/{weights}"}]
    )


def uses_encoder(recipe: Recipe) -> bool:
    """Whether an encoder decides the scores; log-mel statistics go without."""
    return recipe.method == "nearest-normal" and recipe.features.source != "log-mel"


def is_trained(recipe: Recipe) -> bool:
    """Whether an encoder is fine-tuned on the machines' clips."""
    return uses_encoder(recipe) and recipe.training.adaptation != "none"


def _augmentation(recipe: Recipe) -> str | None:
    chosen = recipe.augmentation
    kinds = {
        "time shift": chosen.time_shift,
        "gain": chosen.gain_db,
        "mixup": chosen.mixup_probability,
        "far channel of other clips as noise": chosen.far_noise_probability,
        "frequency masking": chosen.frequency_mask_bins,
        "time masking": chosen.time_mask_frames,
    }
    return ", ".join(kind for kind, amount in kinds.items() if amount) or None


def _front_end(recipe: Recipe) -> str:
    views = {
        "near": "near",
        "far": "far",
        "cancelled": "near without what far predicts of it",
        "residual": f"near features less {recipe.scoring.residual_alpha:g} of far features",
    }
    heard = " and ".join(views[view] for view in recipe.scoring.channels)
    if is_trained(recipe) and len(recipe.training.channels) > 1:
        heard = f"{' and '.join(recipe.training.channels)} channel as separate samples"
    return f"{heard}, zero-padded to {recipe.audio.clip_seconds} s"


def _method(recipe: Recipe) -> str:
    if not uses_encoder(recipe):
        front = ["statistics of the log-mel spectrogram"]
    elif recipe.training.adaptation == "none":
        front = ["EAT (frozen)"]
    else:
        adapted = "LoRA" if recipe.training.adaptation == "lora" else "full fine-tuning"
        head = "AdaCos" if recipe.head.loss == "adacos" else "ArcFace"
        centres = f" with {recipe.head.sub_centres} sub-centres" if recipe.head.sub_centres > 1 else ""
        front = [f"EAT ({adapted})", f"{head}{centres}"]
        if recipe.training.pseudo_labels:
            front.append("pseudo-labels by clustering")
    return ", ".join([*front, "k-NN"])


def _autoencoder(recipe: Recipe) -> str:
    return "AE, selective Mahalanobis distance" if recipe.autoencoder.score == "mahala" else "AE"


def _aggregation(recipe: Recipe) -> str:
    features, scoring = recipe.features, recipe.scoring
    if features.source == "embedding":
        pooled = "attentive statistics pooling"
    elif features.source == "tokens":
        pooled = _POOLINGS[features.pooling]
    else:
        pooled = "mean and deviation over time"
    steps = [pooled + " per frequency band" * features.keep_bands]
    if scoring.normalisation != "none":
        steps.append(f"distance as {_DENSITIES[scoring.normalisation]} the density of normal clips")
    if len(scoring.channels) > 1:
        fused = "standardised " if scoring.fusion == "standardised" else ""
        steps.append(f"average of {fused}{' and '.join(scoring.channels)} scores")
    return ", ".join(steps)


def _adaptation(recipe: Recipe) -> str | None:
    return {"none": None, "memmix": "MemMixup", "smote": "SMOTE"}[recipe.scoring.enrichment]


def _generalisation(recipe: Recipe) -> str | None:
    if recipe.method == "autoencoder":
        is_mahala = recipe.autoencoder.score == "mahala"
        return "covariance of each domain, smaller distance" if is_mahala else None
    means = []
    if is_trained(recipe):
        means.append("domain in the class labels")
        means += ["target domain drawn more often"] * (recipe.training.target_share > 0)
    domains = {
        "pooled": [],
        "separate": ["bank of each domain, smaller distance"],
        "standardised": ["bank of each domain, smaller distance in units of the domain's median"],
    }
    return ", ".join(means + domains[recipe.scoring.domains]) or None


def _subsystems(recipe: Recipe) -> int | None:
    return len(recipe.scoring.channels) if len(recipe.scoring.channels) > 1 else None


def _decision_making(recipe: Recipe) -> str:
    scores = f"quantile {recipe.decision.quantile:g} of "
    scores += "a gamma distribution fitted to " if recipe.decision.threshold == "gamma" else ""
    return scores + "the scores of normal training clips"
