"""The encoder's arithmetic, its masks, its layers and its random start; golden outputs are in test_weights."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.encoders import stochastic_depth
from nearfar.encoders.eat import EAT, SIZES, EATConfig, build_encoder, sincos_positions

SMALL = EATConfig(embed_dim=24, depth=3, num_heads=2, max_length=20)
TIGHT = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def encoder() -> EAT:
    """Three blocks with weights large enough that every branch matters."""
    model = build_encoder(SMALL, seed=1).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
            elif parameter.dim() == 2:
                parameter.mul_(10.0)
    return model


@pytest.fixture(scope="module")
def fbank() -> Tensor:
    return torch.randn(3, 1, 80, 128, generator=torch.Generator().manual_seed(2))


def by_hand(encoder: EAT, fbank: Tensor, branch_keep: Tensor | None = None) -> list[Tensor]:
    """The specification, token by token and head by head, in float64: the output of every block."""
    weights = {name: value.double() for name, value in encoder.state_dict().items()}
    config = encoder.config

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + config.norm_eps).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def attention(x: Tensor, name: str) -> Tensor:
        q, k, v = linear(x, f"{name}.qkv").split(config.embed_dim, dim=-1)
        size = config.embed_dim // config.num_heads
        heads = []
        for h in range(config.num_heads):
            part = slice(h * size, (h + 1) * size)
            scores = (q[..., part] * size**-0.5) @ k[..., part].transpose(1, 2)
            heads.append(scores.softmax(-1) @ v[..., part])
        return linear(torch.cat(heads, dim=-1), f"{name}.proj")

    kernel = weights["local_encoder.proj.weight"].flatten(1)
    tokens = []
    for column in range(fbank.shape[2] // 16):
        for band in range(8):
            patch = fbank[:, 0, 16 * column : 16 * column + 16, 16 * band : 16 * band + 16].double()
            tokens.append(patch.flatten(1) @ kernel.T + weights["local_encoder.proj.bias"])
    x = torch.stack(tokens, dim=1) + sincos_positions(20, 8, config.embed_dim)[:, : len(tokens)]
    x = norm(torch.cat([weights["extra_tokens"].expand(len(x), -1, -1), x], dim=1), "pre_norm")
    keep = torch.ones(config.depth, 2, len(x)) if branch_keep is None else branch_keep
    outputs = []
    for i in range(config.depth):
        x = norm(x + attention(x, f"blocks.{i}.attn") * keep[i, 0, :, None, None], f"blocks.{i}.norm1")
        hidden = linear(x, f"blocks.{i}.mlp.fc1")
        fed = linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), f"blocks.{i}.mlp.fc2")
        x = norm(x + fed * keep[i, 1, :, None, None], f"blocks.{i}.norm2")
        outputs.append(x)
    return outputs


def test_encoder_equals_the_specification_written_out(encoder, fbank):
    with torch.no_grad():
        torch.testing.assert_close(encoder(fbank).double(), by_hand(encoder, fbank)[-1], **TIGHT)


def test_positions_equal_a_loop():
    table = sincos_positions(columns=5, bands=3, dim=8)
    assert table.shape == (1, 15, 8)
    for row in range(15):
        column, band = divmod(row, 3)
        for half, position in ((0, band), (4, column)):
            for k, w in enumerate((1.0, 0.01)):
                angle = torch.tensor(position * w, dtype=torch.float64)
                assert table[0, row, half + k].item() == pytest.approx(angle.sin().item(), abs=1e-7)
                assert table[0, row, half + 2 + k].item() == pytest.approx(angle.cos().item(), abs=1e-7)
    assert torch.equal(sincos_positions(9, 3, 8)[:, :15], table)


def test_masked_padding_gives_what_the_shorter_clip_gives(encoder, fbank):
    keep = torch.zeros(3, 40, dtype=torch.bool)
    keep[:, :24] = True  # three of five columns
    with torch.no_grad():
        masked = encoder(fbank, token_keep=keep)
        short = encoder(fbank[:, :, :48])
        unmasked = encoder(fbank)
    torch.testing.assert_close(masked[:, :25], short, **TIGHT)
    assert (unmasked[:, :25] - short).abs().max() > 0.01


def test_each_clip_of_a_batch_has_its_own_mask(encoder, fbank):
    columns = [2, 5, 3]
    keep = torch.arange(40) < 8 * torch.tensor(columns)[:, None]
    with torch.no_grad():
        masked = encoder(fbank, token_keep=keep)
        for clip, n in enumerate(columns):
            alone = encoder(fbank[clip : clip + 1, :, : 16 * n])
            torch.testing.assert_close(masked[clip : clip + 1, : 8 * n + 1], alone, **TIGHT)


def test_frames_beyond_the_last_whole_patch_are_not_seen(encoder, fbank):
    with torch.no_grad():
        assert torch.equal(encoder(fbank[:, :, :79]), encoder(fbank[:, :, :64]))


def test_layers_are_the_outputs_of_their_blocks(encoder, fbank):
    with torch.no_grad():
        everything = encoder.encode(fbank, (1, 2, 3))
        for ours, expected in zip(everything, by_hand(encoder, fbank), strict=True):
            torch.testing.assert_close(ours.patches.double(), expected[:, 1:].double(), **TIGHT)
            torch.testing.assert_close(ours.cls.double(), expected[:, 0].double(), **TIGHT)
        (last_only,) = encoder.encode(fbank)
        assert torch.equal(last_only.patches, encoder(fbank)[:, 1:])
        assert torch.equal(last_only.cls, encoder(fbank)[:, 0])
        second, first = encoder.encode(fbank, [2, 1])
        assert torch.equal(second.patches, everything[1].patches)
        assert torch.equal(first.patches, everything[0].patches)


@pytest.mark.parametrize("layers", [(4,), (0,), (-1,), (1, 8), ()])
def test_a_layer_that_does_not_exist_is_an_error(encoder, fbank, layers):
    with pytest.raises(ValueError, match="expected layers from 1 to 3"):
        encoder.encode(fbank, layers)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 80, 128), r"expected a fbank of \(batch, 1, frames, 128\)"),
        ((1, 2, 80, 128), r"got \(1, 2, 80, 128\)"),
        ((1, 1, 80, 80), r"got \(1, 1, 80, 80\)"),
        ((1, 1, 15, 128), "expected 16 to 320 frames, got 15"),
        ((1, 1, 336, 128), "expected 16 to 320 frames, got 336"),
    ],
)
def test_a_spectrogram_of_another_shape_is_an_error(encoder, shape, message):
    with pytest.raises(ValueError, match=message):
        encoder(torch.zeros(shape))


def test_a_random_start_follows_from_its_seed_and_leaves_torch_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (build_encoder("tiny", seed=seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = {name for name in first if not torch.equal(first[name], other[name])}
    assert {name for name in first if name.endswith(("weight", "extra_tokens")) and "norm" not in name} == drawn


def test_a_random_start_has_the_distribution_of_pretraining():
    state = build_encoder("tiny").state_dict()
    assert all((value == 0).all() for name, value in state.items() if name.endswith("bias"))
    assert all((value == 1).all() for name, value in state.items() if "norm" in name and name.endswith("weight"))
    linear = torch.cat([v.flatten() for n, v in state.items() if "attn" in n or "mlp" in n if v.dim() == 2])
    assert linear.std().item() == pytest.approx(0.02, rel=0.01)
    patch = state["local_encoder.proj.weight"]
    bound = (6 / (192 + 256)) ** 0.5
    assert 0.99 * bound < patch.abs().max() <= bound
    assert state["extra_tokens"].std().item() == pytest.approx(1.0, rel=0.2)


def test_an_unknown_size_is_an_error_and_a_configuration_is_a_size():
    with pytest.raises(ValueError, match="expected one of base, large, tiny, got 'huge'"):
        build_encoder("huge")
    assert build_encoder(SMALL).config == SMALL
    assert SIZES["tiny"] == EATConfig(embed_dim=192, depth=4, num_heads=3)


def test_stochastic_depth_keeps_each_branch_at_its_rate_and_the_mean():
    rate, depth, batch = 0.4, 5, 20_000
    factors = stochastic_depth(rate, depth, batch, torch.Generator().manual_seed(0))
    assert factors is not None
    assert factors.shape == (depth, 2, batch)
    for block in range(depth):
        kept = 1.0 - rate * block / (depth - 1)
        values = factors[block].unique()
        torch.testing.assert_close(values, torch.tensor([1.0] if block == 0 else [0.0, 1.0 / kept]))
        for branch in range(2):
            share = (factors[block, branch] > 0).float().mean().item()
            assert share == pytest.approx(kept, abs=4 * (0.25 / batch) ** 0.5)
    dropped = factors[4] == 0
    assert (dropped[0] & dropped[1]).float().mean().item() == pytest.approx(0.16, abs=0.015)  # independent


def test_no_stochastic_depth_is_none_and_the_generator_decides():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert stochastic_depth(0.0, 12, 4, generator) is None
    assert torch.equal(generator.get_state(), before)
    draws = [stochastic_depth(0.3, 12, 4, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)


def test_branch_factors_scale_each_branch_of_each_clip(encoder, fbank):
    factors = torch.rand(3, 2, 3, generator=torch.Generator().manual_seed(5)) * 2.0
    factors[1, 0, 2] = factors[2, 1, 0] = 0.0
    with torch.no_grad():
        ours = encoder(fbank, branch_keep=factors)
        torch.testing.assert_close(ours.double(), by_hand(encoder, fbank, factors)[-1], **TIGHT)
        assert torch.equal(encoder(fbank, branch_keep=torch.ones(3, 2, 3)), encoder(fbank))


def loss_of(tokens: Tensor) -> Tensor:
    """A loss that sees every token and channel; a plain sum of squares is constant behind a layer norm."""
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return (tokens.double() * weight).sum()


def gradients(encoder: EAT, fbank: Tensor, factors: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    keep = torch.ones(3, 40, dtype=torch.bool)
    keep[0, 32:] = False
    loss_of(encoder(fbank, token_keep=keep, branch_keep=factors)).backward()
    return {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}


def test_activation_checkpointing_gives_the_same_gradients(fbank, monkeypatch):
    model = build_encoder(SMALL, seed=6).train()
    factors = stochastic_depth(0.5, 3, 3, torch.Generator().manual_seed(8))
    plain = gradients(model, fbank, factors)
    model.checkpoint_blocks = True
    calls = []
    forward = type(model.blocks[0]).forward
    monkeypatch.setattr(type(model.blocks[0]), "forward", lambda *a: calls.append(1) or forward(*a))
    checkpointed = gradients(model, fbank, factors)
    assert len(calls) == 2 * SMALL.depth  # each block ran again in the backward pass
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=0, rtol=0)
    assert all(gradient.abs().max() > 1e-3 for gradient in plain.values())


def test_gradients_equal_those_of_the_specification(fbank):
    model = build_encoder(SMALL, seed=6)
    loss_of(model(fbank)).backward()
    step = 1e-5
    for name in ("extra_tokens", "local_encoder.proj.weight", "blocks.1.attn.qkv.weight", "blocks.2.mlp.fc2.bias"):
        parameter = dict(model.named_parameters())[name]
        index = parameter.grad.abs().argmax()
        losses = []
        exact = build_encoder(SMALL, seed=6).double()
        for sign in (1, -1):
            with torch.no_grad():
                exact.get_parameter(name).view(-1)[index] += sign * step
                losses.append(loss_of(by_hand(exact, fbank)[-1]))
                exact.get_parameter(name).view(-1)[index] -= sign * step
        numeric = ((losses[0] - losses[1]) / (2 * step)).item()
        assert parameter.grad.view(-1)[index].item() == pytest.approx(numeric, rel=1e-3)


def test_bfloat16_keeps_the_direction_of_every_token(fbank):
    model = build_encoder("tiny").eval()
    with torch.no_grad():
        exact = model(fbank)
        half = model.bfloat16()(fbank.bfloat16()).float()
    assert F.cosine_similarity(half, exact, dim=-1).min() > 0.999


def test_autocast_gives_a_gradient_to_every_parameter(fbank):
    model = build_encoder(replace(SMALL, depth=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(fbank)
    loss_of(out).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_optional_arguments_are_named_ones():
    kinds = {p.name: p.kind for p in inspect.signature(EAT.forward).parameters.values()}
    assert kinds["token_keep"] == kinds["branch_keep"] == inspect.Parameter.KEYWORD_ONLY
