"""The recipe: what it accepts, how it is read and written, and what makes two models the same."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nearfar.config import (
    CalibrationTable,
    FeaturesTable,
    Inference,
    Recipe,
    Scoring,
    ThresholdTable,
    list_recipes,
    load_recipe,
)
from nearfar.config.recipe import own_tables
from nearfar.errors import InputError
from nearfar.settings import Settings, keys_of

SYSTEMS = ("fusion", "lora-fusion", "near", "lora-near")
RECIPES = [
    "ae-mahala",
    "ae-mse",
    "auto",
    "eat-lora-cancelled",
    "eat-noise-aware",
    "frozen-beats",
    "frozen-dasheng",
    "frozen-eat",
    "frozen-near",
    "frozen-noise-aware",
    "nearfar-best",
    "tiny-noise-aware",
    "w1-lora",
    "w1-lora-beats",
    *(f"{size}-{system}" for size in ("eat", "tiny") for system in SYSTEMS),
]
TABLES = (
    *(key for key, field in Recipe.model_fields.items() if key not in ("name", "description", "seed")),
    *own_tables(),
)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        out |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out


def differing(a: Recipe, b: Recipe) -> set[str]:
    left, right = leaves(a.model_dump()), leaves(b.model_dump())
    assert left.keys() == right.keys()
    return {key for key in left if left[key] != right[key]}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- the recipes that come with the package ---------------------------------------------------------------------


def test_every_system_has_a_recipe() -> None:
    assert list_recipes() == sorted(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_packaged_recipe_carries_its_own_name_and_says_what_it_is(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_the_eat_recipes_say_what_the_report_states() -> None:
    recipe = load_recipe("eat-fusion")
    training = recipe.training
    assert (training.steps, training.batch_size, training.learning_rate) == (20_000, 16, 5e-5)
    assert recipe.audio.clip_seconds == 16.0
    assert recipe.audio.sample_rate_hz == 16_000
    assert training.views == ("near", "far")
    assert training.adaptation == "full"
    assert recipe.backend_settings().neighbours == 1
    assert (recipe.scoring.backend, recipe.scoring.fusion) == ("nearest-neighbours", "mean")
    assert not recipe.encoder.mask_padding
    augmentation = recipe.augmentation
    off = augmentation.model_dump(exclude={"far_noise_snr_db"})  # without a probability it says nothing
    assert not any(off.values()), "the report augments nothing"


@pytest.mark.parametrize("size", ["eat", "tiny"])
def test_near_and_fusion_systems_share_a_model_and_lora_has_its_own(size: str) -> None:
    recipes = {system: load_recipe(f"{size}-{system}") for system in SYSTEMS}
    for kind in ("", "lora-"):
        fusion, near = recipes[f"{kind}fusion"], recipes[f"{kind}near"]
        assert differing(fusion, near) == {"name", "description", "scoring.views"}
        assert fusion.scoring.views == ("near", "far")
        assert near.scoring.views == ("near",)
        assert fusion.model_key() == near.model_key()
    assert recipes["fusion"].training.adaptation == "full"
    assert recipes["lora-fusion"].training.adaptation == "lora"
    assert recipes["fusion"].model_key() != recipes["lora-fusion"].model_key()


# --- reading and writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_toml_holds_the_whole_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    text = recipe.to_toml()
    assert "extends" not in tomllib.loads(text)
    assert load_recipe(write(tmp_path / "recipe.toml", text)) == recipe
    # Nothing is left to a default that a later version may change, but what TOML cannot say.
    written = leaves(tomllib.loads(text))
    assert {key for key in leaves(recipe.model_dump()) if key not in written} == {
        key for key, value in leaves(recipe.model_dump()).items() if value is None
    }


@given(
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(1e-300, 1e300),
    margin=st.floats(0, 3.14),
    micro=st.none() | st.integers(1, 10_000),
    seconds=st.just("longest") | st.floats(0.01, 1e6),
    channels=st.sampled_from([["near"], ["far"], ["near", "far"], ["far", "near"]]),
    description=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_recipe_comes_back_from_toml(
    seed: int,
    rate: float,
    margin: float,
    micro: int | None,
    seconds: str | float,
    channels: list[str],
    description: str,
) -> None:
    recipe = load_recipe("eat-lora-near").with_changes(
        **{
            "seed": seed,
            "training.learning_rate": rate,
            "head.margin": margin,
            "training.micro_batch_size": micro,
            "audio.clip_seconds": seconds,
            "training.views": channels,
            "description": description,
        }
    )
    assert Recipe.model_validate(tomllib.loads(recipe.to_toml())) == recipe
    assert recipe.training.views == tuple(channels)


def test_extends_states_only_what_differs_and_finds_its_parent_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path / "below" / "middle.toml", 'extends = "tiny-near"\n[training]\nsteps = 7\nbetas = [0.5, 0.6]\n')
    own = 'name = "mine"\n[training]\nbatch_size = 5\n'
    top = write(tmp_path / "top.toml", f'extends = "below/middle.toml"\n{own}')
    recipe = load_recipe(top)
    assert differing(recipe, load_recipe("tiny-near")) == {
        "name",
        "training.steps",
        "training.betas",
        "training.batch_size",
    }
    assert (recipe.training.steps, recipe.training.batch_size) == (7, 5)
    assert recipe.training.betas == (0.5, 0.6)


def test_a_parent_may_be_named_by_its_absolute_path(tmp_path: Path) -> None:
    parent = write(tmp_path / "there" / "parent.toml", 'name = "parent"\nseed = 5\n')
    child = write(tmp_path / "here" / "child.toml", f'extends = "{parent}"\nname = "child"\n')
    assert load_recipe(child) == Recipe(name="child", seed=5)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    recipe = load_recipe("tiny-near")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.training.steps = 1  # type: ignore[misc]


def test_with_changes_changes_a_copy_and_only_what_is_named() -> None:
    recipe = load_recipe("tiny-near")
    before = copy.deepcopy(recipe)
    changed = recipe.with_changes(**{"seed": 3, "training.steps": 11, "encoder.revision": "abc"})
    assert recipe == before
    assert differing(recipe, changed) == {"seed", "training.steps", "encoder.revision"}
    assert (changed.seed, changed.training.steps, changed.encoder.revision) == (3, 11, "abc")
    assert changed.with_changes(**{"encoder.revision": None}).encoder.revision is None


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["", *TABLES])
def test_an_unknown_key_is_an_error_that_names_it(table: str, tmp_path: Path) -> None:
    header = f"[{table}]\n" if table else ""
    file = write(tmp_path / "recipe.toml", f'extends = "eat-near"\n{header}stpes = 3\n')
    with pytest.raises(InputError) as error:
        load_recipe(file)
    dotted = f"{table}.stpes" if table else "stpes"
    assert str(file) in str(error.value)
    assert f"the unknown key {dotted};" in str(error.value)
    with pytest.raises(InputError, match=f"the unknown key {dotted}"):
        load_recipe("eat-near").with_changes(**{dotted: 3})


@pytest.mark.parametrize("dotted", ["name.more", "training.steps.more", "no_table.key", "training.betas.0"])
def test_with_changes_refuses_a_key_below_what_is_no_table(dotted: str) -> None:
    with pytest.raises(InputError, match="the unknown key"):
        load_recipe("eat-near").with_changes(**{dotted: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("audio.sample_rate_hz", 44_100),
        ("audio.clip_seconds", 0.0),
        ("audio.clip_seconds", "shortest"),
        ("fbank.mean", float("nan")),
        ("fbank.std", 0.0),
        ("encoder.drop_path", 1.0),  # a branch that is never kept would be divided by 0
        ("head.margin", 3.2),
        ("head.margin", -0.1),
        ("head.scale", 0.0),
        ("head.embedding_dim", 0),
        ("lora.rank", 0),
        ("lora.dropout", 1.0),
        ("lora.targets", []),
        ("training.adaptation", "frozen"),
        ("training.views", []),
        ("training.views", ["near", "near"]),
        ("training.views", ["left"]),
        ("training.steps", 0),
        ("training.steps", 1.5),
        ("training.micro_batch_size", 0),
        ("training.learning_rate", float("inf")),
        ("training.betas", [0.9, 1.0]),  # torch's AdamW refuses it
        ("training.betas", [0.9]),
        ("training.precision", "fp16"),
        ("augmentation.mixup_probability", 1.1),
        ("augmentation.gain_db", -1.0),
        ("augmentation.frequency_mask_bins", 129),
        ("scoring.neighbours", 0),
        ("scoring.fusion", "max"),
        ("scoring.views", []),
        ("scoring.batch_size", 0),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_that_names_its_key(key: str, value: object) -> None:
    with pytest.raises(InputError) as error:
        load_recipe("eat-near").with_changes(**{key: value})
    message = str(error.value)
    # The position within a list may follow; what pydantic calls the branches of a union may not.
    assert f"found {key} = " in message or f"found {key}." in message or f"found no {key}." in message
    assert "constrained" not in message
    assert "literal" not in message.split(";")[0]


def test_the_message_of_a_length_names_both_things_it_may_be() -> None:
    with pytest.raises(InputError, match=r"expected a number or 'longest', did you mean 'longest'\?"):
        load_recipe("eat-near").with_changes(**{"audio.clip_seconds": "long"})


def test_a_recipe_without_a_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no name;"):
        load_recipe(write(tmp_path / "recipe.toml", "seed = 1\n"))


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="a TOML file, did you mean 'nearfar-best'\\?"):
        load_recipe("nearfarbest")
    with pytest.raises(InputError, match="no recipe of that name") as error:
        load_recipe("eat-fuson")
    for name in list_recipes():
        assert name in str(error.value)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"[a]\n[a]\n"])
def test_a_file_that_is_not_toml_is_an_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not TOML") as error:
        load_recipe(file)
    assert str(file) in str(error.value)


def test_a_parent_that_is_missing_or_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml.*no such file"):
        load_recipe(write(tmp_path / "a.toml", 'extends = "gone.toml"\n'))
    with pytest.raises(InputError, match="found extends = 3"):
        load_recipe(write(tmp_path / "b.toml", "extends = 3\n"))


@pytest.mark.parametrize("parent", ["b.toml", "../here/b.toml"])
def test_recipes_that_extend_each_other_are_an_error(parent: str, tmp_path: Path) -> None:
    first = write(tmp_path / "here" / "a.toml", f'name = "a"\nextends = "{parent}"\n')
    write(tmp_path / "here" / "b.toml", 'extends = "../here/a.toml"\n')
    with pytest.raises(InputError, match="extend each other"):
        load_recipe(first)
    selfish = write(tmp_path / "self.toml", 'extends = "self.toml"\n')
    with pytest.raises(InputError, match="extend each other"):
        load_recipe(selfish)


# --- which recipes train the same model -------------------------------------------------------------------------

OF_SCORING = {
    f"{table}.{key}"
    for table, kind in (
        ("features", FeaturesTable),
        ("inference", Inference),
        ("scoring", Scoring),
        ("threshold", ThresholdTable),
        ("calibration", CalibrationTable),
        ("cancellation", own_tables()["cancellation"]),
        ("autoencoder", own_tables()["autoencoder"]),
    )
    for key in keys_of(kind)
}
SAME_MODEL = OF_SCORING | {
    "head.adaptive_scale",  # of a loss that these recipes do not choose
    "name",
    "description",
    "audio.hop_seconds",
    "training.checkpoint_every",
    "training.loader_threads",
    "training.activation_checkpointing",
    "training.micro_batch_size",
}
"""Changing these leaves the trained weights alone (up to rounding, for the size of a forward pass)."""

NO_OTHER_VALUE = {"audio.sample_rate_hz"}

OTHER = {
    "audio.hop_seconds": 1.0,
    "encoder.revision": "abc",
    "head.loss": "adacos",
    "training.adaptation": "full",
    "training.views": ["near"],
    "training.precision": "bf16",
    "training.pseudo_label_features": "encoder",
    "augmentation.crop_seconds": 0.5,
    "training.betas": [0.1, 0.2],
    "training.micro_batch_size": 2,
    "training.clip_norm": 1.0,
    "lora.targets": ["mlp.fc1"],
    "augmentation.far_noise_snr_db": [0.0, 10.0],
    "features.source": "tokens",
    "inference.speedups": ["int8"],
    "features.layers": [1, 2],
    "features.pooling": "rdp",
    "features.lags": [1],
    "scoring.views": ["far"],
    "scoring.backend": "mahalanobis",
    "scoring.distance": "standardised",
    "scoring.normalisation": "ratio",
    "scoring.over_parts": "max",
    "scoring.domains": "separate",
    "scoring.enrichment": "smote",
    "scoring.fusion": "standardised",
    "scoring.prototypes": 8,
    "threshold.rule": "empirical",
    "threshold.false_alarm_rate": 0.2,
    "threshold.domains": "separate",
    "calibration.method": "split",
    "cancellation.window_samples": 2048,
    "cancellation.hop_samples": 256,
    "cancellation.gain_limit": 1.0,
    "cancellation.smooth_frames": 2,
    "autoencoder.score": "mahala",
}
NO_CHOICE = {"encoder.family", "head.pooling"}
"""Tables with a single entry."""


def default_of(kind: type[Settings], key: str) -> object:
    """The default of a key of a table, or of the settings of one of its choices."""
    if key in kind.model_fields:
        return kind.model_fields[key].default
    entries = [entry for table in kind.choices.values() for entry in table.values() if entry.table is None]
    return next(default_of(entry.settings, key) for entry in entries if key in keys_of(entry.settings))


def every_key(recipe: Recipe) -> dict[str, object]:
    """All keys that a recipe may have, with its values or, for choices not made, their defaults."""
    tables = {name: Recipe.model_fields[name].annotation for name in TABLES if name in Recipe.model_fields}
    values = {
        f"{name}.{key}": default_of(kind, key)
        for name, kind in (tables | own_tables()).items()
        for key in keys_of(kind)
    }
    return {key: value for key, value in (values | leaves(recipe.model_dump())).items() if key not in NO_CHOICE}


def other_value(key: str, value: object) -> object:
    if key in OTHER and OTHER[key] != value:
        return OTHER[key]
    if key == "autoencoder.score":
        return "mse"
    if isinstance(value, bool):
        return not value
    if value == "longest":
        return 7.5
    if isinstance(value, str):
        return value + "x"
    assert isinstance(value, int | float), key
    return value + 1 if isinstance(value, int) else value / 2 + 0.01


def keys_that_train_another_model(recipe: Recipe) -> set[str]:
    changed = set()
    for key, value in every_key(recipe).items():
        if key in NO_OTHER_VALUE:
            continue
        other = recipe.with_changes(**{key: other_value(key, value)})
        assert other != recipe
        if other.model_key() != recipe.model_key():
            changed.add(key)
    return changed


def test_the_model_key_changes_with_every_key_that_trains_another_model() -> None:
    recipe = load_recipe("eat-lora-near")
    expected = every_key(recipe).keys() - SAME_MODEL - NO_OTHER_VALUE
    assert {"training.steps", "head.margin", "lora.rank", "encoder.mask_padding"} <= expected
    assert keys_that_train_another_model(recipe) == expected


def test_how_far_is_cancelled_enters_the_key_of_a_model_that_is_trained_on_it() -> None:
    usual = load_recipe("eat-near")
    trained_on_it = usual.with_changes(**{"training.views": ["near", "far", "cancelled"]})
    assert len({usual.model_key(), trained_on_it.model_key()}) == 2
    assert trained_on_it.with_changes(**{"cancellation.gain_limit": 1.0}).model_key() != trained_on_it.model_key()


KEYS = {
    "ae-mahala": "2bf3c554ec4c04ce",
    "ae-mse": "2bf3c554ec4c04ce",
    "eat-fusion": "fa9f1c84673d4e1b",
    "eat-lora-fusion": "114095cc0b664ec3",
    "eat-lora-near": "114095cc0b664ec3",
    "eat-near": "fa9f1c84673d4e1b",
    "tiny-fusion": "5fffe7e1a3513af7",
    "tiny-lora-fusion": "41495d643b580eba",
    "tiny-lora-near": "41495d643b580eba",
    "tiny-near": "5fffe7e1a3513af7",
}


@pytest.mark.parametrize("name", KEYS)
def test_models_that_were_trained_before_keep_their_keys(name: str) -> None:
    assert load_recipe(name).model_key() == KEYS[name]


def test_the_key_of_an_autoencoder_follows_from_its_training_and_no_more() -> None:
    recipe = load_recipe("ae-mahala")
    assert recipe.model_key() == load_recipe("ae-mse").model_key()
    assert keys_that_train_another_model(recipe) == {
        "seed",
        "audio.near_channel",
        "training.adaptation",  # then it is the encoder that is trained
        "scoring.backend",
        "autoencoder.epochs",
        "autoencoder.batch_size",
        "autoencoder.learning_rate",
        "autoencoder.validation_fraction",
    }


def test_lora_settings_do_not_enter_the_key_of_a_full_model() -> None:
    full = load_recipe("eat-fusion")
    assert full.with_changes(**{"lora.rank": 3}).model_key() == full.model_key()
    lora = full.with_changes(**{"training.adaptation": "lora"})
    assert lora.with_changes(**{"lora.rank": 3}).model_key() != lora.model_key()


def test_the_model_key_is_sixteen_hexadecimal_digits_and_survives_toml(tmp_path: Path) -> None:
    recipe = load_recipe("tiny-lora-fusion")
    key = recipe.model_key()
    assert len(key) == 16
    assert int(key, 16) >= 0
    assert load_recipe(write(tmp_path / "recipe.toml", recipe.to_toml())).model_key() == key


def test_every_table_is_frozen() -> None:
    recipe = load_recipe("eat-near")
    for table in TABLES:
        kind = (own_tables() | {name: type(value) for name, value in recipe})[table]
        assert issubclass(kind, Settings)
        assert kind.model_config["frozen"]
