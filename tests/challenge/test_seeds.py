"""``run --seeds``: a run for each seed, and a table of means and deviations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.command import Nearfar

from nearfar.challenge.reproduce import reproduce
from nearfar.cli.options import whole_numbers
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.scorefiles import read_scores


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("7", (7,)), ("0,1,2", (0, 1, 2)), ("0-4", (0, 1, 2, 3, 4)), ("5, 1-2", (5, 1, 2)), ("3-3", (3,))],
)
def test_lists_and_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert whole_numbers("--seeds", text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1.5", "-1", "4-2", "1-", "0,0", "0-2,1", "1,,2", "1-2-3"])
def test_other_texts_are_refused(text: str) -> None:
    expected = "whole numbers, each once, as in 0,1,2 or 0-4"
    with pytest.raises(InputError, match=f"--seeds: found {text}; expected {expected}"):
        whole_numbers("--seeds", text)


def test_a_run_of_several_seeds(small_factory: Path, tmp_path: Path, nearfar_command: Nearfar) -> None:
    epochs = ("--set", "autoencoder.epochs=2")
    finished = nearfar_command(
        "run", "ae-mse", "--seeds", "3-4", "--data", small_factory, "--out", tmp_path / "run", *epochs
    )
    assert finished.code == 0, finished.err
    assert "±" in finished.out
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    (system,) = table["systems"].values() if isinstance(table["systems"], dict) else table["systems"]
    assert system["seeds"] == 2
    recipe = load_recipe("ae-mse").with_changes(**{"autoencoder.epochs": 2})
    reproduce([recipe], small_factory, tmp_path / "suite", seeds=(3, 4))
    scores = {}
    for seed in (3, 4):
        one, other = (
            read_scores(tmp_path / name / f"seed_{seed}" / "ae-mse" / "scores") for name in ("run", "suite")
        )
        assert [entry.scores.tolist() for entry in one] == [entry.scores.tolist() for entry in other]
        scores[seed] = one[0].scores.tolist()
    assert scores[3] != scores[4]


@pytest.mark.parametrize("flag", ["--seed 1", "--model M", "--tensorboard"])
def test_what_is_of_one_run_does_not_go_with_several_seeds(
    flag: str, small_factory: Path, tmp_path: Path, nearfar_command: Nearfar
) -> None:
    options = ("--seeds", "0,1", "--data", small_factory, "--out", tmp_path / "run", *flag.split())
    finished = nearfar_command("run", "nearfar-best", *options)
    assert finished.code == 2
    assert f"--seeds: found {flag.split()[0]} as well" in finished.err
    assert not (tmp_path / "run").exists()
