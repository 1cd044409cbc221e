"""A small model and clips for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.config import load_recipe
from nearfar.data.clips import Clip
from nearfar.data.layouts import read_dataset
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.models import TrainedEmbedder, build_model, load_model, save_model

WIDTH = 6
"""Of the model's embedding."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedEmbedder:
    """A tiny model for clips of up to 1.25 s."""
    folder = tmp_path_factory.mktemp("model")
    save_encoder(build_encoder(EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=16)), folder / "start")
    recipe = load_recipe("tiny-fusion").with_changes(
        **{
            "encoder.weights": str(folder / "start"),
            "audio.clip_seconds": 1.25,
            "head.embedding_dim": WIDTH,
            "head.attention_dim": 4,
        }
    )
    save_model(folder, build_model(recipe, 2), recipe, ("a", "b"), {})
    return load_model(folder)


@pytest.fixture(scope="module")
def clips(small_factory: Path) -> list[Clip]:
    return read_dataset(small_factory).test("hummer")
