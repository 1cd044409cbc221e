"""Pieces of features from one pass: put together they are what each recipe's own extractor gives."""

from __future__ import annotations

import pytest
import torch
from nearfar.features.extractors import LogMelFeatures, TokenFeatures
from nearfar.features.pieces import Statistics, assembled, piece_shape, pieces_of

from nearfar.config import Features
from nearfar.encoders import load_encoder
from nearfar.encoders.eat import EAT
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pooling.attentive import AttentiveStatisticsPooling

TOKENS = [
    Features(source="tokens"),
    Features(source="tokens", layers=(3, 1), pooling="mean-std", rdp_gamma=7.0),
    Features(source="tokens", layers=(1, 2), pooling="rdp", rdp_gamma=2.0, keep_bands=True),
    Features(source="tokens", pooling="rdp", rdp_gamma=9.0),
    Features(source="tokens", layers=(2,), pooling="cls"),
    Features(source="tokens", layers=(1, 3), average_layers=True, pooling="rdp", keep_bands=True),
    Features(source="tokens", pooling="asp"),
]
LOG_MEL = [
    Features(source="log-mel"),
    Features(source="log-mel", lags=(4, 1), keep_bands=True),
    Features(source="log-mel", lags=(1,), remove_level=False),
    Features(source="log-mel", remove_level=False, keep_bands=True),
]


@pytest.fixture(scope="module")
def encoder() -> EAT:
    encoder = load_encoder("random:tiny:0")
    assert isinstance(encoder, EAT)
    return encoder.eval()


@pytest.fixture(scope="module")
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    waveform = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(5))
    samples = torch.tensor([16_000, 9_000, 4_000])
    for row, count in zip(waveform, samples, strict=True):
        row[count:] = 0
    return waveform, samples


def from_one_pass(extractor: torch.nn.Module, wanted: list[Features], depth: int, clips) -> list[torch.Tensor]:
    pieces = list(dict.fromkeys(piece for features in wanted for piece in pieces_of(features, depth)))
    width = extractor.encoder.config.embed_dim if isinstance(extractor, TokenFeatures) else 0
    with torch.inference_mode():
        flat = Statistics(extractor, pieces)(*clips)[:, 0]
    shapes = [piece_shape(piece, width, 0) for piece in pieces]
    parts = flat.split([parts * dim for parts, dim in shapes], dim=1)
    table = {
        piece: numbers.reshape(len(flat), *shape)
        for piece, numbers, shape in zip(pieces, parts, shapes, strict=True)
    }
    return [assembled(features, table, depth) for features in wanted]


@pytest.mark.parametrize("mask_padding", [False, True])
def test_tokens_pooled_in_one_pass_are_those_of_each_recipe(encoder: EAT, clips, mask_padding: bool) -> None:
    torch.manual_seed(3)
    settings = {"mask_padding": mask_padding, "attention": AttentiveStatisticsPooling(encoder.config.embed_dim)}
    last = TokenFeatures(encoder, KaldiFbank(), Features(source="tokens"), **settings)
    made = from_one_pass(last, TOKENS, encoder.config.depth, clips)
    for features, ours in zip(TOKENS, made, strict=True):
        with torch.inference_mode():
            own = TokenFeatures(encoder, KaldiFbank(), features, **settings)(*clips)
        torch.testing.assert_close(ours, own, rtol=0, atol=0)


def test_log_mel_statistics_of_one_pass_are_those_of_each_recipe(clips) -> None:
    made = from_one_pass(LogMelFeatures(KaldiFbank(), LOG_MEL[0]), LOG_MEL, 0, clips)
    for features, ours in zip(LOG_MEL, made, strict=True):
        torch.testing.assert_close(ours, LogMelFeatures(KaldiFbank(), features)(*clips), rtol=0, atol=0)


def test_what_features_do_not_read_makes_no_piece_of_its_own() -> None:
    same = [
        Features(source="tokens", rdp_gamma=1.0),
        Features(source="tokens", layers=(12,), lags=(3,)),
        Features(source="tokens", remove_level=False),
    ]
    assert len({pieces_of(features, 12) for features in same}) == 1
    assert pieces_of(Features(source="log-mel", keep_bands=True, layers=(3,)), 0) == pieces_of(LOG_MEL[0], 0)
