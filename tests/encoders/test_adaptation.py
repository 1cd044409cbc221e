"""Low-rank adapters: what trains, what merging does, and what is refused on disk."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nearfar.encoders.adaptation import (
    ADAPTATIONS,
    LoraSettings,
    add_adapters,
    load_adapters,
    merge_adapters,
    save_adapters,
)
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.errors import InputError

SMALL = EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=16)
RANK = 3
ALPHA = 6.0
LORA = LoraSettings(rank=RANK, alpha=ALPHA)


def fresh(config: EATConfig = SMALL) -> EAT:
    return build_encoder(config, seed=5).eval()


def trained(lora: LoraSettings = LORA) -> Any:
    """An adapted encoder whose adapters do something, as after training."""
    adapted = add_adapters(fresh(), lora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapted.eval()


@pytest.fixture
def fbank() -> Tensor:
    return torch.randn(2, 1, 48, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_adapters(trained(), tmp_path / "adapter", base="owner/encoder")
    return tmp_path / "adapter"


def test_only_the_adapters_train_and_there_are_as_many_as_the_rank_says() -> None:
    adapted = add_adapters(fresh(), LORA)
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_A" in name or "lora_B" in name for name in trainable)
    per_block = RANK * ((32 + 3 * 32) + (32 + 32))  # qkv and proj
    assert sum(p.numel() for p in trainable.values()) == SMALL.depth * per_block
    frozen = sum(p.numel() for p in adapted.parameters() if not p.requires_grad)
    assert frozen == sum(p.numel() for p in fresh().parameters())


def test_adapters_start_without_an_effect_and_take_the_same_arguments(fbank: Tensor) -> None:
    adapted, encoder = add_adapters(fresh(), LORA).eval(), fresh()
    keep = torch.arange(24).expand(2, -1) < 16
    factors = torch.full((2, 2, 2), 0.5)
    with torch.no_grad():
        torch.testing.assert_close(adapted(fbank), encoder(fbank), atol=0, rtol=0)
        torch.testing.assert_close(
            adapted(fbank, token_keep=keep, branch_keep=factors),
            encoder(fbank, token_keep=keep, branch_keep=factors),
            atol=0,
            rtol=0,
        )


def test_a_training_step_leaves_the_encoder_as_it_was(fbank: Tensor) -> None:
    adapted = add_adapters(fresh(), LORA).train()
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    before = adapted(fbank)
    before[..., ::3].sum().backward()
    optimizer.step()
    original = fresh().state_dict()
    compared = 0
    for name, parameter in adapted.named_parameters():
        if "lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            assert torch.equal(parameter, original[plain])
            compared += 1
    assert compared == len(list(fresh().parameters()))
    assert not torch.equal(adapted(fbank), before)


def test_merging_adds_alpha_over_rank_times_b_times_a(fbank: Tensor) -> None:
    adapted = trained()
    adapters = {name: p.detach().clone() for name, p in adapted.named_parameters() if "lora_" in name}
    with torch.no_grad():
        unmerged = adapted(fbank)
        assert not torch.allclose(unmerged, fresh()(fbank), atol=0.1)
    merged = merge_adapters(adapted)
    assert type(merged) is EAT
    assert merged.state_dict().keys() == fresh().state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(merged(fbank), unmerged, atol=2e-5, rtol=1e-4)
    changed = 0
    for name, weight in fresh().state_dict().items():
        down = adapters.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.default.weight")
        if down is not None:
            up = adapters[f"base_model.model.{name.removesuffix('.weight')}.lora_B.default.weight"]
            weight = weight + ALPHA / RANK * up @ down
            changed += 1
        torch.testing.assert_close(merged.state_dict()[name], weight, atol=1e-6, rtol=1e-6)
    assert changed == 4


def test_dropout_acts_in_training_only(fbank: Tensor) -> None:
    adapted = trained(LORA.model_copy(update={"dropout": 0.5}))
    with torch.no_grad():
        assert torch.equal(adapted(fbank), adapted(fbank))
        adapted.train()
        assert not torch.equal(adapted(fbank), adapted(fbank))


def test_the_folder_is_in_the_form_of_peft(folder: Path, fbank: Tensor) -> None:
    from peft import PeftModel

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "owner/encoder"
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (
        RANK,
        ALPHA,
        ["attn.proj", "attn.qkv"],
    )
    assert set(load_file(folder / "adapter_model.safetensors")) == {
        f"base_model.model.blocks.{block}.attn.{layer}.lora_{half}.weight"
        for block in range(2)
        for layer in ("qkv", "proj")
        for half in "AB"
    }
    read_by_peft = PeftModel.from_pretrained(fresh(), folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(read_by_peft(fbank), trained()(fbank), atol=0, rtol=0)


def test_what_was_saved_comes_back_merged_bit_for_bit(folder: Path) -> None:
    loaded, expected = load_adapters(fresh(), folder), merge_adapters(trained())
    assert type(loaded) is EAT
    for name, weight in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_saving_and_loading_stay_off_the_network_and_leave_the_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *_: pytest.fail("asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    save_adapters(trained(), tmp_path / "adapter", base="owner/encoder")
    before = torch.random.get_rng_state()
    load_adapters(fresh(), tmp_path / "adapter")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_target_may_be_any_layer_with_a_weight_matrix(fbank: Tensor) -> None:
    adapted = add_adapters(
        fresh(), LoraSettings(rank=2, targets=("mlp.fc1", "blocks.0.attn.qkv", "local_encoder.proj"))
    )
    names = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(names) == 2 * (2 + 1 + 1)
    assert any("local_encoder.proj.lora_A" in name for name in names)
    assert torch.isfinite(adapted(fbank)).all()


@pytest.mark.parametrize("target", ["attn.key", "qk", "attn", "norm1", "blocks", "", "."])
def test_a_target_that_names_no_such_layer_is_an_error(target: str) -> None:
    with pytest.raises(InputError, match=r"lora\.targets: found '") as error:
        add_adapters(fresh(), LoraSettings(rank=RANK, targets=("attn.qkv", target)))
    assert repr(target) in str(error.value)


def test_a_rank_beyond_the_smaller_side_of_a_matrix_is_an_error() -> None:
    add_adapters(fresh(), LoraSettings(rank=32))  # qkv is 96 by 32
    with pytest.raises(
        InputError, match=r"lora\.rank: found 33; expected at most 32, the smaller side of .* attn"
    ):
        add_adapters(fresh(), LoraSettings(rank=33))
    with pytest.raises(ValidationError, match="less than or equal to 1024"):
        LoraSettings(rank=100_000)


def test_files_of_adapters_have_the_permissions_of_new_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    expected = (tmp_path / "new").stat().st_mode
    assert {path.name: path.stat().st_mode for path in folder.iterdir()} == {
        "adapter_config.json": expected,
        "adapter_model.safetensors": expected,
    }


def test_the_table_states_what_each_adaptation_trains_and_needs(tmp_path: Path) -> None:
    assert {name: entry.trains for name, entry in ADAPTATIONS.items()} == {
        "full": True,
        "lora": True,
        "none": False,
    }
    trained = {
        name: sum(p.numel() for p in entry.prepare(fresh(), LORA).parameters() if p.requires_grad)
        for name, entry in ADAPTATIONS.items()
    }
    whole = sum(p.numel() for p in fresh().parameters())
    assert trained == {"full": whole, "lora": SMALL.depth * RANK * ((32 + 3 * 32) + (32 + 32)), "none": 0}
    assert {name: entry.needs_base(tmp_path) for name, entry in ADAPTATIONS.items()} == {
        "full": False,
        "lora": True,
        "none": False,
    }
    (tmp_path / "base").mkdir()
    assert not ADAPTATIONS["lora"].needs_base(tmp_path)


def without_a_tensor(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop("base_model.model.blocks.1.attn.qkv.lora_B.weight")
    save_file(tensors, file)


def with_a_tensor_more(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.blocks.1.mlp.fc1.lora_A.weight": torch.ones(3, 32)}, file)


def truncate(name: str, size: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors"),
        (lambda folder: (folder / "adapter_config.json").unlink(), r"no adapter_config\.json"),
        (truncate("adapter_model.safetensors", 0), "cannot be loaded"),
        (truncate("adapter_model.safetensors", 1000), "cannot be loaded"),
        (truncate("adapter_config.json", 0), "cannot be loaded"),
        (truncate("adapter_config.json", 100), "cannot be loaded"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "cannot be loaded"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "?"}'), "cannot be loaded"),
        (without_a_tensor, r"1 tensors missing or left over .*blocks\.1\.attn\.qkv\.lora_B"),
        (with_a_tensor_more, r"1 tensors missing or left over .*blocks\.1\.mlp\.fc1\.lora_A"),
    ],
)
def test_a_folder_that_is_not_whole_is_an_error(
    folder: Path, damage: Callable[[Path], object], found: str
) -> None:
    damage(folder)
    with pytest.raises(InputError, match=found) as error:
        load_adapters(fresh(), folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (EATConfig(embed_dim=16, depth=2, num_heads=2), "size mismatch"),
        (EATConfig(embed_dim=32, depth=3, num_heads=2), r"4 tensors missing or left over .*blocks\.2"),
        (EATConfig(embed_dim=32, depth=1, num_heads=2), r"4 tensors missing or left over .*blocks\.1"),
    ],
)
def test_adapters_of_another_encoder_are_refused(folder: Path, config: EATConfig, found: str) -> None:
    with pytest.raises(InputError, match=found):
        load_adapters(fresh(config), folder)
