"""The autoencoder against its published figures, and a trained one on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nearfar.errors import InputError
from nearfar.scoring.autoencoder.network import (
    Autoencoder,
    TrainedAutoencoder,
    load_autoencoder,
    residual_frames,
    save_autoencoder,
    stacked,
)


def trained(seed: int = 0) -> TrainedAutoencoder:
    """Random, but with everything that a trained one has, running statistics included."""
    torch.manual_seed(seed)
    network = Autoencoder()
    with torch.no_grad():
        network(20 * torch.randn(64, 640))
    matrices = torch.randn(4, 128, 128)
    network.eval().requires_grad_(False)
    return TrainedAutoencoder(network, matrices[:2], matrices[2:])


def test_it_has_the_published_layers_and_number_of_parameters() -> None:
    network = Autoencoder()
    assert sum(parameter.numel() for parameter in network.parameters()) == 267_928
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [module.in_features for module in linear] == [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    assert [module.out_features for module in linear] == [128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    kinds = [module for module in network.modules() if not list(module.children())]
    norms = [module for module in kinds if isinstance(module, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == [128, 128, 128, 128, 8, 128, 128, 128, 128]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}
    for index, module in enumerate(linear[:-1]):
        assert kinds[3 * index] is module
        assert [type(after) for after in kinds[3 * index + 1 : 3 * index + 3]] == [nn.BatchNorm1d, nn.ReLU]
    assert kinds[-1] is linear[-1], "the last layer is bare"


def test_vectors_are_five_frames_one_after_another() -> None:
    log_mel = torch.randn(9, 128)
    vectors = stacked(log_mel)
    assert vectors.shape == (5, 640)
    for t in range(5):
        for place in range(5):
            assert torch.equal(vectors[t, 128 * place : 128 * place + 128], log_mel[t + place])


@pytest.mark.parametrize("shape", [(4, 128), (9, 127), (640,)])
def test_what_makes_no_vector_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(frames >= 5, 128\)"):
        stacked(torch.zeros(shape))


def test_residuals_are_reconstruction_minus_input_by_frame() -> None:
    model, log_mel = trained(), torch.randn(7, 128)
    residual = residual_frames(model.network, log_mel)
    assert residual.shape == (15, 128)
    for t in range(3):
        reconstruction = model.network(log_mel[t : t + 5].reshape(1, 640))[0]
        for place in range(5):
            expected = reconstruction[128 * place : 128 * place + 128] - log_mel[t + place]
            torch.testing.assert_close(residual[5 * t + place], expected, rtol=1e-5, atol=1e-5)


def test_a_model_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "models" / "fan.safetensors"
    save_autoencoder(path, model)
    again = load_autoencoder(path)
    state = model.network.state_dict()
    assert again.network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in again.network.state_dict().items())
    assert torch.equal(again.published, model.published)
    assert torch.equal(again.textbook, model.textbook)
    assert not again.network.training
    assert list(path.parent.iterdir()) == [path]


def test_a_model_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fan.safetensors"
    save_autoencoder(path, trained())
    before = path.read_bytes()

    def full(tensors: object, partial: Path) -> None:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nearfar.scoring.autoencoder.network.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_autoencoder(path, trained(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["network.encoder.0.weight"]


def with_one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["network.encoder.99.weight"] = torch.zeros(3)


def of_another_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["published.target"] = torch.zeros(8, 8)


def without_covariance(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["textbook.source"]


@pytest.mark.parametrize("spoil", [without_one, with_one_more, of_another_shape, without_covariance])
def test_a_file_with_other_tensors_is_refused(tmp_path: Path, spoil) -> None:
    path = tmp_path / "fan.safetensors"
    save_autoencoder(path, trained())
    tensors = load_file(path)
    spoil(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"fan\.safetensors: found no autoencoder that can be loaded"):
        load_autoencoder(path)


def test_a_missing_or_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fan.safetensors"
    with pytest.raises(InputError, match="no autoencoder"):
        load_autoencoder(path)
    save_autoencoder(path, trained())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="no autoencoder"):
        load_autoencoder(path)
