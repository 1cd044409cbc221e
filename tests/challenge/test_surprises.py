"""Unusual uses: mixed folders, swapped weights, short clips, one class, a seed twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar.challenge.reproduce import reproduce
from nearfar.challenge.run import run_system
from nearfar.config import Recipe
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.errors import InputError, NearfarError
from nearfar.evaluation.scorefiles import read_scores
from nearfar.pipeline.embedding import embed_files
from nearfar.pipeline.preparation import prepare_run

SMALL = EATConfig(embed_dim=32, depth=1, num_heads=2)


@pytest.fixture
def quick(small_recipe: Recipe, tmp_path: Path) -> Recipe:
    """Two steps of a very small encoder whose weights lie in ``tmp_path/encoder``."""
    save_encoder(build_encoder(SMALL, seed=1), tmp_path / "encoder")
    return small_recipe.with_changes(**{"training.steps": 2, "encoder.weights": str(tmp_path / "encoder")})


def copied(factory: Path, to: Path) -> Path:
    return Path(shutil.copytree(factory, to, copy_function=os.link))


def test_labelled_machines_have_results_beside_machines_that_hide_their_labels(
    small_factory: Path, quick: Recipe, tmp_path: Path
) -> None:
    data = copied(small_factory, tmp_path / "data")
    for number, path in enumerate(sorted((data / "whiner" / "test").iterdir())):
        path.rename(path.with_name(f"section_00_{number:04d}.wav"))
    run = run_system(quick, data, tmp_path / "run")
    assert run is not None
    assert run.results is not None
    assert [row.machine for row in run.results.machines] == ["hummer"]
    assert [entry.machine for entry in read_scores(tmp_path / "run" / "scores")] == ["hummer", "whiner"]


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_model_of_encoder_files_that_have_changed_is_refused(
    small_factory: Path, quick: Recipe, tmp_path: Path, adaptation: str
) -> None:
    recipe = quick.with_changes(**{"training.adaptation": adaptation, "lora.rank": 2})
    run_system(recipe, small_factory, tmp_path / "run")
    save_encoder(build_encoder(SMALL, seed=2), tmp_path / "encoder")
    with pytest.raises(InputError, match="encoder weights"):
        run_system(recipe, small_factory, tmp_path / "run")


def test_a_checkpoint_of_encoder_files_that_have_changed_is_refused(
    small_factory: Path, quick: Recipe, tmp_path: Path
) -> None:
    recipe = quick.with_changes(**{"training.checkpoint_every": 1})

    def interrupt(task: str, done: int, total: int) -> None:
        if task.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_system(recipe, small_factory, tmp_path / "run", progress=interrupt)
    save_encoder(build_encoder(SMALL, seed=2), tmp_path / "encoder")
    with pytest.raises(InputError, match="encoder weights"):
        run_system(recipe, small_factory, tmp_path / "run")


def test_time_of_training_survives_its_reuse(small_factory: Path, quick: Recipe, tmp_path: Path) -> None:
    run_system(quick, small_factory, tmp_path / "run")
    first = json.loads((tmp_path / "run" / "timing.json").read_text())["training_seconds"]
    run_system(quick, small_factory, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "timing.json").read_text())["training_seconds"] == first > 0


def test_clips_shorter_than_a_frame_are_refused_before_training(quick: Recipe, tmp_path: Path) -> None:
    for split, label, index in (("train", "normal", 0), ("train", "normal", 1), ("test", "anomaly", 0)):
        path = tmp_path / "data" / "m" / split / f"section_00_source_{split}_{label}_{index:04d}_noAttribute.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, np.random.default_rng(index).normal(size=(300, 2)) * 0.1, 16_000)
    with pytest.raises(InputError, match=r"at least one frame of 0\.025 s"):
        prepare_run(tmp_path / "data", quick)


def test_a_single_class_gives_a_warning(
    small_factory: Path, quick: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = copied(small_factory / "hummer", tmp_path / "data" / "hummer").parent
    for path in list((data / "hummer" / "train").iterdir()):
        if "target" in path.name or "spd_2" in path.name:
            path.unlink()
    one = quick.with_changes(**{"training.views": ["near"], "scoring.views": ["near"]})
    run_system(one, data, tmp_path / "run")
    assert any("nothing to discriminate" in record.message for record in caplog.records)


def test_a_seed_twice_is_refused(small_factory: Path, quick: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each seed once"):
        reproduce([quick], small_factory, tmp_path / "out", seeds=(0, 0))


def test_embeddings_that_cannot_be_written_leave_nothing_behind(small_factory: Path, tmp_path: Path) -> None:
    clip = next((small_factory / "hummer" / "test").iterdir())
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(NearfarError, match="cannot write it"):
        embed_files([clip], "random:tiny", tmp_path / "taken" / "out.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
