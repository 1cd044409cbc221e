"""The cache of features: shared where nothing differs, never stale, and whole after damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tests.pipeline.conftest import WIDTH

from nearfar.config import Recipe, load_recipe
from nearfar.data.clips import Clip
from nearfar.errors import InputError, NearfarError
from nearfar.models import TrainedEmbedder
from nearfar.pipeline import cache as module
from nearfar.pipeline.cache import FeatureCache
from nearfar.pipeline.extraction import extract
from nearfar.pipeline.extractor import Extractor, build_extractor, extractor_of_model
from nearfar.pipeline.windows import Recording


@pytest.fixture
def own_clips(clips: list[Clip], tmp_path: Path) -> list[Clip]:
    """Copies, to be changed."""
    (tmp_path / "clips").mkdir()
    copies = [replace(clip, path=tmp_path / "clips" / clip.name) for clip in clips[:3]]
    for clip, copy in zip(clips, copies, strict=False):
        shutil.copy(clip.path, copy.path)
    return copies


def changed(model: TrainedEmbedder, **changes: Any) -> Extractor:
    """The extractor of the model, near alone, with dotted keys of the recipe changed."""
    keys = {"scoring.views": ["near"], "scoring.batch_size": 3} | changes
    return extractor_of_model(model, model.recipe.with_changes(**keys))


def get(cache: FeatureCache, extractor: Extractor, clips: list[Clip]) -> NDArray[np.float32]:
    """Of a single view."""
    (features,) = cache.get(extractor, clips).values()
    return features.numpy()


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(module, "extract", lambda *_, **__: pytest.fail("computed again"))

    return forbid


# --- reuse ------------------------------------------------------------------------------------------------------


def test_what_is_stored_is_read_and_not_computed_again(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    folder, extractor = tmp_path / "not" / "there" / "yet", changed(model)
    first = get(FeatureCache(folder), extractor, clips)
    computed = extract(extractor, [Recording.of_clip(clip) for clip in clips]).features["near"][0]
    np.testing.assert_array_equal(first, computed.numpy())
    np.testing.assert_array_equal(get(FeatureCache(None), extractor, clips), first)
    assert first.shape == (8, 1, WIDTH)
    assert first.dtype == np.float32
    assert [path.suffix for path in files(folder)] == [".safetensors"]
    forbidden()
    done: list[int] = []
    # Another cache on the same folder, and keys that decide no feature of this view.
    other = changed(model, **{"scoring.neighbours": 3, "cancellation.gain_limit": 1.0, "threshold.rule": "gamma"})
    (again,) = FeatureCache(folder).get(other, clips, done.append).values()
    np.testing.assert_array_equal(again.numpy(), first)
    assert done == [8]


def test_the_same_recordings_in_another_folder_are_the_same(
    model: TrainedEmbedder, clips: list[Clip], own_clips: list[Clip], tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    cache = FeatureCache(tmp_path / "cache")
    first = get(cache, changed(model), clips[:3])
    forbidden()
    np.testing.assert_array_equal(get(cache, changed(model), own_clips), first)


def test_views_are_stored_one_by_one_and_shared(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, both = FeatureCache(tmp_path), changed(model, **{"scoring.views": ["near", "far"]})
    near = get(cache, changed(model), clips)
    computed: list[list[str]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        computed.append(list(options["views"]))
        return extract(*arguments, **options)

    monkeypatch.setattr(module, "extract", watched)
    found = cache.get(both, clips)
    assert computed == [["far"]]
    assert list(found) == ["near", "far"]
    np.testing.assert_array_equal(found["near"].numpy(), near)
    assert len(files(tmp_path)) == 2
    residual = cache.get(changed(model, **{"scoring.views": ["residual"]}), clips)
    assert computed == [["far"]]
    torch.testing.assert_close(residual["residual"], found["near"] - 0.5 * found["far"])


def frozen(**changes: Any) -> Recipe:
    keys = {"audio.clip_seconds": 1.0, "encoder.weights": "random:tiny:0", "scoring.views": ["near"]}
    return load_recipe("frozen-eat").with_changes(**(keys | changes))


def test_pieces_of_features_are_shared_by_recipes(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers are stored one by one: a recipe that combines stored ones computes nothing."""
    wanted: list[list[int]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        wanted.append([piece.layers[0] for piece in options["wanted"]])
        return extract(*arguments, **options)

    monkeypatch.setattr(module, "extract", watched)
    cache = FeatureCache(tmp_path)
    layers = {"features.source": "tokens", "features.pooling": "mean", "features.keep_bands": False}
    for chosen, computed in (([1, 3], [1, 3]), ([3, 2], [2]), ([2, 1], None), ([4, 3, 2, 1], [4])):
        before = len(wanted)
        extractor = build_extractor(frozen(**layers, **{"features.layers": chosen}))
        found = get(cache, extractor, clips)
        assert wanted[before:] == ([] if computed is None else [computed])
        direct = extract(extractor, [Recording.of_clip(clip) for clip in clips]).features["near"][0]
        np.testing.assert_array_equal(found, direct.numpy())
        assert found.shape == (8, len(chosen), 192)
    assert len(files(tmp_path)) == 4


def test_lags_of_log_mel_statistics_are_shared_pieces(clips: list[Clip], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    log_mel = {"features.source": "log-mel", "audio.clip_seconds": 1.0, "scoring.views": ["near"]}
    for lags, stored in (([1, 4], 2), ([4], 2), ([4, 16], 3), ([], 4)):
        recipe = load_recipe("nearfar-best").with_changes(**log_mel, **{"features.lags": lags})
        for bands in (False, True):
            extractor = build_extractor(recipe.with_changes(**{"features.keep_bands": bands}))
            direct = extract(extractor, [Recording.of_clip(clip) for clip in clips]).features["near"][0]
            np.testing.assert_array_equal(get(cache, extractor, clips), direct.numpy())
            assert len(files(tmp_path)) == stored, "bands are made of what is stored"


def test_frames_of_the_autoencoder_s_front_end_are_not_stored(clips: list[Clip], tmp_path: Path) -> None:
    recipe = load_recipe("ae-mse").with_changes(**{"audio.clip_seconds": 1.0})
    assert get(FeatureCache(tmp_path), build_extractor(recipe), clips).shape == (8, 32, 128)
    assert files(tmp_path) == []


# --- nothing stale ----------------------------------------------------------------------------------------------


def test_whatever_changes_a_feature_makes_another_file(
    model: TrainedEmbedder, own_clips: list[Clip], tmp_path: Path
) -> None:
    cache, usual = FeatureCache(tmp_path / "cache"), changed(model)
    cancelled = {"scoring.views": ["cancelled"]}
    entries = [
        (usual, own_clips),
        (changed(model, **{"scoring.views": ["far"]}), own_clips),
        (usual, own_clips[:2]),
        (usual, own_clips[::-1]),
        (replace(usual, weights_hash="other"), own_clips),
        (changed(model, **{"audio.clip_seconds": 1.5}), own_clips),
        (changed(model, **{"audio.near_channel": 1, "audio.far_channel": 0}), own_clips),
        (changed(model, **cancelled), own_clips),
        (changed(model, **cancelled, **{"cancellation.gain_limit": 1.0}), own_clips),
        (changed(model, **{"features.source": "tokens"}), own_clips),
        (changed(model, **{"features.source": "tokens", "features.pooling": "mean-std"}), own_clips),
        (changed(model, **{"features.source": "tokens", "features.pooling": "rdp"}), own_clips),
        (
            changed(
                model,
                **{"features.source": "tokens", "features.pooling": "rdp", "features.rdp_gamma": 2.0},
            ),
            own_clips,
        ),
        (changed(model, **{"features.source": "tokens", "features.pooling": "asp"}), own_clips),
    ]
    for count, (extractor, chosen) in enumerate(entries, start=1):
        direct = extract(extractor, [Recording.of_clip(clip) for clip in chosen]).features
        np.testing.assert_array_equal(get(cache, extractor, chosen), next(iter(direct.values()))[0].numpy())
        assert len(files(tmp_path / "cache")) == count


def test_a_recording_that_changes_under_its_name_is_computed_again(
    model: TrainedEmbedder, own_clips: list[Clip], tmp_path: Path
) -> None:
    folder, extractor = tmp_path / "cache", changed(model)
    before = get(FeatureCache(folder), extractor, own_clips)
    shutil.copy(own_clips[1].path, own_clips[0].path)
    after = get(FeatureCache(folder), extractor, own_clips)
    assert len(files(folder)) == 2
    np.testing.assert_array_equal(after[0], after[1])
    np.testing.assert_array_equal(after[1:], before[1:])
    assert not np.array_equal(before[0], after[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-7]),
        lambda file: file.write_bytes(b"\xff" * 200),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
        lambda file: save_file({"other": np.zeros(3, np.float32)}, file),
    ],
    ids=["empty", "truncated", "noise", "flipped bit", "other content"],
)
def test_a_damaged_file_is_computed_again_and_replaced(
    model: TrainedEmbedder,
    clips: list[Clip],
    tmp_path: Path,
    damage: Callable[[Path], object],
    forbidden: Callable[[], None],
) -> None:
    cache, extractor = FeatureCache(tmp_path), changed(model)
    first = get(cache, extractor, clips)
    (file,) = files(tmp_path)
    damage(file)
    np.testing.assert_array_equal(get(cache, extractor, clips), first)
    np.testing.assert_array_equal(load_file(file)["features"], first)
    forbidden()
    np.testing.assert_array_equal(get(cache, extractor, clips), first)


# --- size and failure -------------------------------------------------------------------------------------------


def test_long_lists_of_clips_are_stored_part_by_part(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLIPS", 5)
    done: list[int] = []
    (features,) = FeatureCache(tmp_path).get(changed(model), clips, done.append).values()
    assert done == [3, 3, 2], "whole batches, of 3 clips"
    assert len(files(tmp_path)) == 3
    np.testing.assert_allclose(
        features.numpy(), get(FeatureCache(None), changed(model), clips), atol=1e-5, rtol=1e-4
    )


def test_parts_that_were_finished_are_kept_and_nothing_of_the_others(
    model: TrainedEmbedder, own_clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLIPS", 1)
    own_clips[2].path.write_bytes(own_clips[2].path.read_bytes()[:1_000])
    extractor = changed(model, **{"scoring.batch_size": 1})
    with pytest.raises(InputError, match=own_clips[2].name):
        get(FeatureCache(tmp_path / "cache"), extractor, own_clips)
    assert len(files(tmp_path / "cache")) == 2


def test_a_folder_that_cannot_be_written_is_an_error(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NearfarError, match="cannot write the features"):
        get(FeatureCache(tmp_path / "file"), changed(model), clips)
