"""Speed-ups of encoders against naive computations, and their place in the identity of features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.command import Nearfar
from tests.fixtures import write_clip
from torch import nn
from torch.nn import functional as F

from nearfar.cli.options import sped_up
from nearfar.config import load_recipe
from nearfar.detector import Detector
from nearfar.encoders import SPEEDUPS, build_encoder, token_keep
from nearfar.encoders import int8 as int8_module
from nearfar.encoders.eat import EATConfig
from nearfar.encoders.int8 import HAS_INTEGER_PRODUCTS, Int8Linear, quantised
from nearfar.encoders.merging import Merged, MergedTokens
from nearfar.encoders.speedups import FAST, MergingSettings, OwnLength, faster
from nearfar.features import WindowBatch
from nearfar.frontends import KaldiFbank
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extractor import build_extractor

SMALL = EATConfig(embed_dim=32, depth=3, num_heads=2)


def small_encoder():
    return build_encoder(SMALL, seed=3).eval().requires_grad_(False)


def frames(windows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(windows, 1, 16 * columns, 128, generator=torch.Generator().manual_seed(seed))


# --- 8-bit integers ---------------------------------------------------------------------------------------------


def naive_int8(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Row by row in float64: round to -127 ... 127 of the row's scale, multiply integers, scale back."""
    out = np.empty((len(x), len(weight)))
    for r, row in enumerate(x.astype(np.float64)):
        row_scale = np.abs(row).max() / 127
        row_integers = np.floor(row / row_scale + 0.5)
        for c, column in enumerate(weight.astype(np.float64)):
            scale = np.abs(column).max() / 127
            out[r, c] = np.dot(row_integers, np.round(column / scale)) * row_scale * scale + bias[c]
    return out


@pytest.mark.parametrize("integers", [True, False])
def test_products_of_integers_equal_naive_ones(integers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_module, "HAS_INTEGER_PRODUCTS", integers and HAS_INTEGER_PRODUCTS)
    torch.manual_seed(0)
    linear = nn.Linear(70, 9)
    x = torch.randn(2, 5, 70) * torch.logspace(-2, 2, 5)[None, :, None]
    with torch.inference_mode():
        found = Int8Linear(linear)(x)
        exact = linear(x)
    expected = naive_int8(x.reshape(10, 70).numpy(), linear.weight.detach().numpy(), linear.bias.detach().numpy())
    # A quotient at the edge of two integers may be rounded either way in float32.
    largest = np.abs(expected).max(axis=1, keepdims=True)
    near = np.abs(found.reshape(10, 9).numpy() - expected) < 1e-4 * largest
    assert near.mean() > 0.95
    assert ((found - exact).norm(dim=2) < 0.03 * exact.norm(dim=2)).all()
    assert not torch.equal(found, exact)


def test_the_largest_sums_do_not_saturate() -> None:
    linear = nn.Linear(3072, 4)
    nn.init.ones_(linear.weight)
    nn.init.zeros_(linear.bias)
    with torch.inference_mode():
        out = Int8Linear(linear)(torch.cat([torch.ones(1, 3072), -2 * torch.ones(1, 3072), torch.zeros(1, 3072)]))
    torch.testing.assert_close(out, torch.tensor([[3072.0], [-6144.0], [0.0]]).expand(3, 4))


def test_a_row_has_the_scale_of_no_other_row() -> None:
    torch.manual_seed(1)
    layer, x = Int8Linear(nn.Linear(64, 8, bias=False)), torch.randn(4, 64)
    with torch.inference_mode():
        beside = layer(torch.cat([x, 1e4 * x]))[:4]
        torch.testing.assert_close(beside, layer(x), rtol=0, atol=0)


def test_every_linear_layer_is_replaced_in_a_copy() -> None:
    encoder = small_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    copy = quantised(encoder)
    assert sum(isinstance(module, Int8Linear) for module in copy.modules()) == 4 * SMALL.depth
    assert not any(isinstance(module, nn.Linear) for module in copy.modules())
    assert all(torch.equal(encoder.state_dict()[name], value) for name, value in before.items())
    with torch.inference_mode():
        (found,), (exact,) = copy.encode(frames(1, 4)), encoder.encode(frames(1, 4))
    cosines = F.cosine_similarity(found.patches, exact.patches, dim=2)
    assert 0.999 < cosines.min() < 1.0


# --- merged tokens ----------------------------------------------------------------------------------------------


def naive_merge(patches, sizes, places, keys, count):
    """One band in lists: every even column may merge into an odd one, the most similar pairs first."""

    def cosine(a, b):
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    even, odd = range(0, len(patches), 2), range(1, len(patches), 2)
    best = {a: max(odd, key=lambda b, a=a: cosine(keys[a], keys[b])) for a in even}
    ranked = sorted(even, key=lambda a: -cosine(keys[a], keys[best[a]]))[:count]
    sums, sizes = [patch * size for patch, size in zip(patches, sizes, strict=True)], list(sizes)
    members = [[place for place, column in enumerate(places) if column == own] for own in range(len(patches))]
    for a in ranked:
        sums[best[a]] = sums[best[a]] + sums[a]
        sizes[best[a]] += sizes[a]
        members[best[a]] += members[a]
    left = [own for own in range(len(patches)) if own not in ranked]
    places = [next(new for new, own in enumerate(left) if place in members[own]) for place in range(len(places))]
    return [sums[own] / sizes[own] for own in left], [sizes[own] for own in left], places


def test_merging_equals_a_naive_loop_twice_over() -> None:
    torch.manual_seed(0)
    batch, bands, columns, dim = 2, 3, 9, 5
    state = Merged.of(torch.randn(batch, 1 + columns * bands, dim), bands)
    lists = {
        (b, f): ([*state.patches[b, f].double().numpy()], [1.0] * columns, [*range(columns)])
        for b in range(batch)
        for f in range(bands)
    }
    for left in (6, 4):
        now = state.patches.shape[2]
        keys = torch.randn(batch, 1 + bands * now, dim)
        state = state.merged(keys, left)
        grid = keys[:, 1:].reshape(batch, bands, now, dim).double().numpy()
        for (b, f), (patches, sizes, places) in lists.items():
            lists[b, f] = naive_merge(patches, sizes, places, grid[b, f], now - left)
            np.testing.assert_allclose(state.patches[b, f].numpy(), np.stack(lists[b, f][0]), atol=1e-5)
            np.testing.assert_allclose(state.sizes[b, f].numpy(), lists[b, f][1])
            assert state.places[b, f].tolist() == lists[b, f][2]
    tokens = state.tokens()
    assert tokens.patches.shape == (batch, columns * bands, dim)
    torch.testing.assert_close(tokens.patches[1, 2 * bands + 1], state.patches[1, 1, state.places[1, 1, 2]])


def test_without_merging_the_encoder_is_the_same() -> None:
    encoder, fbank = small_encoder(), frames(2, 5)
    with torch.inference_mode():
        found = MergedTokens(encoder, 0.0).encode(fbank, [3, 1])
        expected = encoder.encode(fbank, [3, 1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.patches, other.patches, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.cls, other.cls, atol=1e-5, rtol=1e-5)


def test_merging_of_equal_tokens_changes_nothing() -> None:
    """Where all columns of a band are equal, a token of size n must count in attention as n tokens."""
    encoder = small_encoder()
    positions = encoder.fixed_positional_encoder.positions
    positions.copy_(positions[:, :8].repeat(1, positions.shape[1] // 8, 1))  # of the first column
    fbank = frames(1, 1).repeat(1, 1, 8, 1)
    with torch.inference_mode():
        (found,), (expected,) = MergedTokens(encoder, 0.75).encode(fbank), encoder.encode(fbank)
    torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.cls, expected.cls, atol=1e-5, rtol=1e-5)


def test_merged_tokens_refuse_masks_and_unknown_layers() -> None:
    merging = MergedTokens(small_encoder(), 0.5)
    with pytest.raises(ValueError, match="no masks"):
        merging.encode(frames(1, 2), token_keep=torch.ones(1, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="layers from 1 to 3"):
        merging.encode(frames(1, 2), [4])


# --- own length -------------------------------------------------------------------------------------------------


def test_a_window_at_its_own_length_has_the_tokens_of_a_masked_one() -> None:
    encoder, frontend = small_encoder(), KaldiFbank()
    samples = torch.tensor([16_000, 9_000, 16_000, 300])
    waveform = 0.1 * torch.randn(4, 16_000, generator=torch.Generator().manual_seed(0))
    for row, count in enumerate(samples.tolist()):
        waveform[row, count:] = 0
    spectrogram = frontend(waveform)
    keep = token_keep(encoder, frontend, samples, spectrogram.shape[2] // 16)
    assert keep.sum(dim=1).tolist() == [56, 32, 56, 8]
    with torch.inference_mode():
        found = OwnLength(encoder).encode(spectrogram, [2, 3], token_keep=keep)
        expected = encoder.encode(spectrogram, [2, 3], token_keep=keep)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cls, other.cls, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(one.patches[keep], other.patches[keep], atol=1e-5, rtol=1e-5)
        assert not one.patches[~keep].any()


def test_speedups_do_not_depend_on_the_order_in_the_recipe() -> None:
    encoder, own = small_encoder(), {"int8": None, "merged-tokens": MergingSettings(), "own-length": None}
    with torch.inference_mode():
        one, _ = faster(encoder, own)[0].encode(frames(1, 6)), None
        other = faster(encoder, dict(reversed(own.items())))[0].encode(frames(1, 6))
    assert torch.equal(one[0].patches, other[0].patches)
    assert faster(encoder, {}) == (encoder, False)
    assert faster(encoder, {"int8": None})[1] is False
    assert set(FAST) <= set(SPEEDUPS)


# --- in recipes -------------------------------------------------------------------------------------------------


def recipe_of(*speedups: str, **changes: object):
    return load_recipe("frozen-eat").with_changes(
        **{"encoder.weights": "random:tiny", "audio.clip_seconds": 1.0, "inference.speedups": list(speedups)},
        **changes,
    )


def test_speedups_are_part_of_the_identity_of_features_but_of_no_trained_model() -> None:
    plain, fast = build_extractor(recipe_of()), build_extractor(recipe_of("int8", "own-length"))
    turned = build_extractor(recipe_of("own-length", "int8"))
    assert fast.weights_hash == turned.weights_hash
    merged = [
        build_extractor(recipe_of("merged-tokens", **{"inference.merged_share": share})).weights_hash
        for share in (0.25, 0.5)
    ]
    assert len({plain.weights_hash, fast.weights_hash, *merged}) == 4
    # The share of a speed-up that is not chosen has no effect.
    assert build_extractor(recipe_of(**{"inference.merged_share": 0.3})).weights_hash == plain.weights_hash
    assert recipe_of().system_identity() != recipe_of("int8").system_identity()
    trained = load_recipe("eat-fusion")
    assert trained.with_changes(**{"inference.speedups": ["int8"]}).model_key() == trained.model_key()
    unused = load_recipe("nearfar-best")
    assert unused.with_changes(**{"inference.speedups": ["int8"]}).system_identity() == unused.system_identity()


def test_features_of_a_window_do_not_depend_on_its_neighbours() -> None:
    extractor = build_extractor(recipe_of(*FAST))
    waveform = 0.1 * torch.randn(3, 16_000, generator=torch.Generator().manual_seed(0))
    waveform[1, 8_000:] = 0
    samples = torch.tensor([16_000, 8_000, 16_000])
    (together,) = extractor(WindowBatch(waveform, samples), [extractor.settings])
    for row in range(3):
        batch = WindowBatch(waveform[row : row + 1], samples[row : row + 1])
        (alone,) = extractor(batch, [extractor.settings])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_windows_of_their_own_length_have_the_features_of_unpadded_ones() -> None:
    waveform = 0.1 * torch.randn(1, 9_000, generator=torch.Generator().manual_seed(0))
    padded = F.pad(waveform, (0, 7_000))
    long, short = build_extractor(recipe_of("own-length")), build_extractor(recipe_of())
    (found,) = long(WindowBatch(padded, torch.tensor([9_000])), [long.settings])
    spectrogram = short.parts.frontend(padded)[:, :, :64]  # frames of silence complete the last column
    with torch.inference_mode():
        (tokens,) = short.parts.encoder.encode(spectrogram)
    expected = tokens.patches.reshape(4, 8, -1).mean(dim=0)
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_cached_features_with_and_without_speedups_are_of_different_files(tmp_path) -> None:
    cache = FeatureCache(tmp_path)
    pieces = {
        speedups: cache._path(extractor, [], "near", extractor.settings)
        for speedups in ((), ("int8",), ("own-length",), FAST)
        for extractor in [build_extractor(recipe_of(*speedups))]
    }
    assert len(set(pieces.values())) == 4


# --- on the command line ----------------------------------------------------------------------------------------


def test_a_detector_fitted_with_speedups_scores_with_them_and_nothing_else(
    tmp_path: Path, nearfar_command: Nearfar
) -> None:
    for number in range(8):
        write_clip(tmp_path / "mill" / "normal" / f"{number}.wav", 0.5, 400.0 + 10 * number, number)
    options = ("--recipe", "frozen-eat", "--encoder", "random:tiny", "--out")
    scores = {}
    for name, more in (("plain", ()), ("fast", ("--fast",))):
        code, _, err = nearfar_command("fit", tmp_path / "mill", *options, tmp_path / name, *more)
        assert code == 0, err
        code, out, err = nearfar_command(
            "score", tmp_path / name, tmp_path / "mill" / "normal" / "3.wav", "--json"
        )
        assert code == 0, err
        scores[name] = json.loads(out)[0]["score"]
    detector = Detector.load(tmp_path / "fast", device="cpu")
    assert set(detector.recipe.inference.speedups) == set(FAST)
    assert detector.score(tmp_path / "mill" / "normal" / "3.wav").score == scores["fast"]
    # A recording of the bank itself: no distance, but for rounding.
    assert max(map(abs, scores.values())) < 1e-3
    card = tmp_path / "fast" / "detector.json"
    assert '"int8"' in card.read_text(encoding="utf-8")


def test_fast_keeps_the_padding_that_a_model_is_trained_on() -> None:
    trained = load_recipe("eat-fusion")
    assert sped_up(trained, True).inference.speedups == ("int8", "merged-tokens")
    masked = trained.with_changes(**{"encoder.mask_padding": True})
    assert sped_up(masked, True).inference.speedups == FAST
    assert sped_up(load_recipe("frozen-eat"), True).inference.speedups == FAST
    assert sped_up(trained, False) == trained


def test_fast_is_refused_for_a_recipe_without_an_encoder(tmp_path: Path, nearfar_command: Nearfar) -> None:
    write_clip(tmp_path / "mill" / "normal" / "0.wav", 0.5, 400.0, 0)
    code, _, err = nearfar_command("fit", tmp_path / "mill", "--out", tmp_path / "out", "--fast")
    assert code == 2
    assert "uses an encoder" in err
    assert not (tmp_path / "out").exists()
