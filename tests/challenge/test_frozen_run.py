"""Systems that train nothing, and systems of other views, from recordings to results."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import read_scores

TOKENS = {"training.adaptation": "none", "features.source": "tokens", "encoder.weights": "random:tiny"}


@pytest.mark.parametrize("name", ["log-mel", "tokens", "fused", "residual"])
def test_a_system_without_training_scores_at_once(name: str, small_factory: Path, tmp_path: Path) -> None:
    recipe = {
        "log-mel": load_recipe("nearfar-best"),
        "tokens": load_recipe("tiny-near").with_changes(**TOKENS, **{"features.keep_bands": True}),
        "fused": load_recipe("nearfar-best").with_changes(
            **{"scoring.views": ["near", "cancelled"], "scoring.fusion": "standardised"}
        ),
        "residual": load_recipe("tiny-near").with_changes(**TOKENS, **{"scoring.views": ["residual"]}),
    }[name]
    run = run_system(recipe, small_factory, tmp_path)
    assert run is not None
    assert run.results is not None
    assert run.timing.training_seconds == 0
    assert not (tmp_path / "model" / "model.json").exists()
    views = json.loads((tmp_path / "view_scores.json").read_text())["machines"]
    assert [entry["machine"] for entry in views] == ["hummer", "whiner"]
    assert set(views[0]["views"]) == set(recipe.scoring.views)
    assert len(views[0]["normal"]) == 10
    if name == "fused":
        z = []
        for view in ("near", "cancelled"):
            alone = np.array(views[0]["normal_views"][view])
            z.append((np.array(views[0]["views"][view]) - alone.mean()) / alone.std())
        np.testing.assert_allclose(read_scores(tmp_path / "scores")[0].scores, np.mean(z, axis=0), rtol=1e-6)


def test_the_cancelled_view_can_be_a_third_channel_of_training(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.with_changes(
        **{
            "training.views": ["near", "far", "cancelled"],
            "scoring.views": ["cancelled"],
            "training.steps": 2,
        }
    )
    run = run_system(recipe, small_factory, tmp_path)
    assert run is not None
    classes = json.loads((tmp_path / "model" / "model.json").read_text())["classes"]
    assert {name.rpartition("|")[2] for name in classes} == {"near", "far", "cancelled"}


def test_machines_without_attributes_are_trained_by_their_clusters(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    for path in small_factory.rglob("*.wav"):
        name = path.name
        if path.parts[-3] == "hummer":
            name = re.sub(r"(normal_\d+|anomaly_\d+).*", r"\1_noAttribute.wav", name)
        copy = tmp_path / "data" / path.relative_to(small_factory).with_name(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    recipe = small_recipe.with_changes(**{"training.pseudo_labels": 2, "training.steps": 1})
    run_system(recipe, tmp_path / "data", tmp_path / "run")
    classes = json.loads((tmp_path / "run" / "model" / "model.json").read_text())["classes"]
    of_hummer = {name for name in classes if name.startswith("hummer|")}
    sources = {f"hummer|cluster={c}|source|{channel}" for c in (0, 1) for channel in ("near", "far")}
    assert of_hummer == sources | {"hummer|target|near", "hummer|target|far"}
    assert not any("cluster" in name for name in classes if name.startswith("whiner|"))


def test_a_channel_that_was_not_trained_is_refused(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    recipe = small_recipe.with_changes(**{"training.views": ["near"], "scoring.views": ["residual"]})
    with pytest.raises(InputError, match=r"scoring\.views: found far, on which the model is not trained"):
        run_system(recipe, small_factory, tmp_path)
