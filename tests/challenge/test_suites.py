"""Suites: the plan of time and memory, noise-aware layers, and a rehearsal of the suite frontier with a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.command import Nearfar

from nearfar.challenge.plan import EFFICIENCY, Amount, amount_of, amount_of_archives, plan_rows
from nearfar.challenge.suites import SUITES, find_suite, prepare_layers, suite_recipes
from nearfar.config import load_recipe
from nearfar.data import read_dataset
from nearfar.data.simulate import FactoryPlan, simulate_factory
from nearfar.encoders.eat import EAT_BASE, encoder_flops

RATE = 1e13


def test_time_of_training_is_that_of_three_forward_passes_a_step_once_for_each_model() -> None:
    amount = Amount(1_000, 200, 10.0, 10.0, 1, "made up")
    fusion, near, lora = plan_rows(
        list(map(load_recipe, ("eat-fusion", "eat-near", "eat-lora-near"))), amount, RATE
    )
    forward = encoder_flops(EAT_BASE, 1_600)
    assert fusion.training_s == pytest.approx(20_000 * 16 * 3 * forward / (RATE * EFFICIENCY))
    assert (near.trains, near.training_s, near.steps) == (False, 0.0, 0)
    assert fusion.scoring_s == pytest.approx(2 * 1_200 * forward / (RATE * EFFICIENCY))
    assert near.scoring_s == 0.0, "near is embedded for the fusion"
    assert lora.scoring_s == pytest.approx(fusion.scoring_s / 2)
    assert fusion.memory_bytes > 88e6 * 16
    assert lora.memory_bytes < fusion.memory_bytes
    assert lora.disk_bytes < 0.1 * fusion.disk_bytes


def test_the_archives_listing_gives_the_development_set() -> None:
    amount = amount_of_archives()
    assert (amount.training, amount.test, amount.machines) == (7_000, 1_400, 7)
    assert 6 < amount.mean_seconds < 16


def test_recordings_that_are_there_are_counted(small_factory: Path) -> None:
    dataset = read_dataset(small_factory)
    amount = amount_of(dataset)
    assert amount.training == sum(clip.split == "train" for clip in dataset.clips)
    assert amount.training + amount.test == len(dataset.clips)


def test_a_dry_run_needs_no_data_and_writes_nothing(nearfar_command: Nearfar, tmp_path: Path) -> None:
    finished = nearfar_command(
        "reproduce", "--suite", "frontier", "--dry-run", "--device", "cpu", "--out", tmp_path / "out"
    )
    assert finished.code == 0
    for name in (*SUITES["frontier"].recipes, "noise-aware layers", "3 seeds", "listing of the archives"):
        assert name in finished.out
    arguments = ("reproduce", "--suite", "frontier", "--dry-run", "--device", "cpu", "--json", "--out", tmp_path)
    tree = json.loads(nearfar_command(*arguments).out)
    assert [row["name"] for row in tree["systems"]] == ["noise-aware layers", *SUITES["frontier"].recipes]
    assert [row["once"] for row in tree["systems"]] == [True] + [False] * 8
    assert not (tmp_path / "out").exists()
    refused = nearfar_command("reproduce", "--suite", "tiny", "--out", tmp_path / "out")
    assert (refused.code, "no --data" in refused.err) == (2, True)


def test_label_and_authors_are_checked_before_anything_is_computed(
    nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    arguments = ("reproduce", "--suite", "tiny", "--data", small_factory, "--out", tmp_path / "out")
    for label, words in (("Lovelace", "label: found Lovelace"), ("Lovelace_EX_task2", "authors.toml")):
        refused = nearfar_command(*arguments, "--label", label, "--authors", tmp_path / "authors.toml")
        assert (refused.code, words in refused.err) == (2, True), refused.err
    assert not (tmp_path / "out").exists()


def test_layers_are_given_to_the_recipes_that_have_them(tmp_path: Path) -> None:
    recipes = suite_recipes("frontier", ["eat-near", "eat-noise-aware"])
    near, aware = prepare_layers(recipes, str(tmp_path), tmp_path, tmp_path / "layers")
    assert near == recipes[0]
    assert aware.encoder.weights == str(tmp_path)
    assert prepare_layers(recipes, None, tmp_path, tmp_path) == recipes


def test_suites_name_recipes_that_are_there() -> None:
    for name, suite in SUITES.items():
        assert [recipe.name for recipe in suite_recipes(name)] == [*suite.recipes]
        assert set(suite.submitted) <= set(suite.recipes)
        assert len(suite.submitted) <= 4
        assert suite.reference is None or suite.reference in suite.recipes
    assert find_suite("frontier").layers == "noise-aware"


LAYERS = """
name = "rehearsal"
description = "two steps"
crop_seconds = 1.28
[encoder]
weights = "eat-tiny"
[training]
steps = 2
batch_size = 2
"""
AUTHORS = """
[[authors]]
firstname = "Ada"
lastname = "Lovelace"
email = "ada@example.org"
institution = "Example"
department = "Sound"
location = "London"
corresponding = true
"""


@pytest.mark.slow
def test_the_suite_frontier_is_rehearsed_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    """About two minutes: simulated recordings in the real layout, one machine with hidden labels, eat-tiny."""
    data = tmp_path / "data"
    plan = FactoryPlan(("fan", "valve", "pump"), 6, 2, 3, clip_seconds=2.0, seed=5)
    simulate_factory(plan, data)
    (data / "pump" / "attributes_00.csv").unlink()
    for number, path in enumerate(sorted((data / "pump" / "test").iterdir())):
        path.rename(path.with_name(f"section_00_{number:04d}.wav"))
    (tmp_path / "layers.toml").write_text(LAYERS, encoding="utf-8")
    (tmp_path / "authors.toml").write_text(AUTHORS, encoding="utf-8")
    settings = ("training.steps=3", "training.batch_size=4", "training.checkpoint_every=1", "autoencoder.epochs=2")

    def command(out: Path) -> list[str]:
        return [
            *(sys.executable, "-m", "nearfar", "reproduce", "--suite", "frontier", "--data", str(data)),
            *("--out", str(out), "--encoder", "eat-tiny", "--layers", str(tmp_path / "layers.toml")),
            *("--seeds", "0,1", "--label", "Lovelace_EX_task2", "--authors", str(tmp_path / "authors.toml")),
            *(part for entry in settings for part in ("--set", entry)),
        ]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (killed / "seed_0" / "eat-near" / "results.json").is_file():
            time.sleep(0.1)
        time.sleep(1.0)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "table.json").exists()
    for out in (killed, whole):
        subprocess.run(command(out), env=environment, check=True, capture_output=True)
    for name in ("table.json", "comparison.json"):
        assert json.loads((killed / name).read_text()) == json.loads((whole / name).read_text())
    systems = sorted(path.name for path in (killed / "submission" / "task2").iterdir())
    assert systems == [f"Lovelace_EX_task2_{number}" for number in (1, 2, 3, 4)]
    comparison = json.loads((killed / "comparison.json").read_text())
    assert {entry["a"] for entry in comparison} == set(SUITES["frontier"].recipes) - {"eat-fusion"}
    check = [sys.executable, "-m", "nearfar", "submit", "--check", str(killed / "submission"), "--json"]
    found = subprocess.run(check, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
