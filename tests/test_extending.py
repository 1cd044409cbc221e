"""The examples of docs/extending.md: each is registered as it stands there, used, and removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.documentation import page, python_blocks
from tests.fixtures import write_clip
from tests.test_docs import TABLES

from nearfar import Detector, load_recipe
from nearfar.config import Recipe
from nearfar.models import build_model, load_model, save_model

PAGE = "docs/extending.md"
NEW = {
    "Pooling of features": ("pooling.POOLINGS", "power"),
    "View": ("views.VIEWS", "mid"),
    "Source of features": ("features.SOURCES", "loudness"),
    "Scoring back-end": ("scoring.BACKENDS", "centroid"),
    "Threshold rule": ("thresholds.RULES", "normal"),
    "Encoder family": ("encoders.ENCODERS", "conv"),
    "Loss": ("losses.LOSSES", "cosine"),
    "Trained pooling": ("pooling.TRAINED_POOLINGS", "gated"),
}
FITTED: dict[str, tuple[str, dict[str, Any]]] = {
    "Pooling of features": (
        "frozen-eat",
        {"encoder.weights": "eat-tiny", "features.pooling": "power", "features.power": 2.0},
    ),
    "View": ("nearfar-best", {"scoring.views": ["mid"], "mid.far_weight": 0.25}),
    "Source of features": (
        "nearfar-best",
        {"features.source": "loudness", "features.lags": [], "features.keep_bands": False},
    ),
    "Scoring back-end": ("nearfar-best", {"scoring.backend": "centroid"}),
    "Threshold rule": ("nearfar-best", {"threshold.rule": "normal"}),
    "Encoder family": ("frozen-eat", {"encoder.family": "conv", "encoder.weights": "random:conv"}),
}
"""By heading: a recipe and changes with which a detector is fitted that finds a tone of another pitch."""
TRAINED: dict[str, dict[str, Any]] = {
    "Encoder family": {"encoder.family": "conv", "encoder.weights": "random:conv"},
    "Loss": {"head.loss": "cosine", "head.temperature": 0.2},
    "Trained pooling": {"head.pooling": "gated"},
}


@pytest.fixture(autouse=True)
def tables_as_before() -> Iterator[None]:
    """Remove what an example registers."""
    before = {name: dict(table) for name, table in TABLES.items()}
    yield
    for name, table in TABLES.items():
        table.clear()
        table.update(before[name])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pump")
    for index in range(12):
        write_clip(folder / "pump" / f"{index:04d}.wav", 1.0, 440.0, index)
    for index, tone_hz in enumerate((440.0, 2000.0)):
        write_clip(folder / "other" / f"{index}.wav", 1.0, tone_hz, 100 + index)
    return folder


def register(heading: str) -> None:
    (code,) = [code for found, code in python_blocks(PAGE) if found == heading]
    exec(compile(code, f"{PAGE}, {heading}", "exec", dont_inherit=True), {"__name__": "example"})


def test_every_example_is_run_here() -> None:
    assert {heading for heading, _ in python_blocks(PAGE)} == set(NEW) == {*FITTED, *TRAINED}
    for table, _ in NEW.values():
        assert f"`{table.split('.')[1]}`" in page(PAGE)


@pytest.mark.parametrize("heading", NEW)
def test_an_example_adds_one_entry(heading: str) -> None:
    table, name = NEW[heading]
    assert name not in TABLES[table]
    register(heading)
    assert TABLES[table][name].description


@pytest.mark.parametrize("heading", FITTED)
def test_a_detector_is_fitted_saved_and_loaded_with_an_example(
    heading: str, recordings: Path, tmp_path: Path
) -> None:
    register(heading)
    name, changes = FITTED[heading]
    detector = Detector.fit(recordings / "pump", load_recipe(name).with_changes(**changes), device="cpu")
    normal, other = detector.score_many(sorted((recordings / "other").iterdir()))
    assert other.score > normal.score
    assert other.anomalous
    detector.save(tmp_path / "detector")
    again = Detector.load(tmp_path / "detector", device="cpu")
    assert again.score(recordings / "other" / "1.wav").score == pytest.approx(other.score, rel=1e-5)
    assert [entry.rule for entry in again.thresholds] == [detector.recipe.threshold.rule]


def trained_recipe(changes: dict[str, Any]) -> Recipe:
    return load_recipe("tiny-near").with_changes(**{"audio.clip_seconds": 1.0, **changes})


@pytest.mark.parametrize("heading", TRAINED)
def test_a_model_trains_with_an_example_and_comes_back(heading: str, tmp_path: Path) -> None:
    register(heading)
    recipe = trained_recipe(TRAINED[heading])
    random = torch.Generator().manual_seed(0)
    waveform, labels = 0.1 * torch.randn(6, 16_000, generator=random), torch.arange(6) % 3
    samples = torch.full((6,), 16_000)
    model = build_model(recipe, classes=3)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(4):
        rows = model(waveform, samples, labels)
        assert rows.shape == (6,)
        optimizer.zero_grad()
        rows.mean().backward()
        optimizer.step()
        losses.append(float(rows.detach().mean()))
    assert losses[-1] < losses[0]
    model.eval()
    save_model(tmp_path, model, recipe, ("a", "b", "c"), {})
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(tmp_path).embedder(waveform, samples), model.embedder(waveform, samples)
        )


@pytest.mark.parametrize(
    ("heading", "key", "other"),
    [("Pooling of features", "features.power", 5.0), ("Loss", "head.temperature", 0.9)],
)
def test_settings_of_an_example_are_part_of_the_identity_only_where_it_is_chosen(
    heading: str, key: str, other: float
) -> None:
    register(heading)
    name, changes = FITTED.get(heading) or ("tiny-near", TRAINED[heading])

    def identity(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
        return recipe.model_identity(), recipe.system_identity()

    chosen, plain = load_recipe(name).with_changes(**changes), load_recipe(name)
    assert identity(chosen.with_changes(**{key: other})) != identity(chosen)
    assert identity(plain.with_changes(**{key: other})) == identity(plain)
