"""Recordings of more than two channels, and of one: near and far channel numbers apply wherever files are read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nearfar.challenge.run import run_system
from nearfar.config import Recipe, load_recipe
from nearfar.data.layouts import read_dataset
from nearfar.errors import InputError
from nearfar.pipeline import preparation
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.embedding import embed_files
from nearfar.pipeline.extractor import build_extractor
from nearfar.pipeline.preparation import prepare_run

NEAR, FAR = 5, 2
NUMBERS = {"audio.near_channel": NEAR, "audio.far_channel": FAR}


def rewritten(factory: Path, to: Path, change) -> Path:
    for path in factory.rglob("*.wav"):
        sound, rate = sf.read(path, dtype="int16")
        target = to / path.relative_to(factory)
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, change(sound), rate, subtype="PCM_16")
    return to


def test_far_noise_needs_the_far_channel_before_training_begins(
    small_factory: Path, small_recipe: Recipe, tmp_path: Path
) -> None:
    mono = rewritten(small_factory, tmp_path, lambda sound: sound[:, 0])
    near = {"training.views": ["near"], "scoring.views": ["near"]}
    assert small_recipe.with_changes(**near).channels == ("near",)
    noisy = small_recipe.with_changes(**near, **{"augmentation.far_noise_probability": 0.5})
    assert noisy.channels == ("near", "far")
    with pytest.raises(InputError, match=r"found one channel; .*far_noise_probability to 0"):
        prepare_run(mono, noisy)


@pytest.fixture(scope="module")
def array(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The factory as an array of eight channels, all but two of them zero."""

    def spread(sound: np.ndarray) -> np.ndarray:
        out = np.zeros((len(sound), 8), np.int16)
        out[:, NEAR], out[:, FAR] = sound[:, 0], sound[:, 1]
        return out

    return rewritten(small_factory, tmp_path_factory.mktemp("array"), spread)


@pytest.fixture(scope="module")
def mono(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten(small_factory, tmp_path_factory.mktemp("mono"), lambda sound: sound[:, 0])


def scores_of(run) -> np.ndarray:
    return np.concatenate([entry.scores for entry in run.scores])


@pytest.mark.parametrize("name", [pytest.param("small", marks=pytest.mark.slow), "ae-mse"])
def test_an_array_scores_as_the_two_channels_do(
    name: str, small_recipe: Recipe, small_factory: Path, array: Path, tmp_path: Path
) -> None:
    recipe = small_recipe if name == "small" else load_recipe(name).with_changes(**{"autoencoder.epochs": 1})
    two = run_system(recipe, small_factory, tmp_path / "two")
    eight = run_system(recipe.with_changes(**NUMBERS), array, tmp_path / "eight")
    assert two is not None
    assert eight is not None
    np.testing.assert_array_equal(scores_of(eight), scores_of(two))
    assert eight.recipe.audio.near_channel == NEAR


def test_cached_features_of_other_channels_are_not_used(
    small_recipe: Recipe, small_factory: Path, tmp_path: Path
) -> None:
    """Two extractors of the same files and weights share one cache."""
    run = run_system(small_recipe, small_factory, tmp_path / "run")
    assert run is not None
    clips = read_dataset(small_factory).test("hummer")
    cache = FeatureCache(tmp_path / "cache")

    def near(**changes: int) -> np.ndarray:
        recipe = run.recipe.with_changes(**changes)
        return cache.get(build_extractor(recipe, tmp_path / "run" / "model"), clips)["near"].numpy()

    first = near()
    assert not np.allclose(near(**{"audio.near_channel": 1}), first)
    np.testing.assert_array_equal(near(), first)


def test_frozen_embeddings_of_a_numbered_channel(small_factory: Path, array: Path, tmp_path: Path) -> None:
    name = "hummer/train/section_00_source_train_normal_0000_spd_1.wav"
    of = {}
    for data, numbers in ((small_factory, {}), (array, {"near": NEAR, "far": FAR})):
        for channel in ("near", "far"):
            out = tmp_path / f"{data.name}_{channel}.npy"
            embed_files([data / name], "random:tiny", out, channel=channel, **numbers)
            of[data, channel] = np.load(out)
    for channel in ("near", "far"):
        np.testing.assert_array_equal(of[array, channel], of[small_factory, channel])
    assert not np.allclose(of[array, "near"], of[array, "far"])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"audio.near_channel": 8}, r"found 8 channels; expected at least 9: channel 8 \(from 0\) is the near"),
        ({"audio.near_channel": 2, "audio.far_channel": 2}, "channel 2, which is the near microphone as well"),
    ],
)
def test_numbers_that_cannot_be(
    small_recipe: Recipe, array: Path, changes: dict[str, int], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        prepare_run(array, small_recipe.with_changes(**changes))


def test_mono_recordings_train_the_near_view_only(
    small_recipe: Recipe, mono: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    preparation._log_near_only.cache_clear()
    recipe = small_recipe.with_changes(**{"scoring.views": ["near"], "training.steps": 1})
    with caplog.at_level(logging.WARNING, "nearfar"):
        run = run_system(recipe, mono, tmp_path / "run")
        prepare_run(mono, recipe)
    assert run is not None
    assert run.recipe.training.views == ("near",)
    assert load_recipe(tmp_path / "run" / "recipe.toml").training.views == ("near",)
    assert [record.message for record in caplog.records].count(
        f"{mono}: all recordings are mono: models that score the near channel are trained on it alone"
    ) == 1


def test_a_fusion_system_refuses_mono_recordings(small_recipe: Recipe, mono: Path) -> None:
    with pytest.raises(InputError, match="found one channel; expected two"):
        prepare_run(mono, small_recipe)


def test_one_mono_recording_among_others_is_refused(
    small_recipe: Recipe, small_factory: Path, tmp_path: Path
) -> None:
    data = rewritten(small_factory, tmp_path / "data", lambda sound: sound)
    path = next((data / "hummer" / "train").iterdir())
    sound, rate = sf.read(path)
    sf.write(path, sound[:, 0], rate)
    with pytest.raises(InputError, match="found one channel; expected two") as caught:
        prepare_run(data, small_recipe.with_changes(**{"scoring.views": ["near"]}))
    assert caught.value.where == path
