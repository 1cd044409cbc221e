"""BEATs against arrays of the published code, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.command import Nearfar

from nearfar.config import load_recipe
from nearfar.encoders import ENCODERS, encoder_hash, token_keep
from nearfar.encoders.beats import BEATs, BEATsConfig, load_beats, position_buckets, save_beats
from nearfar.errors import InputError
from nearfar.frontends.beats import BEATsFbank


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, torch.Tensor]:
    return load_file(shared / "golden" / "beats_tiny.safetensors")


@pytest.fixture(scope="module")
def checkpoint(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random weights in the form of a released checkpoint, with a classifier as fine-tuned ones have."""
    folder = shared / "golden"
    model = load_file(folder / "beats_tiny.weights.safetensors")
    model["predictor.weight"] = torch.zeros(527, 48)
    path = tmp_path_factory.mktemp("beats") / "BEATs_iter3.pt"
    torch.save({"cfg": json.loads((folder / "beats_tiny.json").read_text()), "model": model}, path)
    return path


@torch.inference_mode()
def test_tokens_are_those_of_the_published_code(checkpoint: Path, golden: dict[str, torch.Tensor]) -> None:
    encoder = load_beats(str(checkpoint))
    (tokens,) = encoder.encode(golden["input_fbank"].unsqueeze(1))
    torch.testing.assert_close(tokens.patches, golden["out.features"], rtol=1e-4, atol=2e-5)
    assert tokens.cls is None


@torch.inference_mode()
def test_every_block_is_that_of_the_published_code(checkpoint: Path, golden: dict[str, torch.Tensor]) -> None:
    encoder, spectrogram = load_beats(str(checkpoint)), golden["input_fbank_long"].unsqueeze(1)
    patches = encoder.patches(spectrogram)
    torch.testing.assert_close(patches, golden["out.patch_norm"], rtol=1e-4, atol=2e-5)
    blocks = encoder.encode(spectrogram, [1, 2, 3])
    for number, block in enumerate(blocks):
        torch.testing.assert_close(block.patches, golden[f"out.block_{number}"], rtol=1e-4, atol=5e-5)
    ends = torch.cat([blocks[-1].patches[:, :5], blocks[-1].patches[:, -5:]], dim=1)
    torch.testing.assert_close(ends, golden["out.features_long_first_last"], rtol=1e-4, atol=5e-5)


def test_the_front_end_is_that_of_the_published_code(golden: dict[str, torch.Tensor]) -> None:
    found = BEATsFbank()(golden["waveform"])[:, 0]
    expected = golden["out.fbank_normalised"][:, : found.shape[1]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert found.shape[1] == golden["out.fbank_normalised"].shape[1] // 16 * 16


def test_names_and_shapes_are_those_of_the_released_model(shared: Path) -> None:
    listed = json.loads((shared / "golden" / "key_shapes.json").read_text())["beats_iter3"]
    found = {name: list(tensor.shape) for name, tensor in BEATs().state_dict().items()}
    assert found == {name: shape for name, shape in listed.items() if not name.startswith("predictor.")}


def test_buckets_by_a_plain_loop() -> None:
    buckets, most, tokens = 32, 100, 150
    found = position_buckets(tokens, buckets, most).tolist()
    for query in range(0, tokens, 7):
        for key in range(0, tokens, 5):
            distance = abs(key - query)
            bucket = distance
            if distance >= 8:
                bucket = min(8 + int(np.log(distance / 8) / np.log(most / 8) * 8), 15)
            assert abs(found[query][key] - (bucket + 16 * (key > query))) <= (distance >= 8), (query, key)


@torch.inference_mode()
def test_masked_padding_does_not_change_the_tokens_of_the_clip() -> None:
    encoder, spectrogram = load_beats("random:tiny:1"), torch.randn(1, 1, 64, 128)
    (alone,) = encoder.encode(spectrogram)
    padded = torch.nn.functional.pad(spectrogram, (0, 0, 0, 32), value=9.0)
    (masked,) = encoder.encode(padded, token_keep=(torch.arange(6 * 8) < 4 * 8)[None])
    torch.testing.assert_close(masked.patches[:, : 4 * 8], alone.patches, rtol=1e-4, atol=1e-5)
    (attended,) = encoder.encode(padded)
    assert not torch.allclose(attended.patches[:, : 4 * 8], alone.patches, atol=1e-2)


@torch.inference_mode()
def test_a_padded_clip_has_the_tokens_that_it_has_alone() -> None:
    encoder, frontend = load_beats("random:tiny:1"), BEATsFbank()
    waveform = 0.1 * torch.randn(1, 16_000)  # 98 frames, of which 96 are in whole patches
    (alone,) = encoder.encode(frontend(waveform))
    spectrogram = frontend(torch.nn.functional.pad(waveform, (0, 16_000)))
    keep = token_keep(encoder, frontend, torch.tensor([16_000]), spectrogram.shape[2] // 16)
    assert int(keep.sum()) == alone.patches.shape[1] == 6 * 8
    (masked,) = encoder.encode(spectrogram, token_keep=keep)
    # Kaldi's mean of the whole signal is that of the padded one, hence the tolerance.
    torch.testing.assert_close(masked.patches[:, : 6 * 8], alone.patches, rtol=1e-2, atol=1e-2)


def test_files_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    encoder = load_beats("random:tiny:3")
    save_beats(encoder, tmp_path)
    assert encoder_hash(load_beats(str(tmp_path))) == encoder_hash(encoder)
    assert encoder_hash(load_beats("random:tiny:3")) == encoder_hash(encoder)
    assert encoder_hash(load_beats("random:tiny:4")) != encoder_hash(encoder)


def small_checkpoint(path: Path, **changes: Any) -> Path:
    config = {"embed_dim": 32, "encoder_layers": 1, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96}
    config |= {"encoder_attention_heads": 4}
    model = BEATs(BEATsConfig(**config)).state_dict()
    model |= changes.pop("model", {})
    torch.save({"cfg": {**config, **changes}, "model": model}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_first": True}, "layer_norm_first = True"),
        ({"encoder_layers": 2}, "no encoder.layers.1"),
        ({"encoder_embed_dim": "x"}, "encoder_embed_dim = 'x'"),
        ({"model": {"extra": torch.zeros(1)}}, "an unknown extra"),
        ({"model": {"post_extract_proj.bias": torch.full((48,), torch.nan)}}, "NaN"),
        ({"model": {"post_extract_proj.bias": torch.zeros(3)}}, r"of shape \(3,\)"),
    ],
)
def test_other_checkpoints_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "BEATs.pt", **changes)
    with pytest.raises(InputError, match=message) as error:
        load_beats(str(path))
    assert "BEATs.pt" in str(error.value)


def test_missing_files_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load_beats("BEATs_iter3.pt")
    torch.save({"model": {}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="cfg and model"):
        load_beats(str(tmp_path / "a.pt"))
    with pytest.raises(InputError, match="unknown size"):
        load_beats("random:huge")


def test_the_normalisation_of_another_family_is_refused() -> None:
    recipe = load_recipe("frozen-beats")
    assert (recipe.fbank.mean, recipe.fbank.std) == ENCODERS["beats"].fbank
    with pytest.raises(InputError, match=r"fbank\.mean = 15\.41663"):
        load_recipe("frozen-eat").with_changes(**{"encoder.family": "beats"})


@pytest.mark.parametrize("recipe", ["w1-lora", "w1-lora-beats"])
def test_the_leaders_recipe_runs(
    recipe: str, nearfar_command: Nearfar, small_factory: Path, tmp_path: Path
) -> None:
    small = {"training.steps": 2, "training.batch_size": 4, "lora.rank": 4, "augmentation.crop_seconds": 0.5}
    more = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    run = ("run", recipe, "--data", small_factory, "--out", tmp_path / "run", "--encoder", "random:tiny:0")
    done = nearfar_command(*run, *more)
    assert done.code == 0, done.err
    assert list((tmp_path / "run" / "scores").glob("*.csv"))


def test_the_leaders_settings_are_the_published_ones() -> None:
    recipe = load_recipe("w1-lora-beats")
    assert recipe.encoder.mask_padding, "whole clips are scored, without padding"
    loss, training = recipe.head.settings_of("loss"), recipe.training
    assert (recipe.head.loss, loss.sub_centres, loss.trainable_centres, loss.adaptive_scale) == (
        "adacos",
        16,
        True,
        False,
    )
    assert (training.views, training.steps, training.batch_size, training.warmup_steps) == (
        ("cancelled",),
        37_500,
        8,
        5_000,
    )
    assert training.learning_rate == training.final_learning_rate == 1e-4
    assert (training.pseudo_labels, training.pseudo_label_features) == (7, "encoder")
    assert (recipe.augmentation.crop_seconds, recipe.augmentation.mixup_probability) == (10.0, 0.5)
    features = recipe.features.settings_of("source")
    assert (features.pooling, features.settings_of("pooling").rdp_gamma, features.keep_bands) == ("rdp", 4.0, True)
    scoring = recipe.backend_settings()
    assert (scoring.normalisation, scoring.density_neighbours, scoring.shared_neighbour) == ("varmin", 4, False)


@pytest.mark.parametrize("adaptation", ["none", "lora"])
def test_runs_use_it(adaptation: str, nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    recipe = "frozen-beats"
    more: list[str] = []
    if adaptation == "lora":
        recipe = "tiny-lora-near"
        settings = {
            "encoder.family": "beats",
            "fbank.mean": 15.41663,
            "fbank.std": 6.55582,
            "training.steps": 2,
            "lora.rank": 4,
            "augmentation.time_mask_frames": 20,
            "lora.targets": '["q_proj", "k_proj", "v_proj"]',
        }
        more = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = ("run", recipe, "--data", small_factory, "--out", tmp_path / "run", "--encoder", "random:tiny:0")
    done = nearfar_command(*run, *more)
    assert done.code == 0, done.err
    assert list((tmp_path / "run" / "scores").glob("*.csv"))
