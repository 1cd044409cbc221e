"""Features against loops over tokens and frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nearfar.features.extractors import LogMelFeatures, TokenFeatures
from nearfar.features.representation import of_model, represent, scored_features, waveform_views

from nearfar.config import Features, load_recipe
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.errors import InputError
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.models import TrainedEmbedder, build_model
from nearfar.pooling.statistics import log_mel_statistics, relative_deviation_pooling

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


def test_log_mel_features_look_at_the_clip_and_not_its_padding_nor_its_gain():
    extractor = LogMelFeatures(KaldiFbank(), Features(source="log-mel", lags=(1, 4), keep_bands=True))
    short = clip(8_000)
    padded = torch.nn.functional.pad(short, (0, 8_000))
    alone = extractor(short, torch.tensor([8_000]))
    assert alone.shape == (1, 8, 3 * 16)
    torch.testing.assert_close(extractor(padded, torch.tensor([8_000])), alone)
    torch.testing.assert_close(extractor(0.5 * short, torch.tensor([8_000])), alone, atol=1e-3, rtol=1e-3)
    whole = LogMelFeatures(KaldiFbank(), Features(source="log-mel", lags=(1, 4)))(short, torch.tensor([8_000]))
    by_band = whole.reshape(3, 8, 16).transpose(0, 1).reshape(1, 8, 48)
    torch.testing.assert_close(alone, by_band)


@pytest.mark.parametrize("pooling", ["mean", "mean-std", "rdp", "cls"])
@pytest.mark.parametrize("keep_bands", [False, True])
def test_token_features_pool_the_tokens_of_their_blocks(pooling, keep_bands):
    if pooling == "cls" and keep_bands:
        pytest.skip("CLS has no bands")
    encoder, fbank = build_encoder(SMALL), KaldiFbank()
    settings = Features(source="tokens", layers=(3, 1), pooling=pooling, keep_bands=keep_bands)
    with torch.inference_mode():
        out = TokenFeatures(encoder, fbank, settings)(clip(), torch.tensor([16_000]))
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
    encoder, fbank = build_encoder(SMALL), KaldiFbank()
    settings = Features(source="tokens", layers=(1, 3), average_layers=True, pooling=pooling)
    with torch.inference_mode():
        out = TokenFeatures(encoder, fbank, settings)(clip(), torch.tensor([16_000]))
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
    statistics = of_model(trained, recipe)(waveform, samples)
    assert statistics.shape == (1, 1, 2 * 192)
    with torch.inference_mode():
        torch.testing.assert_close(embedder.projection(statistics[:, 0]), embedder(waveform, samples))


@pytest.mark.parametrize(
    "keys",
    [{"keep_bands": True}, {"layers": (3,)}, {"source": "log-mel"}],
    ids=lambda keys: "-".join(keys),
)
def test_asp_goes_with_the_last_tokens_alone(keys):
    with pytest.raises(ValueError, match="asp was trained on the last block"):
        Features(**({"source": "tokens", "pooling": "asp"} | keys))


def test_masked_padding_reaches_no_token_feature():
    """42 frames are three columns, which end after 7,920 samples; behind them one clip has silence, one a tone."""
    quiet = torch.nn.functional.pad(clip(7_000), (0, 9_000))
    loud = quiet.clone()
    loud[0, 8_000:] = 0.2 * torch.tensor([1.0, -1.0]).repeat(4_000)
    settings = Features(source="tokens", keep_bands=True)
    for masked in (True, False):
        extractor = TokenFeatures(build_encoder(SMALL), KaldiFbank(), settings, mask_padding=masked)
        with torch.inference_mode():
            one, two = (extractor(wave, torch.tensor([7_000])) for wave in (quiet, loud))
        assert one.shape == (1, 8, 16)
        assert torch.allclose(one, two, atol=1e-4) == masked


def test_layers_that_are_not_there_and_heads_that_were_not_trained_are_refused():
    frozen = load_recipe("nearfar-best").with_changes(
        **{"audio.clip_seconds": 1.0, "encoder.weights": "random:tiny", "features.source": "tokens"}
    )
    with pytest.raises(InputError, match=r"features\.layers.*from 1 to 4"):
        represent(frozen.with_changes(**{"features.layers": [5], "features.lags": []}))
    with pytest.raises(InputError, match=r"features\.source.*trains nothing"):
        represent(frozen.with_changes(**{"features.source": "embedding"}))
    with pytest.raises(InputError, match=r"features\.pooling.*trains nothing"):
        represent(frozen.with_changes(**{"features.pooling": "asp", "features.keep_bands": False}))


def test_the_residual_is_near_without_a_share_of_far():
    recipe = load_recipe("eat-near").with_changes(**{"scoring.channels": ["residual", "near"]})
    assert waveform_views(recipe) == ("near", "far")
    near, far = torch.ones(2, 1, 3), torch.full((2, 1, 3), 4.0)
    made = scored_features({"near": near, "far": far}, recipe)
    torch.testing.assert_close(made["residual"], torch.full((2, 1, 3), -1.0))
    assert made["near"] is near
    quarter = recipe.with_changes(**{"scoring.residual_alpha": 0.25})
    torch.testing.assert_close(scored_features({"near": near, "far": far}, quarter)["residual"], 0.0 * near)


def test_a_plain_encoder_is_known_by_all_that_decides_its_tokens():
    frozen = load_recipe("frozen-eat").with_changes(
        **{"audio.clip_seconds": 1.0, "encoder.weights": "random:tiny:0", "features.pooling": "rdp"}
    )
    usual = represent(frozen)
    waveform, samples = torch.nn.functional.pad(clip(7_000), (0, 9_000)), torch.tensor([7_000])
    features = usual(waveform, samples)
    assert features.shape == (1, 8, 192)
    assert represent(frozen.with_changes(name="again")).weights_hash == usual.weights_hash
    for key, value in {
        "encoder.weights": "random:tiny:1",
        "encoder.mask_padding": True,
        "fbank.mean": -4.0,
        "fbank.std": 4.0,
    }.items():
        other = represent(frozen.with_changes(**{key: value}))
        assert other.weights_hash != usual.weights_hash, key
        assert not torch.allclose(other(waveform, samples), features, atol=1e-4), key
