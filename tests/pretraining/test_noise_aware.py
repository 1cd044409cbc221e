"""Noise-aware layers trained in simulated rooms: rooms, batches, resuming, the folder and its use."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from scipy.signal import fftconvolve
from tests.command import Nearfar

from nearfar.checkpoint import Identity
from nearfar.data.recordings import find_recordings
from nearfar.encoders import encoder_hash
from nearfar.encoders.eat import build_encoder
from nearfar.encoders.noise_aware import NoiseAwareEAT, load_noise_aware
from nearfar.errors import InputError
from nearfar.pretraining.noise_aware.batches import RoomBatches
from nearfar.pretraining.noise_aware.recipe import NoiseAwareRecipe, Rooms, load_noise_aware_recipe
from nearfar.pretraining.noise_aware.rooms import build_room, render
from nearfar.pretraining.noise_aware.run import errors_in_unused_rooms, pretrain_layers
from nearfar.pretraining.noise_aware.training import NoiseAwareLearner, train_layers

pytest.importorskip("pyroomacoustics")

RATE_HZ = 16_000
SMALL = {
    "crop_seconds": 1.0,
    "encoder.weights": "random:tiny",
    "rooms.count": 3,
    "rooms.most_reflections": 3,
    "training.steps": 4,
    "training.batch_size": 2,
    "training.checkpoint_every": 2,
}


@pytest.fixture(scope="module")
def small() -> NoiseAwareRecipe:
    return load_noise_aware_recipe("noise-aware-tiny").with_changes(**SMALL)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tones (machines) and of coloured noise."""
    root, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    for kind in ("machines", "noises"):
        (root / kind).mkdir()
        for number in range(4):
            tone = sum(np.sin(2 * np.pi * 180 * (number + 1) * k * time_s) / k for k in range(1, 6))
            noise = np.convolve(rng.standard_normal(len(time_s)), rng.standard_normal(16), mode="same")
            signal = tone if kind == "machines" else noise
            sf.write(root / kind / f"{kind}-{number}.wav", 0.2 * signal / np.abs(signal).max(), RATE_HZ)
    return {kind: root / kind for kind in ("machines", "noises")}


@pytest.fixture(scope="module")
def batches(small: NoiseAwareRecipe, sounds: dict[str, Path]) -> RoomBatches:
    return RoomBatches(*(find_recordings([sounds[kind]]) for kind in ("machines", "noises")), small)


# --- rooms -------------------------------------------------------------------------------------------------------


def test_the_microphones_stand_where_the_settings_say() -> None:
    rooms = Rooms(near_m=0.05, far_m=(1.0, 1.0), side_m=(4.0, 5.0), most_reflections=2)
    for number in range(5):
        room = build_room(rooms, 0, number)
        near, far = (int(np.abs(response).argmax()) for response in room.machine)
        assert far - near == pytest.approx((1.0 - 0.05) / 343 * RATE_HZ, abs=1.5)
        assert np.abs(room.machine[0]).max() / np.abs(room.machine[1]).max() == pytest.approx(20, rel=0.1)
        assert room.noises.shape[:2] == (4, 2)


def test_the_wanted_response_is_that_of_near_up_to_50_ms() -> None:
    room = build_room(Rooms(most_reflections=6), 3, 0)
    end = int(np.abs(room.machine[0]).argmax()) + 800
    np.testing.assert_array_equal(room.wanted[:end], room.machine[0][:end])
    assert not room.wanted[end:].any()
    assert room.machine[0][end:].any()


def test_rendering_is_convolution_at_the_signal_to_noise_ratio() -> None:
    room, rng = build_room(Rooms(most_reflections=3), 1, 2), np.random.default_rng(4)
    machine = rng.standard_normal(8000).astype(np.float32)
    noises = (rng.standard_normal((4, 8000)) * [[1], [3], [0.1], [7]]).astype(np.float32)
    noisy, wanted = render(room, machine, noises, snr_db=-6.0)
    images = np.stack([fftconvolve(machine, response)[:8000] for response in room.machine])
    unit = noises / np.sqrt(np.square(noises).mean(axis=1, keepdims=True))
    noise = np.zeros((2, 8000))
    for source, responses in zip(unit, room.noises, strict=True):
        noise += [fftconvolve(source, response)[:8000] for response in responses]
    left = noisy - images
    scale = (left * noise).sum() / np.square(noise).sum()
    np.testing.assert_allclose(left, scale * noise, atol=2e-4 * np.abs(left).max())
    assert 10 * np.log10(np.square(images[0]).mean() / np.square(left[0]).mean()) == pytest.approx(-6.0, abs=0.01)
    np.testing.assert_allclose(wanted, fftconvolve(machine, room.wanted)[:8000], atol=1e-3)


def test_small_and_dry_rooms_can_be_built() -> None:
    room = build_room(Rooms(side_m=(8.0, 8.0), reverberation_s=(0.01, 0.01), most_reflections=2), 0, 0)
    assert np.isfinite(room.machine).all()
    build_room(Rooms(side_m=(1.0, 1.0), most_reflections=1), 0, 0)


# --- batches and training ----------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_step_and_row(batches: RoomBatches) -> None:
    whole, parts = batches.rows(3, 0, 3), [batches.rows(3, row, row + 1) for row in range(3)]
    assert torch.equal(whole.noisy, torch.cat([part.noisy for part in parts]))
    assert torch.equal(whole.wanted, torch.cat([part.wanted for part in parts]))
    assert whole.noisy.shape == (3, 2, RATE_HZ)
    assert not torch.equal(batches.rows(4, 0, 3).noisy, whole.noisy)
    assert float(whole.noisy.abs().max()) <= 1.0


def learner(recipe: NoiseAwareRecipe) -> NoiseAwareLearner:
    return NoiseAwareLearner(NoiseAwareEAT(build_encoder("tiny", seed=0), recipe.layers), recipe)


def test_training_lowers_the_error_in_unused_rooms(
    small: NoiseAwareRecipe, batches: RoomBatches, tmp_path: Path
) -> None:
    recipe = small.with_changes(**{"training.steps": 40, "training.learning_rate": 2e-3})
    trained = learner(recipe)
    frozen = encoder_hash(trained.model.encoder)
    train_layers(recipe, trained, batches, tmp_path, identity=Identity("r", "d", "b"))
    unused = RoomBatches(batches.machines, batches.noises, recipe, first_room=recipe.rooms.count)
    errors = errors_in_unused_rooms(trained, unused)
    assert errors["token"] < 0.8 * errors["token_without"]
    assert encoder_hash(trained.model.encoder) == frozen


def test_before_training_the_errors_are_those_without_layers(
    small: NoiseAwareRecipe, batches: RoomBatches
) -> None:
    errors = errors_in_unused_rooms(learner(small), batches)
    assert errors["token"] == pytest.approx(errors["token_without"], rel=1e-5)
    assert errors["utterance"] == pytest.approx(errors["utterance_without"], rel=1e-5)


def test_a_killed_training_resumes_to_the_same_layers(
    small: NoiseAwareRecipe, batches: RoomBatches, tmp_path: Path
) -> None:
    def stop(finished: int, total: int) -> None:
        if finished == 3:
            raise KeyboardInterrupt

    run = partial(train_layers, small, identity=Identity("r", "d", "b"), batches=batches)
    with pytest.raises(KeyboardInterrupt):
        run(learner=learner(small), folder=tmp_path / "killed", progress=stop)
    resumed = run(learner=learner(small), folder=tmp_path / "killed")
    whole = run(learner=learner(small), folder=tmp_path / "whole")
    assert resumed is not None
    assert whole is not None
    assert encoder_hash(resumed) == encoder_hash(whole)
    lines = (tmp_path / "killed" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


# --- folder and command ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(small: NoiseAwareRecipe, sounds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "encoder"
    pretrain_layers(small, [sounds["machines"]], out, noises=[sounds["noises"]], licences=["CC0 1.0"])
    return out


def test_the_folder_loads_and_its_card_states_data_and_errors(trained: Path) -> None:
    encoder = load_noise_aware(str(trained))
    assert any(layer.mlp.proj.weight.any() for layer in encoder.layers)
    facts = json.loads((trained / "pretraining.json").read_text(encoding="utf-8"))
    card = (trained / "README.md").read_text(encoding="utf-8")
    for fact in (
        "`machines`: 4 recordings",
        "`noises`: 4 recordings",
        "licence: CC0 1.0",
        "4 steps of 2 samples of 1 s in 3 simulated rooms",
        facts["file_sha256"],
        encoder_hash(encoder),
        f"| patch tokens | {facts['test']['token']:.4f} | {facts['test']['token_without']:.4f} |",
    ):
        assert fact in card
    assert not (trained / "checkpoint.safetensors").exists()
    assert str(trained.parent) not in card


def test_a_finished_training_is_not_repeated_and_another_is_refused(
    trained: Path, small: NoiseAwareRecipe, sounds: dict[str, Path]
) -> None:
    again = partial(pretrain_layers, folders=[sounds["machines"]], out=trained, noises=[sounds["noises"]])
    assert again(small) == json.loads((trained / "pretraining.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match="another recipe"):
        again(small.with_changes(seed=1))
    with pytest.raises(InputError, match="another recordings"):
        pretrain_layers(small, [sounds["machines"]], trained)


def test_the_command_trains_and_refuses_noise_for_other_objectives(
    nearfar_command: Nearfar, sounds: dict[str, Path], tmp_path: Path
) -> None:
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    folders = ["--data", str(sounds["machines"]), "--noise", str(sounds["noises"]), "--out", str(tmp_path / "out")]
    done = nearfar_command("pretrain", "--objective", "noise-aware", *folders, "--json", *settings)
    assert done.code == 0, done
    assert json.loads(done.out)["steps"] == 4
    refused = nearfar_command("pretrain", *folders)
    assert refused.code == 2
    assert "--objective noise-aware" in refused.err
    unknown = nearfar_command("pretrain", "--objective", "noise-awar", *folders)
    assert unknown.code == 2
    assert "noise-aware" in unknown.err


@pytest.mark.parametrize("recipe", ["frozen-noise-aware", "tiny-noise-aware"])
def test_recipes_score_near_given_far(
    recipe: str, nearfar_command: Nearfar, small_factory: Path, trained: Path, tmp_path: Path
) -> None:
    few = ["--set", "training.steps=2"] if recipe == "tiny-noise-aware" else []
    scores = {}
    for encoder in (str(trained), "random:tiny:0"):
        out = tmp_path / encoder.replace("/", "_")
        done = nearfar_command("run", recipe, "--data", small_factory, "--out", out, "--encoder", encoder, *few)
        assert done.code == 0, done
        scores[encoder] = "".join(path.read_text() for path in sorted(out.glob("scores/anomaly_score_*.csv")))
    first, second = scores.values()
    assert first
    assert first != second, "the layers change the scores"


def test_a_detector_needs_both_channels(
    nearfar_command: Nearfar, small_factory: Path, trained: Path, tmp_path: Path
) -> None:
    data, detector = small_factory / "hummer", tmp_path / "detector"
    fit = ["fit", data, "--out", detector, "--recipe", "frozen-noise-aware", "--encoder", trained]
    done = nearfar_command(*fit)
    assert done.code == 0, done
    file = next(iter(sorted((data / "train").iterdir())))
    scored = nearfar_command("score", detector, file, "--json")
    assert scored.code in (0, 1), scored
    mono = tmp_path / "mono.wav"
    sf.write(mono, sf.read(file)[0][:, 0], RATE_HZ)
    refused = nearfar_command("score", detector, mono)
    assert refused.code == 2
    assert "mono.wav" in refused.err
