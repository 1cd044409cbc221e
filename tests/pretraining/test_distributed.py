"""Two processes pre-train what one process does with the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.command import LAUNCH

from nearfar.encoders import load_encoder
from nearfar.encoders.eat import build_encoder
from nearfar.pretraining.recipe import load_pretrain_recipe
from nearfar.pretraining.run import pretrain_encoder

SETTINGS = {
    "crop_seconds": 1.0,
    "masking.clones": 2,
    "decoder.layers": 1,
    "teacher.start": 0.5,
    "teacher.end": 0.9,
    "training.steps": 4,
    "training.batch_size": 4,
    "training.warmup_steps": 2,
    "training.clip_norm": 40.0,
    "training.checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def folders(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An encoder of one process, and one of two: batches of 4 crops, and of 2 + 2."""
    root = tmp_path_factory.mktemp("pretraining")
    settings = [text for key, value in SETTINGS.items() for text in ("--set", f"{key}={value}")]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "nearfar"]
    finished = subprocess.run(
        [*launcher, "pretrain", "--data", small_factory, "--out", root / "two", *settings],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Use it with --encoder") == 1, "the second process prints nothing"
    recipe = load_pretrain_recipe("ssl-tiny").with_changes(**SETTINGS)
    pretrain_encoder(recipe, [small_factory], root / "one")
    return root / "one", root / "two"


@pytest.mark.slow
def test_same_losses_at_every_step(folders: tuple[Path, Path]) -> None:
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    for name, relative in (("step", 0), ("frame_loss", 1e-5), ("utterance_loss", 1e-5), ("gradient_norm", 1e-3)):
        values = [[entry[name] for entry in log] for log in logs]
        assert len(values[0]) == 4
        assert values[0] == pytest.approx(values[1], rel=relative, abs=0), name


@pytest.mark.slow
def test_same_weights(folders: tuple[Path, Path], largest_difference) -> None:
    one, two = (dict(load_encoder(folder).state_dict()) for folder in folders)
    assert largest_difference(one, two, dict(build_encoder("tiny", seed=0).state_dict())) < 1e-3
