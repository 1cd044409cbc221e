"""Which encoder commands take where none is named, and that they say so once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.test_cli import SHORT, Nearfar, nearfar_command  # noqa: F401

from nearfar import Detector
from nearfar.cli.encoders import NOTE, EncoderAtHand
from nearfar.config import load_recipe
from nearfar.config.pretraining import load_pretrain_recipe

EAT_BASE = "worstchan/EAT-base_epoch30_pretrain"


@pytest.fixture
def no_eat_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.models.hub.is_cached", lambda name: False)


@pytest.mark.usefixtures("no_eat_base")
def test_a_recipe_of_eat_base_gets_eat_tiny_and_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    at_hand = EncoderAtHand(None)
    systems = ("eat-near", "eat-lora-fusion", "frozen-eat")
    assert [at_hand(load_recipe(name)).encoder.weights for name in systems] == ["eat-tiny"] * 3
    assert at_hand(load_pretrain_recipe("adapt")).encoder.weights == "eat-tiny"
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("nearfar download eat-base") == 1
    assert at_hand.noted(None) == NOTE
    assert at_hand.noted("Surrogate data.") == f"Surrogate data. {NOTE}"


@pytest.mark.usefixtures("no_eat_base")
@pytest.mark.parametrize("system", ["nearfar-best", "ae-mse", "tiny-near"])
def test_recipes_without_eat_base_are_left_alone(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    at_hand = EncoderAtHand(None)
    assert at_hand(load_recipe(system)) == load_recipe(system)
    assert at_hand.noted(None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_eat_base")
def test_an_encoder_that_is_named_is_taken_even_where_it_is_not_at_hand() -> None:
    recipe = load_recipe("eat-near")
    assert EncoderAtHand(EAT_BASE)(recipe) == recipe
    assert EncoderAtHand(None, ["seed=3", f"encoder.weights={EAT_BASE}"])(recipe) == recipe
    assert EncoderAtHand(None, ["seed=3"])(recipe) != recipe


def test_eat_base_is_taken_where_it_was_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nearfar.models.hub.is_cached", lambda name: name == EAT_BASE)
    at_hand = EncoderAtHand(None)
    assert at_hand(load_recipe("eat-near")) == load_recipe("eat-near")
    assert at_hand.noted("Surrogate data.") == "Surrogate data."
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_eat_base")
def test_run_and_reproduce_note_the_encoder_beside_their_results(
    nearfar_command: Nearfar,  # noqa: F811
    small_factory: Path,
    tmp_path: Path,
) -> None:
    short = [*SHORT, "--set", "audio.clip_seconds=1.0", "--data", small_factory, "--json"]
    run = nearfar_command("run", "eat-near", "--out", tmp_path / "run", *short)
    assert run.code == 0, run.err
    assert json.loads(run.out)["notes"] == [NOTE]
    assert 'weights = "eat-tiny"' in (tmp_path / "run" / "recipe.toml").read_text()
    suite = nearfar_command("reproduce", "--systems", "eat-near,eat-fusion", "--out", tmp_path / "suite", *short)
    assert suite.code == 0, suite.err
    assert suite.err.count("nearfar download eat-base") == 1
    assert json.loads(suite.out)["notes"] == [NOTE]


@pytest.mark.usefixtures("no_eat_base")
def test_fit_and_ablate_take_it_too(
    nearfar_command: Nearfar,  # noqa: F811
    small_factory: Path,
    tmp_path: Path,
) -> None:
    detector = tmp_path / "detector"
    fitted = nearfar_command("fit", small_factory, "--out", detector, "--recipe", "frozen-eat")
    assert fitted.code == 0, fitted.err
    assert fitted.err.count("nearfar download eat-base") == 1
    assert Detector.load(detector).recipe.encoder.weights == "eat-tiny"
    grid = tmp_path / "grid.toml"
    grid.write_text('base = "frozen-eat"\nagainst = "frozen-eat"\n[axes]\n"features.keep_bands" = [true, false]\n')
    options = ["--data", small_factory, "--out", tmp_path / "out", "--resamples", 20, "--json"]
    found = nearfar_command("ablate", grid, *options)
    assert found.code == 0, found.err
    assert found.err.count("nearfar download eat-base") == 1
    assert json.loads(found.out)["notes"] == [NOTE]


@pytest.mark.usefixtures("no_eat_base")
def test_embed_takes_it_too(
    nearfar_command: Nearfar,  # noqa: F811
    small_factory: Path,
    tmp_path: Path,
) -> None:
    file = next((small_factory / "hummer" / "train").glob("*.wav"))
    finished = nearfar_command("embed", file, "--out", tmp_path / "none.npy")
    assert finished.code == 0, finished.err
    assert finished.err.count("nearfar download eat-base") == 1
    named = nearfar_command("embed", file, "--encoder", "eat-tiny", "--out", tmp_path / "named.npy")
    assert "nearfar download" not in named.err
    assert np.array_equal(np.load(tmp_path / "none.npy"), np.load(tmp_path / "named.npy"))
