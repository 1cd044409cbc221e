"""Building a network from its recipe, and keeping a trained one in a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.config import Recipe, load_recipe
from nearfar.encoders import encoder_hash, load_encoder, save_encoder
from nearfar.encoders.adaptation import merge_adapters
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.errors import InputError
from nearfar.models import EmbedderWithLoss, build_model, load_model, read_card, save_model, start_weights

SMALL = EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=16)
CLASSES = ("fan|source|far", "fan|source|near", "fan|target|near")


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(build_encoder(SMALL, seed=11), folder)
    return folder


def make_recipe(weights: Path | str, adaptation: str = "full", **changes: Any) -> Recipe:
    return load_recipe("eat-fusion").with_changes(
        **{
            "encoder.weights": str(weights),
            "audio.clip_seconds": 1.0,
            "head.attention_dim": 4,
            "head.embedding_dim": 6,
            "lora.rank": 2,
            "training.adaptation": adaptation,
            **changes,
        }
    )


def shaken(network: EmbedderWithLoss) -> EmbedderWithLoss:
    """The network with every trainable parameter moved, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(2)), torch.full((3,), 16_000)


@pytest.fixture(params=["full", "lora"])
def saved(request: pytest.FixtureRequest, encoder_folder: Path, tmp_path: Path) -> Path:
    recipe = make_recipe(encoder_folder, request.param)
    save_model(tmp_path / "model", shaken(build_model(recipe, 3)), recipe, CLASSES, {"data_key": "k"})
    return tmp_path / "model"


# --- building ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_the_seed_decides_the_start_and_torchs_random_state_is_left_alone(
    adaptation: str, encoder_folder: Path
) -> None:
    recipe = make_recipe(encoder_folder, adaptation)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_model(recipe, 3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_model(recipe, 3).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(recipe.with_changes(seed=1), 3).state_dict()
    drawn = {name for name in first if not torch.equal(first[name], other[name])}
    always = {"embedder.pooling.linear1.weight", "embedder.projection.weight", "loss.centres"}
    assert always <= drawn
    lora_a = {name for name in first if "lora_A" in name}
    assert lora_a <= drawn
    assert bool(lora_a) == (adaptation == "lora")
    assert not any("encoder" in name for name in drawn - lora_a), "the encoder comes from its file"


def test_a_random_start_follows_the_recipes_seed_unless_it_has_its_own() -> None:
    recipe = make_recipe("random:tiny", seed=4)
    assert start_weights(recipe) == "random:tiny:4"
    assert start_weights(make_recipe("random:tiny:9", seed=4)) == "random:tiny:9"
    assert start_weights(make_recipe("some/folder", seed=4)) == "some/folder"
    assert build_model(recipe, 2).base_hash == encoder_hash(build_encoder("tiny", seed=4))


def test_full_fine_tuning_trains_everything(encoder_folder: Path) -> None:
    network = build_model(make_recipe(encoder_folder), 3)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_lora_trains_adapters_pooling_projection_and_centres_only(encoder_folder: Path) -> None:
    network = build_model(make_recipe(encoder_folder, "lora"), 3)
    trains = {name for name, p in network.named_parameters() if p.requires_grad}
    heads = ("embedder.pooling.", "embedder.projection.", "loss.")
    assert {name for name in trains if not name.startswith(heads)} == {
        name for name, _ in network.named_parameters() if "lora_" in name
    }
    assert {name for name, _ in network.named_parameters() if name.startswith(heads)} <= trains
    assert any("lora_" in name for name in trains)


def test_the_recipe_decides_the_sizes_and_settings(encoder_folder: Path) -> None:
    network = build_model(
        make_recipe(encoder_folder, **{"encoder.mask_padding": True, "fbank.mean": -7.0, "head.margin": 0.4}), 5
    )
    assert network.loss.centres.shape == (5, 6)
    assert (network.loss.scale, network.loss.margin) == (30.0, 0.4)
    assert network.embedder.projection.weight.shape == (6, 64)
    assert network.embedder.pooling.linear1.weight.shape == (4, 32)
    assert network.embedder.mask_padding
    assert (network.embedder.frontend.mean, network.embedder.frontend.std) == (-7.0, 4.569)
    assert network.base_hash == encoder_hash(load_encoder(encoder_folder))


def test_the_forward_pass_is_the_loss_of_the_embeddings(
    encoder_folder: Path, batch: tuple[Tensor, Tensor]
) -> None:
    network, labels = build_model(make_recipe(encoder_folder), 3).eval(), torch.tensor([0, 2, 1])
    others, mixup_lambda = torch.tensor([1, 1, 1]), torch.tensor([0.2, 0.5, 1.0])
    spec_mask = torch.zeros(3, 1, 112, 128, dtype=torch.bool)
    spec_mask[:, :, 20:60] = True
    with torch.no_grad():
        loss = network(*batch, labels, other_labels=others, mixup_lambda=mixup_lambda, spec_mask=spec_mask)
        expected = network.loss(network.embedder(*batch, spec_mask=spec_mask), labels, others, mixup_lambda)
        torch.testing.assert_close(loss, expected, atol=0, rtol=0)
        assert loss.shape == (3,)
        assert not torch.allclose(loss, network(*batch, labels))


@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_activation_checkpointing_changes_no_gradient(
    adaptation: str, encoder_folder: Path, batch: tuple[Tensor, Tensor]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        recipe = make_recipe(encoder_folder, adaptation, **{"training.activation_checkpointing": checkpointing})
        network = shaken(build_model(recipe, 3)).train()
        network(*batch, torch.tensor([0, 1, 2])).sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.requires_grad})
        (encoder,) = (module for module in network.modules() if isinstance(module, EAT))
        assert encoder.checkpoint_blocks == checkpointing
    plain, recomputed = gradients
    for name, gradient in plain.items():
        assert gradient is not None
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5)


def test_clips_beyond_the_encoders_positions_are_refused_before_training(encoder_folder: Path) -> None:
    build_model(make_recipe(encoder_folder, **{"audio.clip_seconds": 2.57}), 2)  # 256 frames
    with pytest.raises(InputError, match=r"audio\.clip_seconds: found 2\.6 s; expected at most 2\.575 s"):
        build_model(make_recipe(encoder_folder, **{"audio.clip_seconds": 2.6}), 2)


# --- keeping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["folder", "random:tiny"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_a_saved_model_embeds_as_the_trained_network_did(
    adaptation: str, weights: str, encoder_folder: Path, tmp_path: Path, batch: tuple[Tensor, Tensor]
) -> None:
    recipe = make_recipe(encoder_folder if weights == "folder" else weights, adaptation, seed=3)
    network = shaken(build_model(recipe, 3))
    with torch.no_grad():
        trained = network.embedder(*batch)
        save_model(tmp_path, network, recipe, CLASSES, {"data_key": "k"})
        kept = network.embedder(*batch)  # adapters are merged by now
        model = load_model(tmp_path)
        torch.testing.assert_close(model.embedder(*batch), kept, atol=0, rtol=0)
    torch.testing.assert_close(kept, trained, atol=2e-4, rtol=2e-4)
    assert model.recipe == recipe
    assert model.classes == CLASSES
    assert not model.embedder.training
    assert not any(parameter.requires_grad for parameter in model.embedder.parameters())
    centres = load_file(tmp_path / "head.safetensors")["arcface.centres"]
    assert torch.equal(centres, network.loss.centres)


def test_the_folder_holds_what_each_kind_of_model_needs(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    card = read_card(saved)
    assert card is not None
    lora = card["recipe"]["training"]["adaptation"] == "lora"
    assert names == {"model.json", "head.safetensors", "adapter" if lora else "encoder"}
    assert card["format"] == 1
    assert card["classes"] == list(CLASSES)
    assert card["training"] == {"data_key": "k"}
    assert card["base_encoder"]["hash"] == encoder_hash(build_encoder(SMALL, seed=11))
    if not lora:
        load_encoder(saved / "encoder")  # an encoder like any other, in the published layout


def test_adapters_on_a_random_start_keep_the_start_but_do_not_depend_on_it(
    tmp_path: Path, batch: tuple[Tensor, Tensor]
) -> None:
    recipe = make_recipe("random:tiny", "lora", seed=6)
    save_model(tmp_path, shaken(build_model(recipe, 2)), recipe, ("a", "b"), {})
    assert encoder_hash(load_encoder(tmp_path / "base")) == encoder_hash(build_encoder("tiny", seed=6))
    with torch.no_grad():
        kept = load_model(tmp_path).embedder(*batch)
        shutil.rmtree(tmp_path / "base")
        torch.testing.assert_close(load_model(tmp_path).embedder(*batch), kept, atol=0, rtol=0)


def test_a_merged_model_equals_the_adapted_one(encoder_folder: Path, batch: tuple[Tensor, Tensor]) -> None:
    network = shaken(build_model(make_recipe(encoder_folder, "lora"), 3))
    with torch.no_grad():
        adapted = network.embedder(*batch)
        network.embedder.encoder = merge_adapters(network.embedder.encoder)
        torch.testing.assert_close(network.embedder(*batch), adapted, atol=2e-4, rtol=2e-4)


def test_the_weights_hash_is_of_all_that_decides_an_embedding(
    saved: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    hashes = {"as saved": load_model(saved).weights_hash}
    assert load_model(saved).weights_hash == hashes["as saved"]
    card = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    del card["sha256"], card["files"]  # the files are edited

    def copied(name: str) -> Path:
        folder = Path(shutil.copytree(saved, tmp_path / name))
        (folder / "model.json").write_text(json.dumps(card))
        return folder

    def edited(name: str, **changes: Any) -> None:
        folder = copied(name)
        recipe = Recipe.model_validate(card["recipe"]).with_changes(**changes)
        (folder / "model.json").write_text(json.dumps(card | {"recipe": recipe.model_dump(mode="json")}))
        hashes[name] = load_model(folder).weights_hash

    edited("mean", **{"fbank.mean": -4.0})
    edited("std", **{"fbank.std": 4.0})
    edited("mask", **{"encoder.mask_padding": True})
    for tensor in ("pooling.linear2.bias", "projection.weight"):
        folder = copied(tensor)
        tensors = load_file(folder / "head.safetensors")
        tensors[tensor].view(-1)[-1] += 1e-3
        save_file(tensors, folder / "head.safetensors")
        hashes[tensor] = load_model(folder).weights_hash
    if (saved / "encoder").is_dir():
        for key, value in (("num_heads", 4), ("norm_eps", 1e-5)):  # sizes that leave no trace in the tensors
            folder = copied(key)
            config = json.loads((folder / "encoder" / "config.json").read_text())
            (folder / "encoder" / "config.json").write_text(json.dumps(config | {key: value}))
            hashes[key] = load_model(folder).weights_hash
    assert len(set(hashes.values())) == len(hashes), hashes


def test_the_card_is_written_last(encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(encoder_folder)
    network = build_model(recipe, 3)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nearfar.models.folder.write_tensors", full)
        with pytest.raises(OSError, match="no space"):
            save_model(tmp_path, network, recipe, CLASSES, {})
    assert read_card(tmp_path) is None
    with pytest.raises(InputError, match=r"found no model\.json"):
        load_model(tmp_path)
    save_model(tmp_path, network, recipe, CLASSES, {})
    assert load_model(tmp_path).classes == CLASSES


def test_a_flipped_bit_of_any_file_is_found(saved: Path, tmp_path: Path) -> None:
    files = [path.relative_to(saved) for path in sorted(saved.rglob("*")) if path.is_file()]
    assert Path("model.json") in files
    assert Path("head.safetensors") in files
    for number, name in enumerate(files):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        content = bytearray((folder / name).read_bytes())
        content[-len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(folder))):
            load_model(folder)


# --- refusing ---------------------------------------------------------------------------------------------------


def test_adapters_are_not_put_on_another_base(tmp_path: Path, batch: tuple[Tensor, Tensor]) -> None:
    base = tmp_path / "encoder"
    save_encoder(build_encoder(SMALL, seed=1), base)
    recipe = make_recipe(base, "lora")
    save_model(tmp_path / "model", build_model(recipe, 2), recipe, ("a", "b"), {})
    load_model(tmp_path / "model")
    save_encoder(build_encoder(SMALL, seed=2), base)
    with pytest.raises(InputError, match=r"which the adapters in .* were trained on") as error:
        load_model(tmp_path / "model")
    assert str(base) in str(error.value)


def drop_and_add(drop: str | None, **add: Tensor) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        tensors = {name: tensor for name, tensor in load_file(file).items() if name != drop}
        save_file(tensors | add, file)

    return damage


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda file: file.unlink(), "No such file"),
        (lambda file: file.write_bytes(b""), "header"),
        (lambda file: file.write_bytes(file.read_bytes()[:-10]), "not fully covered"),
        (drop_and_add("projection.bias"), "Missing key.*bias"),
        (drop_and_add(None, **{"pooling.linear3.bias": torch.ones(2)}), r"Unexpected key.*linear3\.bias"),
        (drop_and_add(None, **{"projection.weight": torch.ones(6, 62)}), "size mismatch for weight"),
    ],
    ids=["gone", "empty", "truncated", "missing", "extra", "shape"],
)
def test_a_damaged_head_is_an_error(saved: Path, damage: Callable[[Path], object], found: str) -> None:
    damage(saved / "head.safetensors")
    with pytest.raises(InputError, match=f"head\\.safetensors: found a head that cannot be loaded .*{found}"):
        load_model(saved)


def card_with(**changes: Any) -> Callable[[str], str]:
    def edit(text: str) -> str:
        card = json.loads(text)
        return json.dumps({key: value for key, value in (card | changes).items() if value is not None})

    return edit


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda _: "", "Expecting value"),
        (lambda text: text[: len(text) // 2], "cannot be read"),
        (lambda _: "[]", "cannot be read"),
        (lambda _: "{}", "'format'"),
        (card_with(format=2), "format 2"),
        (card_with(recipe=None), "no recipe"),
        (card_with(classes=None, training=None), "no classes, training"),
        (card_with(base_encoder=None), "no base_encoder"),
        (card_with(recipe={"name": "x", "from_a_later_version": 1}), "from_a_later_version"),
    ],
    ids=["empty", "truncated", "list", "bare", "format", "recipe", "classes", "base", "version"],
)
def test_a_damaged_card_is_an_error(saved: Path, edit: Callable[[str], str], found: str) -> None:
    file = saved / "model.json"
    file.write_text(edit(file.read_text(encoding="utf-8")), encoding="utf-8")
    for read in (read_card, load_model):
        with pytest.raises(InputError, match=r"model\.json: found a model card that cannot be read") as error:
            read(saved)
        assert found in str(error.value)


def test_a_missing_part_of_the_model_is_an_error(saved: Path) -> None:
    for part in ("adapter", "encoder"):
        shutil.rmtree(saved / part, ignore_errors=True)
    with pytest.raises(InputError, match=re.escape(str(saved))):
        load_model(saved)
