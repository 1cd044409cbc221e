"""EAT's objective against arrays of the published code, against naive loops, and its masks' statistics."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.pretraining.model import (
    Decoder,
    MaskedPredictor,
    Teacher,
    decay_after,
    fill_grid,
    frame_loss,
    inverse_block_masks,
    layer_targets,
    spread,
    utterance_loss,
    visible_cells,
    visible_count,
)

CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def our_name(published: str) -> str:
    """The name in a MaskedPredictor of a tensor of the published pre-training code."""
    name = published.removeprefix("modality_encoders.IMAGE.").replace("context_encoder.norm", "pre_norm")
    if name.startswith("decoder."):
        return name.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
    return f"encoder.{name}"


def tensors_under(prefix: str, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {our_name(key.removeprefix(prefix)): value for key, value in arrays.items() if key.startswith(prefix)}
    assert found
    return found


# --- the published code's own numbers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(golden_arrays: Path) -> dict[str, Tensor]:
    fbank = load_file(golden_arrays / "eat_tiny_A.safetensors")["input_fbank"]
    return load_file(golden_arrays / "eat_tiny_A.ssl.safetensors") | {"in.fbank": fbank}


@pytest.fixture(scope="module")
def facts(golden_arrays: Path) -> dict[str, float]:
    return json.loads((golden_arrays / "eat_tiny_A.json").read_text(encoding="utf-8"))


@pytest.fixture
def student(golden_arrays: Path, facts) -> MaskedPredictor:
    config = EATConfig(embed_dim=facts["embed_dim"], depth=facts["depth"], num_heads=facts["num_heads"])
    sizes = facts["decoder_layers"], facts["decoder_kernel"], facts["decoder_groups"]
    built = MaskedPredictor(EAT(config), Decoder(config.embed_dim, config.bands, *sizes))
    weights = tensors_under("", load_file(golden_arrays / "eat_tiny_A.weights.safetensors"))
    del weights["encoder.fixed_positional_encoder.positions"]
    built.load_state_dict(weights)
    return built


@pytest.fixture
def teacher(student: MaskedPredictor, arrays) -> Teacher:
    built = Teacher(student.encoder)
    before = tensors_under("ema_before.", arrays)
    built.encoder.load_state_dict({key.removeprefix("encoder."): value for key, value in before.items()})
    return built


def predict(student: MaskedPredictor, arrays: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    masked = arrays["in.mask"].bool()
    return student(arrays["in.fbank"], masked, torch.zeros(*masked.shape, student.encoder.config.embed_dim))


def test_targets_are_those_of_the_published_code(teacher, arrays):
    fed = [arrays[f"out.teacher_ffn_{block}"] for block in range(3)]
    torch.testing.assert_close(layer_targets(fed), arrays["out.targets"], **CLOSE)
    torch.testing.assert_close(teacher.targets(arrays["in.fbank"]), arrays["out.targets"], **CLOSE)


def test_student_encodes_the_visible_tokens_as_the_published_code(student, arrays):
    masked = arrays["in.mask"].bool()
    with torch.no_grad():
        encoded = student.encode(arrays["in.fbank"], visible_cells(masked))
    order = arrays["out.ids_keep"].argsort(dim=1)  # the published code keeps them in a shuffled order
    patches = arrays["out.student_encoder"][:, 1:].gather(1, order[..., None].expand(-1, -1, encoded.shape[-1]))
    torch.testing.assert_close(visible_cells(masked), arrays["out.ids_keep"].sort(dim=1).values)
    torch.testing.assert_close(encoded[:, 0], arrays["out.student_encoder"][:, 0], **CLOSE)
    torch.testing.assert_close(encoded[:, 1:], patches, **CLOSE)


def test_decoder_and_predictions_are_those_of_the_published_code(student, arrays):
    masked = arrays["in.mask"].bool()
    visible = visible_cells(masked)
    with torch.no_grad():
        encoded = student.encode(arrays["in.fbank"], visible)
        grid = fill_grid(encoded[:, 1:], visible, torch.zeros_like(arrays["out.decoder_in"]))
        torch.testing.assert_close(grid, arrays["out.decoder_in"], **CLOSE)
        torch.testing.assert_close(student.decoder(arrays["out.decoder_in"]), arrays["out.decoder_out"], **CLOSE)
        cells, utterance = predict(student, arrays)
    torch.testing.assert_close(cells[masked], arrays["out.frame_pred"], **CLOSE)
    torch.testing.assert_close(utterance, arrays["out.cls_pred"], **CLOSE)


def test_losses_and_every_gradient_are_those_of_the_published_code(student, teacher, arrays):
    masked, targets = arrays["in.mask"].bool(), teacher.targets(arrays["in.fbank"])
    cells, utterance = predict(student, arrays)
    frame, whole = frame_loss(cells, targets, masked), utterance_loss(utterance, targets)
    views, sample_size = len(masked), int(arrays["out.sample_size"])
    total = frame + views * whole
    torch.testing.assert_close(frame * sample_size, arrays["out.loss_frame_sum"], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(views * whole * sample_size, arrays["out.loss_cls_sum"], rtol=1e-5, atol=0.0)
    torch.testing.assert_close(total, arrays["out.loss_per_sample_size"], rtol=1e-5, atol=0.0)
    total.backward()
    gradients = tensors_under("grad.", arrays)
    parameters = dict(student.named_parameters())
    assert parameters.keys() == gradients.keys()
    for name, gradient in gradients.items():
        tolerance = 1e-5 * float(gradient.abs().max())
        torch.testing.assert_close(parameters[name].grad, gradient, atol=tolerance, rtol=0.0, msg=name)


def test_teacher_follows_as_in_the_published_code(student, teacher, arrays, facts):
    gradients = tensors_under("grad.", arrays)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter -= 0.1 * gradients[name]
    decay = decay_after(1, facts["ema_decay"], facts["ema_end_decay"], facts["ema_anneal_end_step"])
    assert decay == pytest.approx(float(arrays["out.ema_decay"]), abs=1e-7)
    teacher.follow(student.encoder, decay)
    after = tensors_under("ema_after.", arrays)
    parameters = {f"encoder.{name}": parameter for name, parameter in teacher.encoder.named_parameters()}
    assert set(parameters) - set(after) == {
        name for name in parameters if ".blocks.1." in name or ".blocks.2." in name
    }
    for name, value in after.items():
        torch.testing.assert_close(parameters[name], value, atol=1e-6, rtol=0.0, msg=name)


# --- without the golden arrays ----------------------------------------------------------------------------------


def test_losses_equal_naive_sums():
    random = torch.Generator().manual_seed(3)
    cells, targets = torch.randn(6, 5, 4, generator=random), torch.randn(2, 5, 4, generator=random)
    utterance = torch.randn(6, 4, generator=random)
    masked = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 1, 0], [1, 1, 1, 0, 0]] * 2).bool()
    frame, whole, count = 0.0, 0.0, 0
    for view in range(6):
        clip = view // 3
        for cell in range(5):
            if masked[view, cell]:
                frame += sum((float(cells[view, cell, d]) - float(targets[clip, cell, d])) ** 2 for d in range(4))
                count += 1
        mean = [sum(float(targets[clip, cell, d]) for cell in range(5)) / 5 for d in range(4)]
        whole += sum((float(utterance[view, d]) - mean[d]) ** 2 for d in range(4))
    assert float(frame_loss(cells, targets, masked)) == pytest.approx(frame / count / math.sqrt(4), rel=1e-5)
    assert float(utterance_loss(utterance, targets)) == pytest.approx(whole / 6 / math.sqrt(4), rel=1e-5)


def test_decay_grows_linearly_and_stays():
    assert decay_after(0, 0.9998, 0.99999, 100_000) == pytest.approx(0.9998, abs=1e-12)
    assert decay_after(50_000, 0.9998, 0.99999, 100_000) == pytest.approx((0.9998 + 0.99999) / 2, abs=1e-12)
    assert decay_after(100_000, 0.9998, 0.99999, 100_000) == 0.99999
    assert decay_after(400_000, 0.9998, 0.99999, 100_000) == 0.99999


def test_student_without_masked_cells_is_the_encoder():
    encoder = build_encoder(EATConfig(embed_dim=24, depth=2, num_heads=2, max_length=8), seed=4)
    fbank = torch.randn(2, 1, 48, 128, generator=torch.Generator().manual_seed(5))
    student = MaskedPredictor(encoder, Decoder(24, 8, 1, 3, 4))
    nothing_masked = torch.zeros(6, 24, dtype=torch.bool)
    with torch.no_grad():
        encoded = student.encode(fbank, visible_cells(nothing_masked))
        torch.testing.assert_close(encoded, encoder(fbank).repeat_interleave(3, dim=0), **CLOSE)


def test_teacher_is_a_copy_and_gets_no_gradient():
    encoder = build_encoder(EATConfig(embed_dim=24, depth=1, num_heads=2, max_length=8), seed=4)
    teacher = Teacher(encoder)
    with torch.no_grad():
        encoder.extra_tokens.add_(1.0)
    assert not torch.equal(teacher.encoder.extra_tokens, encoder.extra_tokens)
    assert not teacher.targets(torch.zeros(1, 1, 32, 128)).requires_grad
    teacher.follow(encoder, 0.0)
    assert torch.equal(teacher.encoder.extra_tokens, encoder.extra_tokens)


def test_spread_of_varied_and_of_constant_vectors():
    varied = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    assert float(spread(varied)) == pytest.approx(0.5)  # deviations 1 and 0
    assert float(spread(torch.ones(3, 4, 2))) == 0.0


# --- masks ------------------------------------------------------------------------------------------------------


def neighbours(masked: np.ndarray, columns: int, bands: int) -> float:
    """Mean number of visible neighbours (of 4) of a visible cell: how clustered the visible cells are."""
    visible = ~masked.reshape(-1, columns, bands)
    pairs = (visible[:, 1:] & visible[:, :-1]).sum() + (visible[:, :, 1:] & visible[:, :, :-1]).sum()
    return 2 * float(pairs) / float(visible.sum())


def test_masks_of_the_release_setting_keep_102_of_512():
    masked = inverse_block_masks(np.random.default_rng(0), 400, 64, 8)
    assert masked.shape == (400, 512)
    assert visible_count(512, 0.8) == 102
    assert set((~masked).sum(axis=1)) == {102}
    assert len(np.unique(masked, axis=0)) == 400


def test_masks_are_as_clustered_as_the_published_ones(golden_arrays: Path):
    example = load_file(golden_arrays / "mask_base_example.safetensors")["mask_seed1234_16x512"].bool().numpy()
    assert set((~example).sum(axis=1)) == {102}
    ours = [neighbours(inverse_block_masks(np.random.default_rng(seed), 16, 64, 8), 64, 8) for seed in range(50)]
    assert abs(neighbours(example, 64, 8) - np.mean(ours)) < 3 * np.std(ours)
    singles = [
        neighbours(inverse_block_masks(np.random.default_rng(seed), 16, 64, 8, block=1), 64, 8) for seed in (0, 1)
    ]
    assert min(ours) > 1.5 * max(singles)


def test_masks_keep_cells_at_the_edge_less_often_as_blocks_are_cut_there():
    """The chance of each cell against blocks drawn one by one, cell by cell."""
    kept = (~inverse_block_masks(np.random.default_rng(1), 20_000, 10, 8)).mean(axis=0).reshape(10, 8)
    random = np.random.default_rng(2)
    expected = np.zeros((10, 8))
    for _ in range(4_000):
        cells: set[tuple[int, int]] = set()
        for _ in range(int(80 * 0.27 / 25)):
            t, f = divmod(int(random.integers(80)), 8)
            cells |= {(min(max(t + i, 0), 9), min(max(f + j, 0), 7)) for i in range(-2, 3) for j in range(-2, 3)}
        everything = [(t, f) for t in range(10) for f in range(8)]
        in_block = list(cells)
        random.shuffle(in_block)
        others = [cell for cell in everything if cell not in cells]
        random.shuffle(others)
        for t, f in (in_block + others)[:16]:
            expected[t, f] += 1 / 4_000
    assert np.abs(kept - expected).max() < 0.035


def test_masks_with_more_block_cells_than_are_kept_lie_within_blocks():
    masked = inverse_block_masks(np.random.default_rng(3), 50, 10, 8, mask_ratio=0.9, adjust=0.3)
    random = np.random.default_rng(3)
    centres = random.integers(80, size=(50, int(80 * 0.4 / 25)))
    for view, centre in enumerate(centres[:, 0]):
        for cell in np.flatnonzero(~masked[view]):
            assert abs(cell // 8 - centre // 8) <= 2
            assert abs(cell % 8 - centre % 8) <= 2


def test_uneven_masks_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        visible_cells(torch.tensor([[True, False, False], [True, True, False]]))
