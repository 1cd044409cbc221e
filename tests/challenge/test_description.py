"""The description of a system follows from its recipe, whatever its features."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from nearfar.challenge.description import describe
from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.features import SOURCES
from nearfar.pooling import POOLINGS
from nearfar.scoring import BACKENDS, FUSIONS


def tokens(pooling: str, base: str = "tiny-near") -> Recipe:
    return load_recipe(base).with_changes(**{"features.source": "tokens", "features.pooling": pooling})


def test_tokens_pooled_by_the_trained_head_are_described_and_scored(small_factory: Path, tmp_path: Path) -> None:
    """``features.source = "tokens"`` with ``pooling = "asp"`` is a valid recipe."""
    recipe = tokens("asp").with_changes(**{"training.steps": 2, "training.batch_size": 4})
    words = describe(recipe, ["hummer"])
    assert words["aggregation_method"] == "attentive statistics pooling"
    run = run_system(recipe, small_factory, tmp_path)
    assert run is not None
    assert {scores.machine for scores in run.scores} == {"hummer", "whiner"}
    written = json.loads((tmp_path / "results.json").read_text())
    assert written


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_is_described_by_its_entry(pooling: str) -> None:
    words = describe(tokens(pooling), ["fan"])["aggregation_method"]
    assert words.startswith(POOLINGS[pooling].description)


@pytest.mark.parametrize(
    ("source", "backend", "fusion"), itertools.product(SOURCES, BACKENDS, FUSIONS), ids=lambda name: str(name)
)
def test_every_choice_can_be_described(source: str, backend: str, fusion: str) -> None:
    recipe = load_recipe("tiny-fusion").with_changes(
        **{"features.source": source, "scoring.backend": backend, "scoring.fusion": fusion}
    )
    words = describe(recipe, ["fan"])
    assert f"{FUSIONS[fusion].description} near and far scores" in words["aggregation_method"]
    assert not any("{" in str(value) for value in words.values())
