"""From folders to an encoder that loads, from the command line."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nearfar.cli import app
from nearfar.config.validation import packaged_names
from nearfar.encoders import encoder_hash, load_encoder, save_encoder
from nearfar.encoders.eat import build_encoder
from nearfar.errors import InputError
from nearfar.pretraining.noise_aware.recipe import load_noise_aware_recipe
from nearfar.pretraining.recipe import RECIPES, PretrainRecipe, load_pretrain_recipe
from nearfar.pretraining.run import pretrain_encoder

SMALL = {
    "crop_seconds": 1.0,
    "masking.clones": 2,
    "decoder.layers": 1,
    "training.steps": 3,
    "training.batch_size": 2,
    "training.warmup_steps": 1,
    "training.checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def small() -> PretrainRecipe:
    return load_pretrain_recipe("ssl-tiny").with_changes(**SMALL)


@pytest.fixture(scope="module")
def trained(small: PretrainRecipe, small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sounds"
    shutil.copytree(small_factory / "hummer" / "train", folder)
    (folder / "ATTRIBUTION.tsv").write_text("title\tauthor\n", encoding="utf-8")
    out = folder.parent / "encoder"
    pretrain_encoder(small, [folder], out, licences=["CC0 1.0"])
    return out


def test_the_folder_loads_as_an_encoder_and_has_learned(trained: Path) -> None:
    encoder = load_encoder(trained)
    start = build_encoder("tiny", seed=0)
    moved = [(a - b).detach().abs().max() for a, b in zip(encoder.parameters(), start.parameters(), strict=True)]
    assert min(moved) > 0
    assert encoder.config == start.config
    assert not encoder.training


def test_the_card_names_data_licences_steps_seed_and_hashes(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    weights = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    loss = json.loads((trained / "log.jsonl").read_text().splitlines()[-1])["loss"]
    for fact in (
        "`sounds`: 10 recordings, 0.00 h",
        "licence: CC0 1.0",
        "attribution: see `ATTRIBUTION-sounds.tsv`",
        "3 steps of 2 crops of 1 s",
        "seed 0",
        weights,
        encoder_hash(load_encoder(trained)),
        f"loss {loss:.4g}",
        "has not been measured",
    ):
        assert fact in card
    assert str(trained.parent) not in card
    assert (trained / "ATTRIBUTION-sounds.tsv").read_text() == "title\tauthor\n"


def test_recipe_environment_and_facts_lie_beside_the_weights(trained: Path, small: PretrainRecipe) -> None:
    assert load_pretrain_recipe(trained / "recipe.toml") == small
    assert json.loads((trained / "environment.json").read_text())["torch"] == torch.__version__
    facts = json.loads((trained / "pretraining.json").read_text())
    assert facts["steps"] == 3
    assert facts["seconds"] > facts["wait_seconds"] >= 0
    assert not (trained / "checkpoint.safetensors").exists()


def test_a_finished_training_is_not_repeated_and_another_is_refused(trained: Path, small: PretrainRecipe) -> None:
    sounds = trained.parent / "sounds"
    before = (trained / "model.safetensors").stat().st_mtime_ns
    assert pretrain_encoder(small, [sounds], trained) == json.loads((trained / "pretraining.json").read_text())
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another recipe"):
        pretrain_encoder(small.with_changes(seed=1), [sounds], trained)


def test_pretraining_starts_from_an_encoder(trained: Path, tmp_path: Path, small: PretrainRecipe) -> None:
    save_encoder(build_encoder("tiny", seed=5), tmp_path / "released")
    adapt = small.with_changes(**{"encoder.weights": str(tmp_path / "released"), "training.learning_rate": 1e-7})
    pretrain_encoder(adapt, [trained.parent / "sounds"], tmp_path / "adapted")
    start, adapted = (load_encoder(tmp_path / name).state_dict() for name in ("released", "adapted"))
    largest = max(float((start[name] - adapted[name]).abs().max()) for name in start)
    assert 0 < largest < 1e-5


def test_the_command_pretrains_and_prints_json(trained: Path, tmp_path: Path) -> None:
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    sounds = str(trained.parent / "sounds")
    done = CliRunner().invoke(
        app, ["pretrain", "--data", sounds, "--out", str(tmp_path / "out"), "--json", "--seed", "2", *settings]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 3
    assert load_pretrain_recipe(tmp_path / "out" / "recipe.toml").seed == 2


# --- recipes ----------------------------------------------------------------------------------------------------


def test_packaged_recipes_are_read_and_the_base_one_is_the_published() -> None:
    names = packaged_names(RECIPES)
    assert names == ["adapt", "noise-aware", "noise-aware-tiny", "ssl-base", "ssl-tiny"]
    for name in names:
        load = load_noise_aware_recipe if name.startswith("noise-aware") else load_pretrain_recipe
        assert load(name).name == name
    base = load_pretrain_recipe("ssl-base")
    assert (base.masking.clones, base.masking.ratio, base.masking.block) == (16, 0.8, 5)
    assert (base.teacher.start, base.teacher.end, base.teacher.anneal_steps) == (0.9998, 0.99999, 100_000)
    assert (base.training.steps, base.training.warmup_steps, base.training.clip_norm) == (400_000, 53_333, 4.0)
    assert base.training.batch_size * base.masking.clones / 4 == base.training.utterance_weight


def test_recipe_errors_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pre-training recipe"):
        load_pretrain_recipe("eat-huge")
    (tmp_path / "r.toml").write_text('name = "r"\n[masking]\nblock = 4\n')
    with pytest.raises(InputError, match=r"masking\.block = 4; expected an odd number"):
        load_pretrain_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text('name = "r"\nsteps = 4\n')
    with pytest.raises(InputError, match="unknown key steps"):
        load_pretrain_recipe(tmp_path / "r.toml")


def test_model_key_ignores_what_only_decides_speed(small: PretrainRecipe) -> None:
    faster = small.with_changes(**{"training.loader_threads": 7, "training.micro_batch_size": 1, "name": "x"})
    assert faster.model_key() == small.model_key()
    assert small.with_changes(**{"masking.clones": 3}).model_key() != small.model_key()
    assert PretrainRecipe.model_validate(tomllib.loads(small.to_toml())) == small
