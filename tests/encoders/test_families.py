"""What every family of encoders of one signal promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nearfar.encoders import ENCODERS, Encoder
from nearfar.encoders.speedups import OwnLength

FAMILIES = [name for name, family in ENCODERS.items() if family.signals == 1]


def example(family: str) -> tuple[Encoder, Tensor, Tensor]:
    """An encoder, the spectrograms of two clips, and a mask of the columns of padding of the first."""
    entry = ENCODERS[family]
    encoder, frontend = entry.load("random:tiny:0", None), entry.frontend(*entry.fbank)
    waveform = 0.1 * torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    spectrogram = frontend(waveform)
    keep = torch.ones(2, spectrogram.shape[2] // encoder.patch_frames * encoder.bands, dtype=torch.bool)
    keep[0, -2 * encoder.bands :] = False
    return encoder, spectrogram, keep


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_tokens_are_those_of_the_clip_at_its_own_length(family: str) -> None:
    encoder, spectrogram, keep = example(family)
    layers = [1, encoder.depth]
    masked = encoder.encode(spectrogram, layers, token_keep=keep)
    own = OwnLength(encoder).encode(spectrogram, layers, token_keep=keep)
    for one, other in zip(masked, own, strict=True):
        assert one.patches.shape == (*keep.shape, encoder.embed_dim)
        torch.testing.assert_close(one.patches[keep], other.patches[keep], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_gradients(family: str) -> None:
    encoder, spectrogram, keep = example(family)
    factors = torch.rand(encoder.depth, 2, 2, generator=torch.Generator().manual_seed(1))
    gradients = []
    for encoder.checkpoint_blocks in (False, True):
        encoder.zero_grad()
        (tokens,) = encoder.encode(spectrogram, token_keep=keep, branch_keep=factors)
        tokens.patches[keep].square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 10 * encoder.depth
    torch.testing.assert_close(*gradients)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_precision_stays_near(family: str) -> None:
    encoder, spectrogram, keep = example(family)
    (expected,) = encoder.encode(spectrogram, token_keep=keep)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = encoder.encode(spectrogram, token_keep=keep)
    torch.testing.assert_close(found.patches[keep].float(), expected.patches[keep], rtol=0.05, atol=0.15)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_dropped_branch_of_a_clip_leaves_other_clips_as_they_are(family: str) -> None:
    encoder, spectrogram, _ = example(family)
    factors = torch.ones(encoder.depth, 2, 2)
    (plain,) = encoder.encode(spectrogram)
    torch.testing.assert_close(encoder.encode(spectrogram, branch_keep=factors)[0].patches, plain.patches)
    factors[0, 1, 0] = 0.0
    (dropped,) = encoder.encode(spectrogram, branch_keep=factors)
    torch.testing.assert_close(dropped.patches[1], plain.patches[1])
    assert not torch.allclose(dropped.patches[0], plain.patches[0], atol=1e-2)
