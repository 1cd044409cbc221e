"""Which normal recordings a recipe that trains holds out, and what its thresholds are said to be from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.command import Nearfar

import nearfar
from nearfar.challenge.run import run_system
from nearfar.config import Recipe
from nearfar.models import read_card
from nearfar.thresholds import Calibration, NormalScore, find_threshold, given_threshold, is_consistent

SCORES = tuple(NormalScore(file=f"{i}.wav", domain="source", score=float(i), channels={}) for i in range(30))


@pytest.fixture
def quick(small_recipe: Recipe) -> Recipe:
    return small_recipe.with_changes(**{"training.steps": 1, "threshold.rule": "conformal"})


def test_recordings_are_held_out_of_training_where_they_give_a_threshold(
    quick: Recipe, small_factory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 8 source and 2 target recordings of a machine, 2 and 1 are held out, enough for a rate of 25 %."""
    with caplog.at_level("WARNING"):
        few = nearfar.Detector.fit(small_factory, quick.with_changes(**{"threshold.false_alarm_rate": 0.2}))
    assert "are too few for a false-alarm rate of 0.2" in caplog.text
    assert {(entry.normals, entry.recordings) for entry in few.thresholds} == {("in training", 10)}
    model = tmp_path / "model"
    coarse = quick.with_changes(**{"threshold.false_alarm_rate": 0.25})
    held = nearfar.Detector.fit(small_factory, coarse, model=model)
    assert held.recipe.calibration.method == "split"
    assert {(entry.normals, entry.recordings) for entry in held.thresholds} == {("held out", 3)}
    assert all(entry.guaranteed and entry.remark is None for entry in held.thresholds)
    card = read_card(model)
    assert card is not None
    trained = card["training"]["data_key"]
    again = nearfar.Detector.fit(small_factory, coarse, model=model)
    assert read_card(model)["training"]["data_key"] == trained  # type: ignore[index]
    assert again.thresholds == held.thresholds


def test_the_model_of_a_run_was_trained_on_all(
    quick: Recipe, small_factory: Path, tmp_path: Path, nearfar_command: Nearfar
) -> None:
    recipe = quick.with_changes(**{"threshold.false_alarm_rate": 0.25})
    assert run_system(recipe, small_factory, tmp_path / "run") is not None
    rows = json.loads((tmp_path / "run" / "thresholds.json").read_text())
    assert {row["normals"] for row in rows} == {"in training"}
    detector = nearfar.Detector.fit(small_factory, recipe, model=tmp_path / "run" / "model")
    assert {entry.normals for entry in detector.thresholds} == {"in training"}
    assert all("the model was trained on the recordings" in (entry.remark or "") for entry in detector.thresholds)
    detector.save(tmp_path / "detector")
    file = sorted((small_factory / "hummer" / "test").iterdir())[0]
    (row,) = json.loads(nearfar_command("score", tmp_path / "detector", file, "--json").out)
    assert row["threshold_from"] == "normal recordings in training"
    assert "normal recordings in training" in nearfar_command("score", tmp_path / "detector", file, "--csv").out
    shown = nearfar_command("score", tmp_path / "detector", file).out
    assert "hummer: the threshold is from recordings of the training" in shown
    assert "25 % in training" in nearfar_command("threshold", tmp_path / "detector").out


@pytest.mark.parametrize(
    ("method", "in_training", "normals", "promise"),
    [
        ("leave-one-out", False, "left out", "at most 10 %"),
        ("split", False, "held out", "at most 10 %"),
        ("leave-one-out", True, "in training", "10 % in training"),
    ],
)
def test_a_threshold_says_which_recordings_it_is_from(
    method: str, in_training: bool, normals: str, promise: str
) -> None:
    tree = {"machine": "fan", "section": "00", "method": method, "guaranteed": True, "recordings": SCORES}
    calibration = Calibration.model_validate({**tree, "in_training": in_training})
    threshold = find_threshold(calibration, "conformal", 0.1)
    assert (threshold.normals, threshold.promise) == (normals, promise)
    assert threshold.found_from == f"normal recordings {normals}"
    assert is_consistent(threshold, calibration)
    assert not is_consistent(threshold, calibration.model_copy(update={"in_training": not in_training}))
    given = given_threshold(calibration, 3.0)
    assert (given.normals, given.promise, given.found_from) == (None, "unknown", "given by a person")
