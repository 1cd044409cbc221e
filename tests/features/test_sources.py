"""Features against loops over tokens and frames."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nearfar.config import FeaturesTable, load_recipe
from nearfar.encoders import Encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.errors import InputError
from nearfar.features import SOURCES, EncoderParts, WindowBatch
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.frontends.slaney import slaney_log_mel
from nearfar.models import TrainedEmbedder, build_model
from nearfar.pipeline.extractor import Extractor, build_extractor, extractor_of_model
from nearfar.pooling import log_mel_statistics, relative_deviation_pooling

SMALL = EATConfig(embed_dim=16, depth=3, num_heads=2, max_length=16)


def clip(samples: int = 16_000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gamma", [0.0, 4.0, 8.0])
def test_relative_deviation_pooling_in_a_loop(gamma):
    tokens = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1)).double()
    pooled = relative_deviation_pooling(tokens, gamma)
    for row, result in zip(tokens.numpy(), pooled.numpy(), strict=True):
        mean = row.mean(axis=0)
        strays = [np.linalg.norm(token - mean) for token in row]
        weights = [(1 + stray / max(strays)) ** gamma for stray in strays]
        expected = sum(w * token for w, token in zip(weights, row, strict=True)) / sum(weights)
        np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_alike_tokens_have_no_relative_deviation():
    same = torch.ones(1, 4, 3)
    torch.testing.assert_close(relative_deviation_pooling(same, 4.0), same[:, 0])


def test_log_mel_statistics_in_a_loop():
    log_mel = torch.randn(20, 6, generator=torch.Generator().manual_seed(2)).double()
    rows = log_mel.numpy()
    rows[:, 5] = -15.9  # an empty filter, which says nothing of the level
    statistics = log_mel_statistics(torch.from_numpy(rows), (1, 4), remove_level=True).numpy()
    assert not statistics[:, 5].any()
    for band in range(5):
        assert statistics[0, band] == pytest.approx(rows[:, band].mean() - rows[:, :5].mean())
        for place, lag in enumerate((1, 4), start=1):
            differences = [rows[t + lag, band] - rows[t, band] for t in range(20 - lag)]
            assert statistics[place, band] == pytest.approx(np.std(differences))
    plain = log_mel_statistics(torch.from_numpy(rows), (), remove_level=False).numpy()
    np.testing.assert_allclose(plain, [rows.mean(axis=0), rows.std(axis=0)])
    assert not log_mel_statistics(log_mel[:3], (4,), remove_level=True)[1].any()


def extracted(parts: EncoderParts, waveform: Tensor, samples: list[int], **keys: Any) -> Tensor:
    """Features (windows, parts, dim) of the source and settings that a recipe's table of features names."""
    table = FeaturesTable(**keys)
    batch = WindowBatch(waveform, torch.tensor(samples))
    with torch.inference_mode():
        (features,) = table.entry("source").extract(batch, parts, [table.settings_of("source")])
    return features


def of_tokens(
    encoder: Encoder, waveform: Tensor, samples: list[int], *, mask_padding: bool = False, **keys: Any
) -> Tensor:
    parts = EncoderParts(KaldiFbank(), encoder, None, mask_padding)
    return extracted(parts, waveform, samples, source="tokens", **keys)


def of_log_mel(waveform: Tensor, samples: list[int], **keys: Any) -> Tensor:
    return extracted(EncoderParts(), waveform, samples, source="log-mel", **keys)


def with_extractor(extractor: Extractor, waveform: Tensor, samples: list[int]) -> Tensor:
    (features,) = extractor(WindowBatch(waveform, torch.tensor(samples)), [extractor.settings])
    return features


def test_log_mel_statistics_are_of_the_clip_and_not_of_its_padding_nor_its_gain():
    short = clip(8_000)
    padded = torch.nn.functional.pad(short, (0, 8_000))
    settings = {"lags": (1, 4), "keep_bands": True}
    alone = of_log_mel(short, [8_000], **settings)
    assert alone.shape == (1, 8, 3 * 16)
    torch.testing.assert_close(of_log_mel(padded, [8_000], **settings), alone)
    torch.testing.assert_close(of_log_mel(0.5 * short, [8_000], **settings), alone, atol=1e-3, rtol=1e-3)
    whole = of_log_mel(short, [8_000], lags=(1, 4))
    by_band = whole.reshape(3, 8, 16).transpose(0, 1).reshape(1, 8, 48)
    torch.testing.assert_close(alone, by_band)
    statistics = log_mel_statistics(KaldiFbank().log_mel(short)[0], (1, 4), remove_level=True)
    torch.testing.assert_close(whole[0, 0], statistics.flatten())


def test_windows_of_several_lengths_have_the_features_they_have_alone():
    both = torch.cat([clip(16_000), torch.nn.functional.pad(clip(8_000, seed=1), (0, 8_000))])
    together = of_log_mel(both, [16_000, 8_000], lags=(1,))
    torch.testing.assert_close(together[0], of_log_mel(both[:1], [16_000], lags=(1,))[0])
    torch.testing.assert_close(together[1], of_log_mel(both[1:, :8_000], [8_000], lags=(1,))[0])


def test_slaney_frames_are_those_of_the_front_end():
    windows = torch.cat([clip(16_000), clip(16_000, seed=1)])
    frames = extracted(EncoderParts(), windows, [16_000, 16_000], source="slaney")
    assert frames.shape == (2, 32, 128)
    for row, window in zip(frames, windows, strict=True):
        torch.testing.assert_close(row, slaney_log_mel(window))


@pytest.mark.parametrize(
    ("pooling", "keep_bands"),
    [*itertools.product(("mean", "mean-std", "rdp"), (False, True)), ("cls", False)],
)
def test_tokens_of_blocks_are_pooled(pooling, keep_bands):
    encoder, fbank = build_encoder(SMALL).eval(), KaldiFbank()
    out = of_tokens(encoder, clip(), [16_000], layers=(3, 1), pooling=pooling, keep_bands=keep_bands)
    with torch.inference_mode():
        first, last = (torch.cat([t.cls[:, None], t.patches], 1) for t in encoder.encode(fbank(clip()), [1, 3]))
    expected = []
    for tokens in (last, first):
        if pooling == "cls":
            expected.append(tokens[0, 0])
            continue
        groups = [tokens[0, 1 + band :: 8] for band in range(8)] if keep_bands else [tokens[0, 1:]]
        for group in groups:
            if pooling == "mean":
                expected.append(group.mean(dim=0))
            elif pooling == "mean-std":
                expected.append(torch.cat([group.mean(dim=0), group.std(dim=0, correction=0)]))
            else:
                expected.append(relative_deviation_pooling(group, 4.0))
    torch.testing.assert_close(out[0], torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "rdp", "cls"])
def test_averaged_layers_are_pooled_as_one_part(pooling):
    encoder, fbank = build_encoder(SMALL).eval(), KaldiFbank()
    out = of_tokens(encoder, clip(), [16_000], layers=(1, 3), average_layers=True, pooling=pooling)
    with torch.inference_mode():
        first, last = (torch.cat([t.cls[:, None], t.patches], 1) for t in encoder.encode(fbank(clip()), [1, 3]))
    tokens = (first[0] + last[0]) / 2
    expected = {
        "mean": tokens[1:].mean(dim=0),
        "rdp": relative_deviation_pooling(tokens[1:], 4.0),
        "cls": tokens[0],
    }[pooling]
    torch.testing.assert_close(out, expected[None, None], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", [False, True])
def test_asp_is_what_the_trained_head_projects(mask):
    recipe = load_recipe("tiny-near").with_changes(
        **{
            "audio.clip_seconds": 1.0,
            "encoder.mask_padding": mask,
            "features.source": "tokens",
            "features.pooling": "asp",
        }
    )
    embedder = build_model(recipe, classes=3).embedder.eval()
    trained = TrainedEmbedder(embedder, recipe, ("a", "b", "c"), "hash")
    waveform, samples = torch.nn.functional.pad(clip(9_000), (0, 7_000)), torch.tensor([9_000])
    statistics = with_extractor(extractor_of_model(trained, recipe), waveform, [9_000])
    assert statistics.shape == (1, 1, 2 * 192)
    with torch.inference_mode():
        torch.testing.assert_close(embedder.projection(statistics[:, 0]), embedder(waveform, samples))


@pytest.mark.parametrize("pooling", ["asp", "cls"])
def test_what_has_no_bands_is_not_pooled_by_band(pooling):
    with pytest.raises(
        ValueError, match=f"keep_bands = True; expected false, as pooling = '{pooling}' has no freq"
    ):
        FeaturesTable(source="tokens", pooling=pooling, keep_bands=True)


def test_asp_pools_the_last_tokens_alone():
    with pytest.raises(
        ValueError, match=r"layers = \[3\]; expected none, as pooling = 'asp' was trained on .* last"
    ):
        FeaturesTable(source="tokens", pooling="asp", layers=(3,))


def test_masked_padding_reaches_no_token_feature():
    """42 frames are three columns, which end after 7,920 samples; behind them one clip has silence, one a tone."""
    quiet = torch.nn.functional.pad(clip(7_000), (0, 9_000))
    loud = quiet.clone()
    loud[0, 8_000:] = 0.2 * torch.tensor([1.0, -1.0]).repeat(4_000)
    encoder = build_encoder(SMALL).eval()
    for masked in (True, False):
        one, two = (
            of_tokens(encoder, wave, [7_000], keep_bands=True, mask_padding=masked) for wave in (quiet, loud)
        )
        assert one.shape == (1, 8, 16)
        assert torch.allclose(one, two, atol=1e-4) == masked


def test_layers_that_are_not_there_and_heads_that_were_not_trained_are_refused():
    frozen = load_recipe("nearfar-best").with_changes(
        **{"audio.clip_seconds": 1.0, "encoder.weights": "random:tiny", "features.source": "tokens"}
    )
    with pytest.raises(InputError, match=r"features\.layers = \[5\]; expected layers from 1 to 4"):
        build_extractor(frozen.with_changes(**{"features.layers": [5]}))
    with pytest.raises(InputError, match=r"features\.source: found 'embedding' in a recipe that trains nothing"):
        build_extractor(frozen.with_changes(**{"features.source": "embedding"}))
    with pytest.raises(InputError, match=r"features\.pooling: found 'asp' in a recipe that trains nothing"):
        build_extractor(frozen.with_changes(**{"features.pooling": "asp", "features.keep_bands": False}))
    with pytest.raises(InputError, match="found a recipe that trains, without a model"):
        build_extractor(load_recipe("tiny-near").with_changes(**{"audio.clip_seconds": 1.0}))


def test_the_weights_hash_follows_from_all_that_decides_an_encoder_s_tokens():
    frozen = load_recipe("frozen-eat").with_changes(
        **{"audio.clip_seconds": 1.0, "encoder.weights": "random:tiny:0", "features.pooling": "rdp"}
    )
    usual = build_extractor(frozen)
    waveform, samples = torch.nn.functional.pad(clip(7_000), (0, 9_000)), [7_000]
    features = with_extractor(usual, waveform, samples)
    assert features.shape == (1, 8, 192)
    assert build_extractor(frozen.with_changes(name="again")).weights_hash == usual.weights_hash
    for key, value in {
        "encoder.weights": "random:tiny:1",
        "encoder.mask_padding": True,
        "fbank.mean": -4.0,
        "fbank.std": 4.0,
    }.items():
        other = build_extractor(frozen.with_changes(**{key: value}))
        assert other.weights_hash != usual.weights_hash, key
        assert not torch.allclose(with_extractor(other, waveform, samples), features, atol=1e-4), key


# --- batches of windows -----------------------------------------------------------------------------------------


def test_a_batch_computes_every_spectrogram_once(monkeypatch: pytest.MonkeyPatch):
    rows, log_mel = [], KaldiFbank.log_mel

    def counted(fbank: KaldiFbank, waveform: Tensor) -> Tensor:
        rows.append(len(waveform))
        return log_mel(fbank, waveform)

    monkeypatch.setattr(KaldiFbank, "log_mel", counted)
    batch = WindowBatch(torch.cat([clip(), clip(seed=1)]), torch.tensor([16_000, 16_000]))
    one, other = KaldiFbank(), KaldiFbank(mean=-3.0, std=2.0)
    first = batch.spectrogram(one)
    assert batch.spectrogram(one) is first
    torch.testing.assert_close(first, one(batch.waveform))
    rows.clear()
    torch.testing.assert_close(batch.spectrogram(other), other.normalised(torch.stack(batch.log_mels()), 16_000))
    assert rows == [], "front ends that differ in their normalisation share the log-mel energies"


def test_padded_windows_have_padded_spectrograms_and_log_mels_of_their_own_length():
    waveform = torch.nn.functional.pad(clip(9_000), (0, 7_000))
    batch, fbank = WindowBatch(waveform, torch.tensor([9_000])), KaldiFbank()
    torch.testing.assert_close(batch.spectrogram(fbank), fbank(waveform))
    (log_mel,) = batch.log_mels()
    torch.testing.assert_close(log_mel, fbank.log_mel(waveform[:, :9_000])[0])
    assert len(batch) == 1


def test_another_front_end_is_called_once():
    class FrontEnd(nn.Module):
        calls = 0

        def forward(self, waveform: Tensor) -> Tensor:
            self.calls += 1
            return waveform[:, None, ::160, None]

    frontend, batch = FrontEnd(), WindowBatch(clip(), torch.tensor([16_000]))
    assert batch.spectrogram(frontend) is batch.spectrogram(frontend)
    assert frontend.calls == 1


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_describes_how_it_aggregates(source):
    assert SOURCES[source].aggregation(SOURCES[source].settings())
