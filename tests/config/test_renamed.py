"""Recipes of earlier versions: every key of then is read as what it is called today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.config.renamed import MOVED, modernised
from nearfar.errors import InputError
from nearfar.files import SIGNATURE
from nearfar.models import load_model

OLD_KEYS: dict[tuple[str, str], tuple[Any, str]] = {
    ("training", "channels"): (["far"], "training.views"),
    ("scoring", "channels"): (["far", "near"], "scoring.views"),
    ("detection", "hop_seconds"): (2.5, "audio.hop_seconds"),
    ("detection", "calibration"): ("split", "calibration.method"),
    ("detection", "held_out"): (0.4, "calibration.held_out"),
    ("detection", "threshold"): ("gamma", "threshold.rule"),
    ("detection", "false_alarm_rate"): (0.07, "threshold.false_alarm_rate"),
    ("detection", "domains"): ("separate", "threshold.domains"),
    ("decision", "threshold"): ("empirical", "threshold.rule"),
}
"""By table and key of then: a value, and the key of today."""


def value_of(recipe: Recipe, dotted: str) -> Any:
    node: Any = recipe.model_dump(mode="json")
    for part in dotted.split("."):
        node = node[part]
    return node


def write(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(tree), encoding="utf-8")
    return path


def test_every_renamed_key_is_tested() -> None:
    assert set(OLD_KEYS) == set(MOVED)
    assert {key: today for key, (_, today) in OLD_KEYS.items()} == {
        key: ".".join(today) for key, today in MOVED.items()
    }


@pytest.mark.parametrize(("table", "key"), OLD_KEYS, ids=lambda name: str(name))
def test_an_old_key_is_read_from_a_file_a_change_and_a_tree(table: str, key: str, tmp_path: Path) -> None:
    value, today = OLD_KEYS[table, key]
    expected = load_recipe("eat-fusion").with_changes(**{today: value})
    assert value_of(expected, today) == value != value_of(load_recipe("eat-fusion"), today)
    file = write(tmp_path / "old.toml", {"extends": "eat-fusion", table: {key: value}})
    assert load_recipe(file) == expected
    assert load_recipe("eat-fusion").with_changes(**{f"{table}.{key}": value}) == expected
    tree = {"name": "old", table: {key: value}}
    assert value_of(Recipe.model_validate(tree), today) == value
    assert tree == {"name": "old", table: {key: value}}, "the tree that is read stays as it is"


@pytest.mark.parametrize("quantile", [0.9, 0.95, 0.5])
def test_a_quantile_is_one_minus_the_false_alarm_rate(quantile: float, tmp_path: Path) -> None:
    file = write(tmp_path / "old.toml", {"extends": "eat-near", "decision": {"quantile": quantile}})
    for recipe in (load_recipe(file), load_recipe("eat-near").with_changes(**{"decision.quantile": quantile})):
        assert recipe.threshold.false_alarm_rate == round(1 - quantile, 6)
        assert recipe.threshold.quantile == pytest.approx(quantile, abs=1e-12)


def test_the_old_method_is_a_back_end(tmp_path: Path) -> None:
    file = write(
        tmp_path / "old.toml",
        {
            "name": "ae-mse",
            "description": load_recipe("ae-mse").description,
            "method": "autoencoder",
            "seed": 13711,
            "audio": {"clip_seconds": "longest"},
            "scoring": {"channels": ["near"]},
            "training": {"channels": ["near"]},
            "autoencoder": {"epochs": 100, "score": "mse"},
        },
    )
    recipe, today = load_recipe(file), load_recipe("ae-mse")
    assert recipe == today.with_changes(**{"training.views": ["near"]})
    assert (recipe.scoring.backend, recipe.features.source, recipe.training.adaptation) == (
        "autoencoder",
        "slaney",
        "none",
    )
    assert recipe.model_key() == today.model_key()
    assert load_recipe("eat-near").with_changes(method="nearest-normal") == load_recipe("eat-near")
    changed = load_recipe("eat-near").with_changes(method="autoencoder")
    assert changed.scoring.backend == "autoencoder"
    with pytest.raises(InputError, match="the unknown key method"):
        load_recipe("eat-near").with_changes(method="nearest-normals")


OLD_TREE: dict[str, Any] = {
    "name": "tiny-fusion",
    "description": "System 1 with the tiny EAT from a random start: for small machines and data sets, not the "
    "report's.",
    "method": "nearest-normal",
    "seed": 0,
    "audio": {"sample_rate_hz": 16000, "clip_seconds": "longest", "near_channel": 0, "far_channel": 1},
    "cancellation": {
        "window_samples": 1024,
        "hop_samples": 512,
        "smooth_frames": None,
        "smooth_bins": 0,
        "taps": 1,
        "gain_limit": None,
        "delay_search_ms": 0.0,
    },
    "fbank": {"mean": -4.268, "std": 1.5},
    "encoder": {"weights": "random:tiny", "revision": None, "mask_padding": False, "drop_path": 0.0},
    "head": {
        "attention_dim": 128,
        "embedding_dim": 256,
        "scale": 30.0,
        "margin": 0.3,
        "loss": "arcface",
        "sub_centres": 1,
        "trainable_centres": True,
    },
    "lora": {"rank": 64, "alpha": 8.0, "dropout": 0.0, "targets": ["attn.qkv", "attn.proj"]},
    "training": {
        "adaptation": "full",
        "channels": ["near", "far"],
        "steps": 600,
        "batch_size": 16,
        "micro_batch_size": None,
        "learning_rate": 0.0005,
        "final_learning_rate": 2e-05,
        "warmup_steps": 30,
        "weight_decay": 0.05,
        "betas": [0.9, 0.95],
        "clip_norm": None,
        "precision": "auto",
        "target_share": 0.0,
        "pseudo_labels": 0,
        "activation_checkpointing": False,
        "checkpoint_every": 50,
        "loader_threads": 2,
    },
    "augmentation": {
        "time_shift": True,
        "gain_db": 0.0,
        "mixup_probability": 0.0,
        "far_noise_probability": 0.0,
        "far_noise_snr_db": [5.0, 20.0],
        "frequency_mask_bins": 0,
        "time_mask_frames": 0,
    },
    "features": {
        "source": "embedding",
        "layers": None,
        "average_layers": False,
        "pooling": "mean",
        "rdp_gamma": 4.0,
        "keep_bands": False,
        "lags": [],
        "remove_level": True,
    },
    "scoring": {
        "channels": ["near", "far"],
        "residual_alpha": 0.5,
        "distance": "cosine",
        "neighbours": 1,
        "shared_neighbour": False,
        "normalisation": "none",
        "density_neighbours": 4,
        "target_density_neighbours": 9,
        "domains": "pooled",
        "enrichment": "none",
        "memmix_lambda": 0.9,
        "memmix_sources": 990,
        "smote_neighbours": 2,
        "smote_ratio": 0.2,
        "prototypes": None,
        "fusion": "mean",
        "batch_size": 16,
    },
    "decision": {"threshold": "gamma", "quantile": 0.9},
    "detection": {
        "calibration": "leave-one-out",
        "held_out": 0.3,
        "threshold": "conformal",
        "false_alarm_rate": 0.05,
        "domains": "pooled",
        "hop_seconds": None,
    },
    "autoencoder": {
        "epochs": 100,
        "batch_size": 256,
        "learning_rate": 0.001,
        "validation_fraction": 0.1,
        "score": "mse",
        "textbook": False,
    },
}
"""The recipe tiny-fusion as earlier versions wrote it beside results, in models and in detectors."""


def old_tree(decision: dict[str, Any] | None = None, detection: dict[str, Any] | None = None) -> dict[str, Any]:
    return OLD_TREE | {
        "decision": OLD_TREE["decision"] | (decision or {}),
        "detection": OLD_TREE["detection"] | (detection or {}),
    }


@pytest.mark.parametrize(
    ("decision", "detection", "rule", "rate"),
    [
        ({}, {}, None, None),  # today's defaults depend on what is made: those of runs and of detectors are these
        ({"threshold": "empirical"}, {}, "empirical", 0.1),
        ({"quantile": 0.8}, {}, "gamma", 0.2),
        ({}, {"false_alarm_rate": 0.02}, "conformal", 0.02),
        ({}, {"threshold": "empirical", "false_alarm_rate": 0.2}, "empirical", 0.2),
        ({"quantile": 0.8}, {"false_alarm_rate": 0.02}, "conformal", 0.02),  # of both, the detector's pair
    ],
)
def test_of_two_old_tables_of_thresholds_the_one_that_was_changed_counts(
    decision: dict[str, Any], detection: dict[str, Any], rule: str | None, rate: float | None
) -> None:
    recipe = Recipe.model_validate(old_tree(decision, detection))
    assert (recipe.threshold.rule, recipe.threshold.false_alarm_rate) == (rule, rate)
    assert (recipe.threshold.domains, recipe.calibration.method) == ("pooled", "leave-one-out")


def test_other_keys_of_the_table_of_detectors_are_read_whatever_its_thresholds() -> None:
    recipe = Recipe.model_validate(
        old_tree(detection={"domains": "separate", "hop_seconds": 0.5, "calibration": "split", "held_out": 0.2})
    )
    assert recipe.threshold.domains == "separate"
    assert recipe.audio.hop_seconds == 0.5
    assert (recipe.calibration.method, recipe.calibration.held_out) == ("split", 0.2)


def test_a_whole_old_recipe_trains_and_scores_the_same_as_today_s() -> None:
    recipe = Recipe.model_validate(old_tree())
    today = load_recipe("tiny-fusion")
    assert recipe.system_identity() == today.system_identity()
    assert recipe.model_key() == today.model_key()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_tree_of_today_is_returned_as_it_is() -> None:
    tree = load_recipe("nearfar-best").model_dump(mode="json")
    assert modernised(tree) is tree


def test_a_misspelt_key_of_an_old_table_is_an_error() -> None:
    with pytest.raises(InputError, match="the unknown key detection"):
        load_recipe("eat-near").with_changes(**{"detection.hop": 1.0})


def test_a_model_of_an_earlier_version_is_reused(small_factory: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        old_tree()
        | {"training": OLD_TREE["training"] | {"steps": 2, "batch_size": 4, "warmup_steps": 1}}
        | {"audio": OLD_TREE["audio"] | {"clip_seconds": 1.0}}
    )
    run_system(recipe, small_factory, tmp_path / "first", model_folder=tmp_path / "model")
    card = tmp_path / "model" / "model.json"
    tree = json.loads(card.read_text())
    del tree[SIGNATURE]  # as earlier versions wrote it
    tree["recipe"] = OLD_TREE | {
        "audio": OLD_TREE["audio"] | {"clip_seconds": 1.0},
        "training": OLD_TREE["training"] | {"steps": 2, "batch_size": 4, "warmup_steps": 1},
    }
    card.write_text(json.dumps(tree))
    assert load_model(tmp_path / "model").recipe == recipe
    tasks: set[str] = set()
    run_system(
        recipe,
        small_factory,
        tmp_path / "second",
        model_folder=tmp_path / "model",
        progress=lambda task, done, total: tasks.add(task),
    )
    assert not any("training" in task for task in tasks)
    other = recipe.with_changes(seed=1)
    with pytest.raises(InputError, match="found a model of another recipe"):
        run_system(other, small_factory, tmp_path / "third", model_folder=tmp_path / "model")
