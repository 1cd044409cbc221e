"""The encoder that commands use where none is named, and the note about it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.command import Nearfar
from tests.test_cli import SHORT

from nearfar import Detector
from nearfar.ablation.grid import load_grid
from nearfar.challenge.reproduce import reproduce
from nearfar.cli.encoders import EAT_BASE, NOTE, DefaultEncoder, noted
from nearfar.config import load_recipe
from nearfar.pretraining.recipe import load_pretrain_recipe


@pytest.fixture
def no_eat_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.encoders.hub.is_cached", lambda name: False)


@pytest.mark.usefixtures("no_eat_base")
def test_a_recipe_of_eat_base_gets_eat_tiny_with_one_note(capsys: pytest.CaptureFixture[str]) -> None:
    with_default = DefaultEncoder(None)
    recipes = [with_default(load_recipe(name)) for name in ("eat-near", "eat-lora-fusion", "frozen-eat")]
    assert [recipe.encoder.weights for recipe in recipes] == ["eat-tiny"] * 3
    adapted = with_default(load_pretrain_recipe("adapt"))
    assert adapted.encoder.weights == "eat-tiny"
    assert adapted.description.endswith(NOTE), "the model card has it"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("nearfar download eat-base") == 1
    assert noted(None, *recipes) == NOTE
    assert noted("Surrogate data.", *recipes) == f"Surrogate data. {NOTE}"


@pytest.mark.usefixtures("no_eat_base")
@pytest.mark.parametrize("system", ["nearfar-best", "ae-mse", "tiny-near"])
def test_recipes_without_eat_base_are_not_changed(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = DefaultEncoder(None)(load_recipe(system))
    assert recipe == load_recipe(system)
    assert noted(None, recipe) is None
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("no_eat_base")
@pytest.mark.parametrize(
    "setting", [f"encoder.weights={EAT_BASE}", f'encoder = {{weights = "{EAT_BASE}"}}', "encoder.revision=abc"]
)
def test_a_named_encoder_is_used_even_if_it_is_not_downloaded(setting: str) -> None:
    recipe = load_recipe("eat-near")
    assert DefaultEncoder(EAT_BASE)(recipe) == recipe
    assert DefaultEncoder(None, ["seed=3", setting])(recipe) == recipe
    assert DefaultEncoder(None, ["seed=3", "encoder.drop_path=0.0"])(recipe) != recipe


@pytest.mark.usefixtures("no_eat_base")
def test_a_recipe_file_may_name_eat_base_itself(tmp_path: Path) -> None:
    for text, stays in (("", False), (f'[encoder]\nweights = "{EAT_BASE}"\n', True)):
        mine = tmp_path / "mine.toml"
        mine.write_text(f'extends = "eat-near"\nname = "mine"\n{text}')
        recipe = load_recipe(mine)
        assert (DefaultEncoder(None, None, mine)(recipe) == recipe) == stays


def test_eat_base_is_used_where_it_was_downloaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nearfar.encoders.hub.is_cached", lambda name: name == EAT_BASE)
    recipe = DefaultEncoder(None)(load_recipe("eat-near"))
    assert recipe == load_recipe("eat-near")
    assert noted("Surrogate data.", recipe) == "Surrogate data."
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("started", "cached"), [(EAT_BASE, False), ("eat-tiny", True)])
@pytest.mark.parametrize("kind", ["run", "model"])
def test_unfinished_work_is_resumed_with_its_encoder(
    started: str, cached: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nearfar.encoders.hub.is_cached", lambda name: cached)
    recipe = load_recipe("eat-near")
    made = recipe.with_changes(**{"encoder.weights": started})
    if kind == "run":
        (tmp_path / "recipe.toml").write_text(made.to_toml())
    else:
        (tmp_path / "model.json").write_text(json.dumps({"recipe": made.model_dump(mode="json")}))
    with_default = DefaultEncoder(None)
    assert with_default(recipe, tmp_path / "none", tmp_path).encoder.weights == started
    assert with_default(recipe, tmp_path / "none").encoder.weights == (EAT_BASE if cached else "eat-tiny")


@pytest.mark.parametrize("text", ["[encoder", "encoder = 3", '[encoder]\nweights = "random:tiny"'])
@pytest.mark.usefixtures("no_eat_base")
def test_unreadable_files_and_other_encoders_are_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    (tmp_path / "model.json").write_text("[]")
    assert DefaultEncoder(None)(load_recipe("eat-near"), tmp_path).encoder.weights == "eat-tiny"


@pytest.mark.usefixtures("no_eat_base")
def test_only_the_first_process_prints_the_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert DefaultEncoder(None)(load_recipe("eat-near")).encoder.weights == "eat-tiny"
    assert capsys.readouterr().err == ""


GRIDS = {
    # base, against, axes; the encoders of base and reference
    "base and reference": ("frozen-eat", "frozen-eat", '"features.keep_bands" = [true, false]', "tt"),
    "reference": ("nearfar-best", "frozen-eat", '"features.keep_bands" = [true, false]', "bt"),
    "a combination": ("nearfar-best", "base", '"features.source" = ["log-mel", "tokens"]', "t"),
    "none": ("nearfar-best", "ae-mse", '"features.keep_bands" = [true, false]', "bb"),
    "on an axis": ("frozen-eat", "base", f'"encoder.weights" = ["random:tiny", "{EAT_BASE}"]', "b"),
}


@pytest.mark.usefixtures("no_eat_base")
@pytest.mark.parametrize("case", GRIDS)
def test_grids_get_it_where_they_use_an_encoder(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, against, axes, expected = GRIDS[case]
    (tmp_path / "grid.toml").write_text(f'base = "{base}"\nagainst = "{against}"\n[axes]\n{axes}\n')
    recipes = DefaultEncoder(None).grid(load_grid(tmp_path / "grid.toml")).recipes()
    names = {"t": "eat-tiny", "b": EAT_BASE}
    assert [recipe.encoder.weights for recipe in recipes] == [names[letter] for letter in expected]
    assert capsys.readouterr().err.count("nearfar download eat-base") == ("t" in expected)
    assert noted(None, *recipes) == (NOTE if "t" in expected else None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_eat_base")
def test_run_and_reproduce_note_the_encoder_beside_their_results(
    nearfar_command: Nearfar,
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
def test_only_systems_with_the_encoder_are_noted(small_factory: Path, tmp_path: Path) -> None:
    recipes = [load_recipe("nearfar-best"), DefaultEncoder(None)(load_recipe("frozen-eat"))]
    remarks = {recipe.name: NOTE for recipe in recipes if noted(None, recipe)}
    reproduce(recipes, small_factory, tmp_path, note="Made up.", remarks=remarks)
    notes = {
        name: json.loads((tmp_path / file).read_text())["notes"]
        for name, file in (
            ("own", "nearfar-best/results.json"),
            ("eat", "frozen-eat/results.json"),
            ("all", "table.json"),
        )
    }
    assert notes == {"own": ["Made up."], "eat": [f"Made up. {NOTE}"], "all": ["Made up.", NOTE]}


@pytest.mark.usefixtures("no_eat_base")
def test_fit_and_ablate_use_it(
    nearfar_command: Nearfar,
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
def test_embed_uses_it(
    nearfar_command: Nearfar,
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
