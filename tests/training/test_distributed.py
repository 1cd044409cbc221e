"""Two processes train what one process trains on the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.command import LAUNCH

from nearfar.challenge.reproduce import reproduce
from nearfar.challenge.suites import suite_recipes
from nearfar.config import Recipe, load_recipe
from nearfar.evaluation.scorefiles import read_scores

pytestmark = pytest.mark.slow

SYSTEMS = ("tiny-fusion", "tiny-lora-fusion", "tiny-near", "tiny-lora-near")
CHANGES = {
    "training.steps": 4,
    "training.batch_size": 4,
    "training.warmup_steps": 2,
    "training.checkpoint_every": 2,
    "training.clip_norm": 40.0,
    "encoder.drop_path": 0.3,
    "augmentation.gain_db": 3.0,
    "augmentation.mixup_probability": 0.5,
    "augmentation.frequency_mask_bins": 20,
    "augmentation.time_mask_frames": 20,
}


@pytest.fixture(scope="module")
def folders(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The four systems on one process, and on two: two trainings each, batches of 4 and of 2 + 2 samples."""
    root = tmp_path_factory.mktemp("processes")
    settings = [text for key, value in CHANGES.items() for text in ("--set", f"{key}={value}")]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "nearfar"]
    options = [
        "--suite",
        "tiny",
        "--systems",
        ",".join(SYSTEMS),
        "--data",
        str(small_factory),
        "--out",
        str(root / "two"),
    ]
    finished = subprocess.run(
        [*launcher, "reproduce", *options, *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Everything is in") == 1, "the second process prints nothing"
    reproduce(
        [recipe.with_changes(**CHANGES) for recipe in suite_recipes("tiny", SYSTEMS)], small_factory, root / "one"
    )
    return root / "one", root / "two"


def model_folders(folders: tuple[Path, Path], adaptation: str) -> tuple[Path, Path]:
    one, two = (sorted((folder / "models").glob(f"{adaptation}_*")) for folder in folders)
    assert len(one) == len(two) == 1
    assert one[0].name == two[0].name
    return one[0], two[0]


def resolved(folder: Path) -> Recipe:
    return load_recipe(folder / "tiny-fusion" / "recipe.toml")


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_same_losses_at_every_step(adaptation: str, folders: tuple[Path, Path]) -> None:
    one, two = model_folders(folders, adaptation)
    assert json.loads((one / "model.json").read_text())["training"]["processes"] == 1
    assert json.loads((two / "model.json").read_text())["training"]["processes"] == 2
    logs = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, two)
    ]
    for name, relative in (("step", 0), ("learning_rate", 0), ("loss", 1e-5), ("gradient_norm", 1e-3)):
        values = [[entry[name] for entry in log] for log in logs]
        assert len(values[0]) == 4
        assert values[0] == pytest.approx(values[1], rel=relative, abs=0), name


def test_same_weights_of_full_fine_tuning(
    folders: tuple[Path, Path], start_tensors, model_tensors, largest_difference
) -> None:
    one, two = model_folders(folders, "full")
    classes = len(json.loads((one / "model.json").read_text())["classes"])
    start = start_tensors(resolved(folders[0]), classes)
    assert largest_difference(model_tensors(one), model_tensors(two), start) < 1e-3


def test_same_adapters_of_lora(folders: tuple[Path, Path]) -> None:
    tensors = [
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in model_folders(folders, "lora")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    grown = [name for name in tensors[0] if "lora_B" in name]  # B starts at zero, so all of it has been trained
    assert grown
    for name in grown:
        one, two = tensors[0][name], tensors[1][name]
        assert torch.norm(one - two) < 1e-3 * torch.norm(one), name


def test_same_scores_of_all_systems(folders: tuple[Path, Path]) -> None:
    for system in SYSTEMS:
        one, two = (read_scores(folder / system / "scores") for folder in folders)
        for a, b in zip(one, two, strict=True):
            assert (a.machine, a.names) == (b.machine, b.names)
            np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=2e-6, err_msg=f"{system} {a.machine}")
