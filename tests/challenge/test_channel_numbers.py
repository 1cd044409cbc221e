"""Recordings of more than two channels, and of one: the numbers of near and far reach everything that reads."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from nearfar.features.embed_files import embed_files
from nearfar.features.representation import channels_heard

from nearfar import preparation as module
from nearfar.challenge.run import prepare, run_system
from nearfar.config import Recipe, load_recipe
from nearfar.errors import InputError

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
    near = {"training.channels": ["near"], "scoring.channels": ["near"]}
    assert channels_heard(small_recipe.with_changes(**near)) == ("near",)
    noisy = small_recipe.with_changes(**near, **{"augmentation.far_noise_probability": 0.5})
    assert channels_heard(noisy) == ("near", "far")
    with pytest.raises(InputError, match=r"found one channel; .*far_noise_probability to 0"):
        prepare(mono, noisy)


@pytest.fixture(scope="module")
def array(small_factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The factory as an array of eight channels, all but two of them dead, which no reader takes."""

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


@pytest.mark.parametrize("name", ["small", "ae-mse"])
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


def test_stored_embeddings_of_other_channels_are_not_taken(
    small_recipe: Recipe, small_factory: Path, tmp_path: Path
) -> None:
    """Both runs embed the same files with the same weights into one store."""
    from nearfar.features.cache import EmbeddingStore
    from nearfar.features.representation import represent

    from nearfar.data.layouts import read_dataset

    run = run_system(small_recipe, small_factory, tmp_path / "run")
    assert run is not None
    clips = read_dataset(small_factory).test("hummer")
    recipe = run.recipe
    representation = represent(recipe, tmp_path / "run" / "model")
    store = EmbeddingStore(tmp_path / "store")
    device = torch.device("cpu")

    def near() -> np.ndarray:
        return store.get(representation, clips, "near", batch_size=4, device=device)

    first = near()
    representation = replace(representation, recipe=recipe.with_changes(**{"audio.near_channel": 1}))
    assert not np.allclose(near(), first)


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
        prepare(array, small_recipe.with_changes(**changes))


def test_mono_recordings_are_trained_on_near_alone(
    small_recipe: Recipe, mono: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module._say_near_only.cache_clear()
    recipe = small_recipe.with_changes(**{"scoring.channels": ["near"], "training.steps": 1})
    with caplog.at_level(logging.WARNING, "nearfar"):
        run = run_system(recipe, mono, tmp_path / "run")
        prepare(mono, recipe)
    assert run is not None
    assert run.recipe.training.channels == ("near",)
    assert load_recipe(tmp_path / "run" / "recipe.toml").training.channels == ("near",)
    assert [record.message for record in caplog.records].count(
        f"{mono}: all recordings are mono: models that score the near channel are trained on it alone"
    ) == 1


def test_a_fusion_system_refuses_mono_recordings(small_recipe: Recipe, mono: Path) -> None:
    with pytest.raises(InputError, match="found one channel; expected two"):
        prepare(mono, small_recipe)


def test_one_mono_recording_among_others_is_refused(
    small_recipe: Recipe, small_factory: Path, tmp_path: Path
) -> None:
    data = rewritten(small_factory, tmp_path / "data", lambda sound: sound)
    path = next((data / "hummer" / "train").iterdir())
    sound, rate = sf.read(path)
    sf.write(path, sound[:, 0], rate)
    with pytest.raises(InputError, match="found one channel; expected two") as caught:
        prepare(data, small_recipe.with_changes(**{"scoring.channels": ["near"]}))
    assert caught.value.where == path
