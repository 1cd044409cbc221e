"""Pieces of features from one pass: assembled, they are what each recipe's own settings give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nearfar.encoders import load_encoder
from nearfar.encoders.eat import EAT
from nearfar.features import EncoderParts, Source, WindowBatch
from nearfar.features.sources import LOG_MEL, SLANEY, TOKENS, LogMelSettings, TokenSettings
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pooling import AttentiveStatisticsPooling

OF_TOKENS = [
    TokenSettings(),
    TokenSettings(layers=(3, 1), pooling="mean-std", rdp_gamma=7.0),
    TokenSettings(layers=(1, 2), pooling="rdp", rdp_gamma=2.0, keep_bands=True),
    TokenSettings(pooling="rdp", rdp_gamma=9.0),
    TokenSettings(layers=(2,), pooling="cls"),
    TokenSettings(layers=(1, 3), average_layers=True, pooling="rdp", keep_bands=True),
    TokenSettings(pooling="asp"),
]
OF_LOG_MEL = [
    LogMelSettings(),
    LogMelSettings(lags=(4, 1), keep_bands=True),
    LogMelSettings(lags=(1,)),
    LogMelSettings(lags=(1,), remove_level=False),
    LogMelSettings(remove_level=False, keep_bands=True),
]


@pytest.fixture(scope="module")
def encoder() -> EAT:
    encoder = load_encoder("random:tiny:0")
    assert isinstance(encoder, EAT)
    return encoder.eval()


@pytest.fixture(scope="module")
def batch() -> WindowBatch:
    waveform = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(5))
    samples = torch.tensor([16_000, 9_000, 4_000])
    for row, count in zip(waveform, samples, strict=True):
        row[count:] = 0
    return WindowBatch(waveform, samples)


def from_one_pass(source: Source, parts: EncoderParts, wanted: list[Any], batch: WindowBatch) -> list[Tensor]:
    """Every distinct piece is extracted in one call, and features are assembled from them."""
    of_each = [source.pieces(settings, parts.depth) for settings in wanted]
    pieces = [*{str(piece.identity()): piece for each in of_each for piece in each}.values()]
    assert len(pieces) < sum(map(len, of_each)), "some pieces are shared"
    found = source.extract(batch, parts, pieces)
    table = {str(piece.identity()): values for piece, values in zip(pieces, found, strict=True)}
    return [
        source.assemble(settings, [table[str(piece.identity())] for piece in each])
        for settings, each in zip(wanted, of_each, strict=True)
    ]


@torch.inference_mode()
@pytest.mark.parametrize("mask_padding", [False, True])
def test_tokens_pooled_in_one_pass_are_those_of_each_recipe(
    encoder: EAT, batch: WindowBatch, mask_padding: bool
) -> None:
    torch.manual_seed(3)
    head = SimpleNamespace(pooling=AttentiveStatisticsPooling(encoder.embed_dim))
    parts = EncoderParts(KaldiFbank(), encoder, head, mask_padding)
    wanted = [*OF_TOKENS, TokenSettings(layers=(3,), pooling="mean-std")]
    made = from_one_pass(TOKENS, parts, wanted, batch)
    for settings, assembled in zip(wanted, made, strict=True):
        (own,) = TOKENS.extract(batch, parts, [settings])
        torch.testing.assert_close(assembled, own, rtol=0, atol=0)


def test_log_mel_statistics_of_one_pass_are_those_of_each_recipe(batch: WindowBatch) -> None:
    made = from_one_pass(LOG_MEL, EncoderParts(), OF_LOG_MEL, batch)
    for settings, assembled in zip(OF_LOG_MEL, made, strict=True):
        (own,) = LOG_MEL.extract(batch, EncoderParts(), [settings])
        torch.testing.assert_close(assembled, own, rtol=0, atol=0)


def test_the_tokens_of_all_settings_are_computed_in_one_pass_of_the_encoder(
    encoder: EAT, batch: WindowBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[int]] = []
    encode = encoder.encode

    def counted(spectrogram: Tensor, layers: list[int], **options: Any) -> Any:
        passes.append(list(layers))
        return encode(spectrogram, layers, **options)

    monkeypatch.setattr(encoder, "encode", counted)
    with torch.inference_mode():
        TOKENS.extract(batch, EncoderParts(KaldiFbank(), encoder), OF_TOKENS[:-1])
    assert passes == [[1, 2, 3, 4]]


def identities(source: Source, settings: Any, depth: int = 0) -> list[Any]:
    return [piece.identity() for piece in source.pieces(settings, depth)]


def test_what_does_not_decide_features_makes_no_piece_of_its_own() -> None:
    usual = identities(TOKENS, TokenSettings(), 12)
    assert identities(TOKENS, TokenSettings(rdp_gamma=1.0), 12) == usual
    assert identities(TOKENS, TokenSettings(layers=(12,)), 12) == usual
    assert identities(TOKENS, TokenSettings(layers=(12,), average_layers=True), 12) == usual
    assert identities(TOKENS, TokenSettings(pooling="rdp", rdp_gamma=1.0), 12) != identities(
        TOKENS, TokenSettings(pooling="rdp"), 12
    )
    assert identities(LOG_MEL, LogMelSettings(keep_bands=True)) == identities(LOG_MEL, LogMelSettings())
    assert identities(LOG_MEL, LogMelSettings(lags=(4, 1))) == [
        *identities(LOG_MEL, LogMelSettings(lags=(4,))),
        *identities(LOG_MEL, LogMelSettings(lags=(1,))),
    ]
    assert not SLANEY.cached
