"""The whole network: what it is made of, and what masking the padding means."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nearfar.encoders import EAT, EATConfig, Tokens, build_encoder, token_keep
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.models.embedder import Embedder
from nearfar.pooling import AttentiveStatisticsPooling

SMALL = EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=64)
THREE_COLUMNS = 400 + 160 * 47
"""Samples of 48 whole frames, so three columns of tokens without any rounding up."""


def make(mask_padding: bool = False, config: EATConfig = SMALL) -> Embedder:
    torch.manual_seed(1)
    encoder, pooling = build_encoder(config, seed=3), AttentiveStatisticsPooling(config.embed_dim, 4)
    embedder = Embedder(encoder, KaldiFbank(), pooling, embedding_dim=6, mask_padding=mask_padding)
    return embedder.eval()


def sounds(batch: int, samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def padded(waveform: Tensor, samples: int) -> Tensor:
    return nn.functional.pad(waveform, (0, samples - waveform.shape[1]))


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def test_it_is_fbank_encoder_pooling_and_projection() -> None:
    embedder, waveform = make(), sounds(2, 16_000)
    tokens = embedder.encoder(KaldiFbank()(waveform))
    attention = embedder.pooling.linear2(torch.tanh(embedder.pooling.linear1(tokens[:, 1:]))).softmax(dim=1)
    mean = (attention * tokens[:, 1:]).sum(1)
    deviation = (attention * (tokens[:, 1:] - mean[:, None]) ** 2).sum(1).sqrt()
    expected = torch.cat([mean, deviation], 1) @ embedder.projection.weight.T + embedder.projection.bias
    out = embedder(waveform, torch.tensor([16_000, 16_000]))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    assert out.shape == (2, 6)


class Recorder(nn.Module):
    """A stub of an encoder: constant patch tokens, a CLS of NaN, and a record of its arguments."""

    patch_frames, bands = 16, 8

    def encode(self, fbank: Tensor, **asked: Tensor | None) -> list[Tokens]:
        self.asked = asked
        return [
            Tokens(torch.ones(len(fbank), fbank.shape[2] // 16 * 8, 32), torch.full((len(fbank), 32), torch.nan))
        ]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_cls_is_left_out_of_the_pooling(mask_padding: bool) -> None:
    embedder = make(mask_padding)
    embedder.encoder = Recorder()
    out = embedder(sounds(1, 16_000), torch.tensor([8_000]))
    assert torch.isfinite(out).all()


def test_branch_factors_and_the_mask_reach_the_encoder() -> None:
    embedder, factors = make(mask_padding=True), torch.ones(2, 2, 1)
    embedder.encoder = recorder = Recorder()
    embedder(sounds(1, 16_000), torch.tensor([THREE_COLUMNS]), branch_keep=factors)
    assert recorder.asked["branch_keep"] is factors
    assert recorder.asked["token_keep"] is not None
    assert recorder.asked["token_keep"].sum() == 3 * 8
    embedder.mask_padding = False
    embedder(sounds(1, 16_000), torch.tensor([THREE_COLUMNS]))
    assert recorder.asked == {"branch_keep": None, "token_keep": None}


@pytest.mark.parametrize(
    ("samples", "columns"),
    [
        (1, 1),  # shorter than one frame: a clip keeps a column all the same
        (400, 1),  # 1 frame
        (400 + 160 * 15, 1),  # 16 frames
        (400 + 160 * 16 - 1, 1),  # 16 frames, and a sample less than a seventeenth
        (400 + 160 * 16, 2),  # 17 frames
        (160_000, 63),  # 10 s: 998 frames, padded to 1008
        (256_000, 100),  # 16 s: 1598 frames, padded to 1600
    ],
)
def test_a_clip_keeps_the_columns_that_hold_a_whole_frame_of_it(samples: int, columns: int) -> None:
    keep = token_keep(build_encoder(SMALL), KaldiFbank(), torch.tensor([samples, 256_000]), 100)
    assert keep.shape == (2, 800)
    assert keep[0].tolist() == [True] * (8 * columns) + [False] * (800 - 8 * columns)
    assert keep[1].all()


def test_a_masked_padded_clip_embeds_like_the_clip_without_padding() -> None:
    embedder, clip = make(mask_padding=True), sounds(1, THREE_COLUMNS)
    samples = torch.tensor([THREE_COLUMNS])
    alone = embedder(clip, samples)
    for longer in (THREE_COLUMNS + 1, 16_000, 48_000):
        torch.testing.assert_close(embedder(padded(clip, longer), samples), alone, atol=1e-5, rtol=1e-4)
    unmasked = make(mask_padding=False)
    torch.testing.assert_close(unmasked(clip, samples), alone, atol=0, rtol=0)
    assert not torch.allclose(unmasked(padded(clip, 48_000), samples), alone, atol=1e-2)


def test_what_lies_behind_a_masked_clip_does_not_matter() -> None:
    waveform, samples = padded(sounds(1, THREE_COLUMNS), 16_000), torch.tensor([THREE_COLUMNS])
    other = waveform.clone()
    other[:, THREE_COLUMNS:] = sounds(1, 16_000 - THREE_COLUMNS, seed=9)
    masked, unmasked = make(mask_padding=True), make(mask_padding=False)
    torch.testing.assert_close(masked(other, samples), masked(waveform, samples), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(unmasked(other, samples), unmasked(waveform, samples), atol=1e-2)


def test_without_a_mask_the_stated_lengths_are_not_looked_at() -> None:
    embedder, waveform = make(), sounds(2, 16_000)
    a, b = (embedder(waveform, torch.tensor(lengths)) for lengths in ([16_000, 16_000], [500, 9_000]))
    torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(mask_padding: bool) -> None:
    embedder, waveform = make(mask_padding), sounds(3, 16_000)
    samples = torch.tensor([16_000, 5_000, 11_111])
    together = embedder(waveform, samples)
    for row in range(3):
        alone = embedder(waveform[row : row + 1], samples[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_masked_cells_hide_what_was_in_them() -> None:
    embedder, waveform = make(), sounds(2, 16_000)
    samples = torch.tensor([16_000, 16_000])
    spec_mask = torch.zeros(2, 1, 112, 128, dtype=torch.bool)
    torch.testing.assert_close(
        embedder(waveform, samples, spec_mask=spec_mask), embedder(waveform, samples), atol=0, rtol=0
    )
    spec_mask[0] = True
    out = embedder(waveform, samples, spec_mask=spec_mask)
    torch.testing.assert_close(out[0], embedder(sounds(2, 16_000, seed=5), samples, spec_mask=spec_mask)[0])
    torch.testing.assert_close(out[1], embedder(waveform, samples)[1])
    fbank = KaldiFbank()(waveform)
    fbank[0] = 0.0
    tokens = embedder.encoder(fbank)
    torch.testing.assert_close(out, embedder.projection(embedder.pooling(tokens[:, 1:])), atol=1e-6, rtol=1e-5)


def test_embeddings_are_float32_inside_autocast() -> None:
    embedder, waveform, samples = make(), sounds(2, 16_000), torch.tensor([16_000, 16_000])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = embedder(waveform, samples)
    assert out.dtype == torch.float32
    cosine = torch.cosine_similarity(out, embedder(waveform, samples))
    assert (cosine > 0.99).all()


def test_the_longest_clip_is_where_the_positions_end() -> None:
    config = EATConfig(embed_dim=32, depth=1, num_heads=2, max_length=4)
    embedder = make(config=config)
    longest = embedder.encoder.longest_samples
    assert longest == 400 + 160 * 63, "64 frames"
    assert embedder(sounds(1, longest), torch.tensor([longest])).shape == (1, 6)
    with pytest.raises(ValueError, match="frames"):
        embedder(sounds(1, longest + 160), torch.tensor([longest + 160]))
    with torch.device("meta"):
        assert EAT().longest_samples == 122.895 * 16_000
