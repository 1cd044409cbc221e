"""Thresholds of runs come from normal training clips alone, each scored against the others."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike
from scipy.stats import gamma
from torch.nn import functional as F

from nearfar.challenge.run import run_system, write_thresholds_and_decisions
from nearfar.config import Recipe, ThresholdTable
from nearfar.data.layouts import read_dataset
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import MachineScores, read_decisions, read_scores
from nearfar.models import load_model
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.scoring import ScoredMachine
from nearfar.report.run_page import report_run
from nearfar.scoring import MachineScorer, ScoringPlan
from nearfar.scoring.settings import NearestSettings
from nearfar.thresholds import Calibration, NormalScore

GAMMA = np.random.default_rng(0).gamma(4.0, 0.1, size=200)


def scored(training: ArrayLike, test: Sequence[float] = (0.0, 1.0)) -> ScoredMachine:
    names = tuple(f"section_00_{index:04d}.wav" for index in range(len(test)))
    normals = tuple(
        NormalScore(file=f"{index}.wav", domain="source", score=score, channels={})
        for index, score in enumerate(np.asarray(training, dtype=float).tolist())
    )
    calibration = Calibration(
        machine="fan", section="00", method="leave-one-out", guaranteed=False, recordings=normals
    )
    scores = MachineScores("fan", "00", names, np.array(test))
    return ScoredMachine(scores, {}, calibration.scores(), {}, calibration, ("source",) * len(test))


def decided(entry: ScoredMachine, folder: Path, **threshold: object) -> dict[str, object]:
    """What is written about the threshold of one machine."""
    table = ThresholdTable.model_validate({"rule": "gamma", "false_alarm_rate": 0.1} | threshold)
    write_thresholds_and_decisions([entry], table, folder)
    (written,) = json.loads((folder / "thresholds.json").read_text())
    return dict(written)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_the_recipe_chooses_the_threshold(rate: float, tmp_path: Path) -> None:
    fitted = decided(scored(GAMMA), tmp_path, false_alarm_rate=rate)
    assert (fitted["rule"], fitted["false_alarm_rate"], fitted["recordings"]) == ("gamma", rate, 200)
    assert fitted["remark"] is None
    assert fitted["value"] == gamma.ppf(1 - rate, *gamma.fit(GAMMA))
    empirical = decided(scored(GAMMA), tmp_path, rule="empirical", false_alarm_rate=rate)
    assert (empirical["rule"], empirical["value"]) == ("empirical", np.quantile(GAMMA, 1 - rate))
    conformal = decided(scored(GAMMA), tmp_path, rule="conformal", false_alarm_rate=rate)
    assert conformal["value"] == np.sort(GAMMA)[int(np.ceil(201 * (1 - rate))) - 1]


def test_scores_that_no_gamma_fits_take_the_empirical_threshold_with_a_remark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        threshold = decided(scored([0.1, 0.11] * 5 + [0.5] * 5, test=(0.4, 0.5, 0.6)), tmp_path)
    (decisions,) = read_decisions(tmp_path / "scores")
    assert decisions.decisions.tolist() == [0, 0, 1]
    assert (threshold["rule"], threshold["value"]) == ("empirical", 0.5)
    assert str(threshold["remark"]).startswith("no gamma threshold (scores that")
    assert "fan section 00: no gamma threshold" in caplog.text


def test_a_single_training_clip_gives_no_decisions(tmp_path: Path) -> None:
    old = tmp_path / "scores" / "decision_result_fan_section_00_test.csv"
    old.parent.mkdir()
    old.write_text("section_00_0000.wav,1\n")
    one, plan = {"near": torch.ones(1, 1, 4)}, ScoringPlan("nearest-neighbours", NearestSettings(), "mean")
    alone = MachineScorer(one, torch.zeros(1, dtype=torch.bool), plan).normal.fused
    assert alone.shape == (0,)
    threshold = decided(scored(alone), tmp_path)
    assert threshold["value"] is None
    assert str(threshold["remark"]).startswith("no threshold")
    assert not old.exists(), "a decision of an earlier run must not pass for one of this"


@pytest.fixture(scope="module")
def run(small_factory: Path, small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    recipe = small_recipe.with_changes(**{"threshold.rule": "empirical", "training.steps": 2})
    assert run_system(recipe, small_factory, out) is not None
    return out


def test_a_run_decides_by_scores_of_training_clips_against_the_others(run: Path, small_factory: Path) -> None:
    """Both views scored one by one without the clip itself, then averaged as the test scores are."""
    model, dataset = load_model(run / "model"), read_dataset(small_factory)
    extractor, cache = build_extractor(model.recipe, run / "model"), FeatureCache(run / "model" / "embeddings")
    thresholds = {entry["machine"]: entry for entry in json.loads((run / "thresholds.json").read_text())}
    decisions = {entry.machine: entry for entry in read_decisions(run / "scores")}
    scores = {entry.machine: entry for entry in read_scores(run / "scores")}
    assert set(thresholds) == {"hummer", "whiner"} == set(decisions)
    for machine, threshold in thresholds.items():
        of_views = []
        for features in cache.get(extractor, dataset.train(machine)).values():
            unit = F.normalize(features[:, 0].double(), dim=1)
            similar = (unit @ unit.T).fill_diagonal_(-1)
            of_views.append(1 - similar.max(dim=1).values.numpy())
        assert threshold["recordings"] == 10
        assert threshold["value"] == pytest.approx(np.quantile(np.mean(of_views, axis=0), 0.9), abs=1e-6)
        called = (scores[machine].scores > threshold["value"]).astype(int)
        assert decisions[machine].names == scores[machine].names
        assert decisions[machine].decisions.tolist() == called.tolist()


def test_a_changed_digit_in_the_thresholds_of_a_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    report_run(copy, tmp_path / "report.html")
    rows = json.loads((copy / "thresholds.json").read_text())
    rows[0]["value"] *= 1.1
    (copy / "thresholds.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"thresholds\.json: found a threshold of hummer that is not .*rerun"):
        report_run(copy, tmp_path / "report.html")


def test_a_run_counts_the_parameters_of_what_it_scores_with(run: Path) -> None:
    environment = json.loads((run / "environment.json").read_text())
    model = load_model(run / "model")
    assert environment["total_parameters"] == sum(p.numel() for p in model.embedder.parameters()) > 0
    assert {"nearfar", "torch", "command"} <= set(environment)


def test_thresholds_do_not_decide_which_model_is_trained(small_recipe: Recipe) -> None:
    other = small_recipe.with_changes(**{"threshold.rule": "empirical", "threshold.false_alarm_rate": 0.05})
    assert other != small_recipe
    assert other.model_key() == small_recipe.model_key()
