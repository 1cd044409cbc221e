"""Four systems from two trainings, over several seeds, and again after an interruption."""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command import Nearfar

from nearfar.challenge.reproduce import Reproduction, reproduce
from nearfar.challenge.suites import SUITES, suite_recipes
from nearfar.config import Recipe, load_recipe
from nearfar.data import read_dataset
from nearfar.encoders import EAT, Tokens
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import read_scores
from nearfar.pipeline import training as training_module

SYSTEMS = ("tiny-fusion", "tiny-lora-fusion", "tiny-near", "tiny-lora-near")
SEEDS = (0, 3)


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def recipes() -> list[Recipe]:
    short = {
        "training.steps": 2,
        "training.batch_size": 4,
        "training.warmup_steps": 1,
        "training.checkpoint_every": 1,
    }
    return [recipe.with_changes(**short) for recipe in suite_recipes("tiny", SYSTEMS)]


@pytest.fixture(scope="module")
def interrupted(small_factory: Path, recipes: list[Recipe], tmp_path_factory: pytest.TempPathFactory):
    """A reproduction over two seeds, stopped within the second model of the first seed and started again.

    Gives what it returned, its folder, and the models whose training began, in order.
    """
    out = tmp_path_factory.mktemp("reproduction")
    began: list[tuple[str, int]] = []
    finetune = training_module.finetune

    def watched(recipe: Recipe, *args: object, **kwargs: object) -> bool:
        began.append((recipe.training.adaptation, recipe.seed))
        return finetune(recipe, *args, **kwargs)

    def stop(task: str, done: int, total: int) -> None:
        if "lora" in task and "training" in task and done == 2:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "finetune", watched)
        with pytest.raises(StoppedError):
            reproduce(recipes, small_factory, out, seeds=SEEDS, progress=stop)
        assert (out / "seed_0" / "tiny-fusion" / "results.json").is_file()
        assert not (out / "table.json").exists()
        began.append(("stopped", 0))
        finished = reproduce(recipes, small_factory, out, seeds=SEEDS)
    return finished, out, began


def test_suites_are_the_report_s_systems() -> None:
    assert [name for name in SUITES["report"].recipes if name.startswith("eat")] == [
        "eat-fusion",
        "eat-lora-fusion",
        "eat-near",
        "eat-lora-near",
    ]
    for suite in SUITES:
        by_name = {recipe.name: recipe for recipe in suite_recipes(suite)}
        assert tuple(by_name) == SUITES[suite].recipes
        keys = {name: recipe.model_key() for name, recipe in by_name.items()}
        short = "tiny" if suite == "tiny" else "eat"
        assert keys[f"{short}-fusion"] == keys[f"{short}-near"]
        assert keys[f"{short}-lora-fusion"] == keys[f"{short}-lora-near"]
        assert keys[f"{short}-fusion"] != keys[f"{short}-lora-fusion"]
        assert by_name[f"{short}-lora-near"].scoring.views == ("near",)
        assert by_name[f"{short}-lora-fusion"].scoring.views == ("near", "far")


def test_unknown_suite_and_system_are_refused() -> None:
    with pytest.raises(InputError, match="suite: found 'other'; expected 'report', 'tiny' or 'frontier'"):
        suite_recipes("other")
    with pytest.raises(InputError, match=r"systems: found 'eat-near'.*not in the suite tiny"):
        suite_recipes("tiny", ["eat-near"])


def test_two_models_are_trained_for_four_systems(interrupted) -> None:
    _, _, began = interrupted
    assert began == [
        ("full", 0),
        ("lora", 0),
        ("stopped", 0),
        ("lora", 0),  # resumes from its checkpoint; the full model of seed 0 is reused
        ("full", 3),
        ("lora", 3),
    ]


def test_interrupted_training_was_resumed(interrupted) -> None:
    _, out, _ = interrupted
    models = sorted((out / "models").glob("lora_*"))
    assert len(models) == len(SEEDS)
    for lora in models:
        steps = [json.loads(line)["step"] for line in (lora / "log.jsonl").read_text().splitlines()]
        assert steps == [0, 1]


@pytest.mark.parametrize("order", [("tiny-fusion", "tiny-near"), ("tiny-near", "tiny-fusion")])
def test_systems_that_share_a_model_embed_every_channel_of_a_clip_once(
    order: tuple[str, str],
    small_factory: Path,
    recipes: list[Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedded = []
    encode = EAT.encode

    def counted(self: EAT, spectrogram: torch.Tensor, *args: object, **masks: object) -> list[Tokens]:
        if not torch.is_grad_enabled():  # else a training step
            embedded.append(len(spectrogram))
        return encode(self, spectrogram, *args, **masks)

    monkeypatch.setattr(EAT, "encode", counted)
    by_name = {recipe.name: recipe for recipe in recipes}
    chosen = [by_name[name] for name in order]
    clips = len(read_dataset(small_factory).clips)
    for expected in (2 * clips, 0):  # near and far of every clip; nothing in a repeated call
        embedded.clear()
        reproduce(chosen, small_factory, tmp_path)
        assert sum(embedded) == expected


def test_seeds_added_later_train_only_their_own_models(
    interrupted, small_factory: Path, recipes: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = interrupted
    monkeypatch.setattr(training_module, "finetune", lambda *_, **__: pytest.fail("nothing is left to train"))
    shutil.copytree(out / "models", tmp_path / "models")
    (recipe,) = (recipe for recipe in recipes if recipe.name == "tiny-near")
    one = reproduce([recipe], small_factory, tmp_path, seeds=(3,))
    assert (tmp_path / "tiny-near" / "results.json").is_file()
    both = reproduce([recipe], small_factory, tmp_path, seeds=SEEDS)
    assert one is not None
    assert both is not None
    assert both.runs["tiny-near"][1].results == one.runs["tiny-near"][0].results


def test_seeds_and_systems_differ(interrupted) -> None:
    finished, out, _ = interrupted
    assert isinstance(finished, Reproduction)
    assert {name: [run.recipe.seed for run in runs] for name, runs in finished.runs.items()} == {
        name: list(SEEDS) for name in SYSTEMS
    }
    scores = {
        (seed, system): tuple(read_scores(out / f"seed_{seed}" / system / "scores")[0].scores)
        for seed in SEEDS
        for system in SYSTEMS
    }
    assert len(set(scores.values())) == len(SEEDS) * len(SYSTEMS)


def test_table_holds_mean_and_deviation_over_seeds(interrupted) -> None:
    _, out, _ = interrupted
    table = json.loads((out / "table.json").read_text())
    assert [system["name"] for system in table["systems"]] == list(SYSTEMS)
    for system in table["systems"]:
        assert system["seeds"] == len(SEEDS)
        singles = [
            json.loads((out / f"seed_{seed}" / system["name"] / "results.json").read_text())["systems"][0]
            for seed in SEEDS
        ]
        rows = [("all", system["all"]), *system["machines"].items()]
        assert len(rows) == 3
        for row, cells in rows:
            for quantity, cell in cells.items():
                values = [
                    (one["all"] if row == "all" else one["machines"][row])[quantity]["mean"] for one in singles
                ]
                assert cell["mean"] == pytest.approx(statistics.fmean(values), abs=1e-12)
                assert cell["std"] == pytest.approx(statistics.stdev(values), abs=1e-12)


def test_table_is_written_in_three_forms(interrupted) -> None:
    finished, out, _ = interrupted
    markdown = (out / "table.md").read_text()
    assert all(name in markdown for name in (*SYSTEMS, "hummer", "whiner"))
    assert "±" in markdown
    rows = list(csv.reader((out / "table.csv").read_text().splitlines()))
    assert len({len(row) for row in rows}) == 1
    assert {row[0] for row in rows[1:]} >= {"hummer", "whiner"}
    timing = json.loads((out / "timing.json").read_text())
    assert {name: [entry["seed"] for entry in entries] for name, entries in timing.items()} == {
        name: list(SEEDS) for name in SYSTEMS
    }
    assert finished.table.machines == ("hummer", "whiner")


def test_hidden_labels_give_scores_and_no_table(
    small_factory: Path, recipes: list[Recipe], tmp_path: Path
) -> None:
    factory = Path(shutil.copytree(small_factory, tmp_path / "factory", copy_function=os.link))
    for index, path in enumerate(sorted((factory / "hummer" / "test").iterdir())):
        path.rename(path.with_name(f"section_00_{index:04d}.wav"))
    shutil.rmtree(factory / "whiner")
    finished = reproduce(recipes[:1], factory, tmp_path / "out")
    assert isinstance(finished, Reproduction)
    assert finished.table is None
    assert [len(entry.names) for entry in finished.runs["tiny-fusion"][0].scores] == [8]
    assert not list((tmp_path / "out").glob("table.*"))


QUICK_AUTOENCODER = {"autoencoder.epochs": 2, "autoencoder.batch_size": 64}


def test_without_seeds_every_recipe_has_its_own(
    small_factory: Path, recipes: list[Recipe], tmp_path: Path
) -> None:
    """The baselines' seed is that of the published ones."""
    baseline = suite_recipes("tiny", ["ae-mse"])[0].with_changes(**QUICK_AUTOENCODER)
    (near,) = (recipe for recipe in recipes if recipe.name == "tiny-near")
    finished = reproduce([baseline, near], small_factory, tmp_path)
    assert finished is not None
    assert {name: [run.recipe.seed for run in runs] for name, runs in finished.runs.items()} == {
        "ae-mse": [13711],
        "tiny-near": [0],
    }
    for name, seed in (("ae-mse", 13711), ("tiny-near", 0)):
        assert load_recipe(tmp_path / name / "recipe.toml").seed == seed
    assert [system["seeds"] for system in json.loads((tmp_path / "table.json").read_text())["systems"]] == [1, 1]


def test_the_command_line_leaves_seeds_to_the_recipes(
    nearfar_command: Nearfar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr("nearfar.challenge.reproduce.reproduce", lambda *_, seeds, **__: given.append(seeds))
    arguments = ("reproduce", "--suite", "tiny", "--data", tmp_path, "--out", tmp_path / "out")
    for more in ((), ("--seeds", "0"), ("--seeds", "1,2")):
        assert nearfar_command(*arguments, *more).code == 0
    assert given == [None, (0,), (1, 2)]


def test_a_killed_autoencoder_resumes_within_its_machine(
    small_factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of the second machine; the result is that of a run that was never stopped."""
    recipe = suite_recipes("tiny", ["ae-mse"])[0].with_changes(**QUICK_AUTOENCODER)
    epochs: list[tuple[str, int]] = []
    monkeypatch.setattr("nearfar.scoring.autoencoder.training.CHECKPOINT_EVERY", 1)

    def stop(task: str, done: int, total: int) -> None:
        if "training" in task:
            epochs.append((task.rpartition(" ")[2], done))
            if epochs == [("hummer", 1), ("hummer", 2), ("whiner", 1)]:
                raise StoppedError

    with pytest.raises(StoppedError):
        reproduce([recipe], small_factory, tmp_path / "killed", progress=stop)
    resumed = reproduce([recipe], small_factory, tmp_path / "killed", progress=stop)
    assert epochs == [("hummer", 1), ("hummer", 2), ("whiner", 1), ("whiner", 2)]
    whole = reproduce([recipe], small_factory, tmp_path / "whole")
    assert resumed is not None
    assert whole is not None
    for one, other in zip(resumed.runs["ae-mse"][0].scores, whole.runs["ae-mse"][0].scores, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
