"""Dasheng against arrays of the published package, and its files.

``tests/golden/dasheng_tiny.safetensors`` was computed by the package dasheng 0.0.9 (PyPI) on random weights: width
16, 2 blocks, 2 heads, positions for 10 columns; 0.5 s of noise with a quiet part, which gives 12 columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.command import Nearfar
from torch import Tensor

from nearfar.config import load_recipe
from nearfar.encoders import ENCODERS, encoder_hash, token_keep
from nearfar.encoders.dasheng import Dasheng, DashengConfig, load_dasheng, save_dasheng
from nearfar.errors import InputError
from nearfar.frontends.dasheng import DashengLogMel

GOLDEN = Path(__file__).parents[1] / "golden" / "dasheng_tiny.safetensors"
CONFIG = {"embed_dim": 16, "depth": 2, "num_heads": 2, "target_length": 40}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def checkpoint(path: Path, golden: dict[str, Tensor], **changes: Any) -> Path:
    """A file in the form of the released checkpoints."""
    model = {name.removeprefix("weights."): value for name, value in golden.items() if name.startswith("weights.")}
    model |= {"front_end.0.spectrogram.window": torch.hann_window(512), **changes.pop("model", {})}
    torch.save({"config": {**CONFIG, **changes}, "model": model}, path)
    return path


def test_the_front_end_is_that_of_the_published_code(golden: dict[str, Tensor]) -> None:
    found, expected = DashengLogMel()(golden["waveform"])[:, 0], golden["log_mel_db"].transpose(1, 2)
    assert expected.min() == expected.max() - 120.0  # the quiet part is below the limit
    assert (found.shape[1], expected.shape[1]) == (48, 51)
    torch.testing.assert_close(found, expected[:, :48], rtol=0, atol=1e-3)


@torch.inference_mode()
def test_tokens_are_those_of_the_published_code(golden: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = load_dasheng(str(checkpoint(tmp_path / "dasheng.pt", golden)))
    first, last = encoder.encode(DashengLogMel()(golden["waveform"]), [1, 2])
    torch.testing.assert_close(first.patches, golden["first_block"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(last.patches, golden["tokens"], rtol=1e-4, atol=2e-5)
    assert last.cls is None


def test_the_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Dasheng().parameters())
    assert round(count / 1e6) == 85  # 86 M in the paper, with the decoder's tokens


@torch.inference_mode()
def test_a_padded_clip_has_the_tokens_that_it_has_alone() -> None:
    encoder, frontend = load_dasheng("random:tiny:1"), DashengLogMel()
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(1, 16_000, generator=generator)
    spectrogram = frontend(waveform)
    (alone,) = encoder.encode(spectrogram)
    padded = torch.cat([spectrogram, torch.zeros(1, 1, 1_100, 64)], dim=2)  # a second part that is all padding
    keep = token_keep(encoder, frontend, torch.tensor([16_000]), padded.shape[2] // 4)
    assert int(keep.sum()) == alone.patches.shape[1] == 25
    (masked,) = encoder.encode(padded, token_keep=keep)
    torch.testing.assert_close(masked.patches[:, :25], alone.patches, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(masked.patches).all()
    (attended,) = encoder.encode(padded)
    assert not torch.allclose(attended.patches[:, :25], alone.patches, atol=1e-2)


def test_training_leaves_the_statistics_of_mel_bins() -> None:
    encoder = load_dasheng("random:tiny:1").train()
    before = encoder.init_bn[1].running_mean.clone()
    encoder.encode(torch.randn(2, 1, 8, 64), branch_keep=torch.ones(4, 2, 2))[0].patches.sum().backward()
    assert torch.equal(encoder.init_bn[1].running_mean, before)
    assert encoder.patch_embed.proj.weight.grad is not None


def test_files_are_read_back_bit_for_bit(golden: dict[str, Tensor], tmp_path: Path) -> None:
    for encoder in (load_dasheng("random:tiny:3"), load_dasheng(str(checkpoint(tmp_path / "a.pt", golden)))):
        folder = tmp_path / str(encoder.embed_dim)
        save_dasheng(encoder, folder)
        assert encoder_hash(load_dasheng(str(folder))) == encoder_hash(encoder)
    assert encoder_hash(load_dasheng("random:tiny:3")) != encoder_hash(load_dasheng("random:tiny:4"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": 128}, "n_mels = 128 instead of 64"),
        ({"pooling": "token"}, "pooling = 'token'"),
        ({"num_heads": 3}, "width 16 and num_heads = 3"),
        ({"model": {"extra": torch.zeros(1)}}, "an unknown extra"),
        ({"model": {"norm.bias": torch.full((16,), torch.nan)}}, "NaN"),
        ({"model": {"norm.bias": torch.zeros(3)}}, r"norm\.bias of shape \(3,\)"),
        ({"model": {"time_pos_embed": torch.zeros(3)}}, "without blocks or time_pos_embed"),
    ],
)
def test_other_checkpoints_are_refused_by_name(
    changes: dict[str, Any], message: str, golden: dict[str, Tensor], tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "dasheng.pt", golden, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_dasheng(str(path))
    assert "dasheng.pt" in str(error.value)


def test_missing_files_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load_dasheng("dasheng_base.pt")
    torch.save({"model": {}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="config and model"):
        load_dasheng(str(tmp_path / "a.pt"))
    with pytest.raises(InputError, match="unknown size"):
        load_dasheng("random:huge")


def test_shapes_that_do_not_fit_are_refused() -> None:
    encoder = Dasheng(DashengConfig(embed_dim=16, depth=1, num_heads=2))
    with pytest.raises(ValueError, match=r"frames >= 4, 64\)"):
        encoder.encode(torch.zeros(1, 1, 16, 128))
    with pytest.raises(ValueError, match="layers from 1 to 1"):
        encoder.encode(torch.zeros(1, 1, 16, 64), [2])
    with pytest.raises(ValueError, match=r"\(batch, samples\)"):
        DashengLogMel()(torch.zeros(1, 2, 400))


def test_a_clip_shorter_than_a_patch_is_padded() -> None:
    short = torch.rand(1, 100) - 0.5
    padded = torch.nn.functional.pad(short, (0, 380))
    assert DashengLogMel()(short).shape == (1, 1, 4, 64)
    torch.testing.assert_close(DashengLogMel()(short), DashengLogMel()(padded))


def test_the_recipe_has_the_normalisation_of_the_family() -> None:
    recipe = load_recipe("frozen-dasheng")
    assert (recipe.fbank.mean, recipe.fbank.std) == ENCODERS["dasheng"].fbank


@pytest.mark.parametrize("adaptation", ["none", "lora", "full"])
def test_runs_use_it(adaptation: str, nearfar_command: Nearfar, small_factory: Path, tmp_path: Path) -> None:
    recipe = "frozen-dasheng"
    more: list[str] = []
    if adaptation != "none":
        recipe = "tiny-lora-near"
        settings = {
            "training.adaptation": adaptation,
            "encoder.family": "dasheng",
            "fbank.mean": 0.0,
            "fbank.std": 0.5,
            "training.steps": 2,
            "lora.rank": 4,
            "augmentation.frequency_mask_bins": 8,
        }
        more = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = ("run", recipe, "--data", small_factory, "--out", tmp_path / "run", "--encoder", "random:tiny:0")
    done = nearfar_command(*run, *more)
    assert done.code == 0, done.err
    assert list((tmp_path / "run" / "scores").glob("*.csv"))
