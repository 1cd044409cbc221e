"""Thresholds come from normal training clips alone, each scored against the others."""

import json
import logging

import numpy as np
import pytest
import torch
from nearfar.features.cache import EmbeddingStore
from nearfar.features.representation import represent
from nearfar.thresholds.runs import ScoredMachine, decide_system, find_threshold
from scipy.stats import gamma
from torch.nn import functional as F

from nearfar.challenge.run import run_system
from nearfar.config import Decision, Scoring
from nearfar.data.layouts import read_dataset
from nearfar.evaluation.scorefiles import MachineScores, read_decisions, read_scores
from nearfar.models import load_model
from nearfar.scoring.machine import MachineScorer


def scored(training, test=(0.0, 1.0)):
    names = tuple(f"section_00_{index:04d}.wav" for index in range(len(test)))
    return ScoredMachine(MachineScores("fan", "00", names, np.array(test)), np.array(training, dtype=float))


GAMMA = np.random.default_rng(0).gamma(4.0, 0.1, size=200)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_recipe_chooses_the_threshold(quantile):
    fitted = find_threshold(scored(GAMMA), Decision(quantile=quantile))
    assert (fitted.kind, fitted.quantile, fitted.training_clips, fitted.remark) == ("gamma", quantile, 200, None)
    assert fitted.value == gamma.ppf(quantile, *gamma.fit(GAMMA))
    empirical = find_threshold(scored(GAMMA), Decision(threshold="empirical", quantile=quantile))
    assert (empirical.kind, empirical.value) == ("empirical", np.quantile(GAMMA, quantile))


def test_scores_that_no_gamma_fits_take_the_empirical_threshold_and_say_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        (decided,) = decide_system([scored([0.5] * 10, test=(0.4, 0.5, 0.6))], Decision(), tmp_path)
    assert decided.decisions.tolist() == [0, 0, 1]
    (threshold,) = json.loads((tmp_path / "thresholds.json").read_text())
    assert (threshold["kind"], threshold["value"]) == ("empirical", 0.5)
    assert threshold["remark"].startswith("no gamma threshold (training scores that are all the same)")
    assert "fan section 00: no gamma threshold" in caplog.text


def test_a_single_training_clip_gives_no_decisions(tmp_path):
    old = tmp_path / "scores" / "decision_result_fan_section_00_test.csv"
    old.parent.mkdir()
    old.write_text("section_00_0000.wav,1\n")
    one = {"near": torch.ones(1, 1, 4)}
    alone = MachineScorer(one, torch.zeros(1, dtype=torch.bool), Scoring(channels=("near",))).normal.fused
    assert alone.shape == (0,)
    assert decide_system([scored(alone)], Decision(), tmp_path) == ()
    (threshold,) = json.loads((tmp_path / "thresholds.json").read_text())
    assert threshold["value"] is None
    assert threshold["remark"].endswith("no decisions")
    assert not old.exists(), "a decision of an earlier run must not pass for one of this"


@pytest.fixture(scope="module")
def run(small_factory, small_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    recipe = small_recipe.with_changes(**{"decision.threshold": "empirical", "training.steps": 2})
    assert run_system(recipe, small_factory, out) is not None
    return out


def test_a_run_decides_by_scores_of_training_clips_against_the_others(run, small_factory, small_recipe):
    """Both channels scored one by one without the clip itself, then averaged as the test scores are."""
    model, dataset = load_model(run / "model"), read_dataset(small_factory)
    representation = represent(model.recipe, run / "model")
    store = EmbeddingStore(run / "model" / "embeddings")
    thresholds = {entry["machine"]: entry for entry in json.loads((run / "thresholds.json").read_text())}
    decisions = {entry.machine: entry for entry in read_decisions(run / "scores")}
    scores = {entry.machine: entry for entry in read_scores(run / "scores")}
    assert set(thresholds) == {"hummer", "whiner"} == set(decisions)
    for machine, threshold in thresholds.items():
        clips, of_channels = dataset.train(machine), []
        for channel in ("near", "far"):
            embeddings = store.get(representation, clips, channel, batch_size=8, device=torch.device("cpu"))[:, 0]
            unit = F.normalize(torch.from_numpy(embeddings).double(), dim=1)
            similar = (unit @ unit.T).fill_diagonal_(-1)
            of_channels.append(1 - similar.max(dim=1).values.numpy())
        assert threshold["training_clips"] == 10
        assert threshold["value"] == pytest.approx(np.quantile(np.mean(of_channels, axis=0), 0.9), abs=1e-6)
        called = (scores[machine].scores > threshold["value"]).astype(int)
        assert decisions[machine].names == scores[machine].names
        assert decisions[machine].decisions.tolist() == called.tolist()


def test_a_run_counts_the_parameters_of_what_it_scores_with(run):
    environment = json.loads((run / "environment.json").read_text())
    model = load_model(run / "model")
    assert environment["total_parameters"] == sum(p.numel() for p in model.embedder.parameters()) > 0
    assert {"nearfar", "torch", "command"} <= set(environment)


def test_decisions_do_not_decide_which_model_is_trained(small_recipe):
    other = small_recipe.with_changes(**{"decision.threshold": "empirical", "decision.quantile": 0.95})
    assert other != small_recipe
    assert other.model_key() == small_recipe.model_key()
