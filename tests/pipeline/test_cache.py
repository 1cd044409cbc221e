"""Embeddings of recordings, and that the store never hands out anything stale."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from nearfar.features.cache import EmbeddingStore, embed_clips
from nearfar.features.representation import Representation, of_model
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from nearfar.config import load_recipe
from nearfar.data.clips import Channel, Clip, View
from nearfar.data.layouts import read_dataset
from nearfar.encoders import save_encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.errors import InputError, NearfarError
from nearfar.models import TrainedEmbedder, build_model, load_model, save_model

CPU = torch.device("cpu")
WIDTH = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedEmbedder:
    """A tiny model for clips of up to 1.25 s."""
    folder = tmp_path_factory.mktemp("model")
    save_encoder(build_encoder(EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=16)), folder / "start")
    recipe = load_recipe("tiny-fusion").with_changes(
        **{
            "encoder.weights": str(folder / "start"),
            "audio.clip_seconds": 1.25,
            "head.embedding_dim": WIDTH,
            "head.attention_dim": 4,
        }
    )
    save_model(folder, build_model(recipe, 2), recipe, ("a", "b"), {})
    return load_model(folder)


@pytest.fixture(scope="module")
def clips(small_factory: Path) -> list[Clip]:
    return read_dataset(small_factory).test("hummer")


@pytest.fixture
def own_clips(clips: list[Clip], tmp_path: Path) -> list[Clip]:
    """Copies, to be changed."""
    (tmp_path / "clips").mkdir()
    copies = [replace(clip, path=tmp_path / "clips" / clip.name) for clip in clips[:3]]
    for clip, copy in zip(clips, copies, strict=False):
        shutil.copy(clip.path, copy.path)
    return copies


def embed(
    model: TrainedEmbedder, clips: list[Clip], channel: View = "near", batch_size: int = 3
) -> NDArray[np.float32]:
    features = embed_clips(represented(model), clips, channel, batch_size=batch_size, device=CPU)
    assert features.ndim == 3
    return features[:, 0] if len(clips) else np.empty((0, WIDTH), np.float32)


def represented(model: TrainedEmbedder) -> Representation:
    return of_model(model, model.recipe)


# --- embedding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channel", "column"), [("near", 0), ("far", 1)])
def test_each_row_is_the_embedding_of_one_padded_channel(
    model: TrainedEmbedder, clips: list[Clip], channel: Channel, column: int
) -> None:
    out = embed(model, clips, channel)
    assert out.shape == (8, WIDTH)
    assert out.dtype == np.float32
    for clip, row in zip(clips, out, strict=True):
        samples, rate = sf.read(clip.path, dtype="float32")
        assert rate == 16_000
        waveform = torch.zeros(1, 20_000)
        waveform[0, :16_000] = torch.from_numpy(samples[:, column].copy())
        with torch.no_grad():
            expected = model.embedder(waveform, torch.tensor([16_000]))[0]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5, rtol=1e-4)
    assert len(np.unique(out[:, 0])) == 8


@pytest.mark.parametrize("batch_size", [1, 5, 8, 100])
def test_the_batch_size_only_decides_the_memory(
    model: TrainedEmbedder, clips: list[Clip], batch_size: int
) -> None:
    np.testing.assert_allclose(
        embed(model, clips, batch_size=batch_size), embed(model, clips), atol=1e-5, rtol=1e-4
    )


def test_no_more_clips_than_a_batch_go_through_the_network_at_once(
    model: TrainedEmbedder, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, forward = [], model.embedder.forward

    def noting(waveform: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        sizes.append(len(waveform))
        return forward(waveform, samples)

    monkeypatch.setattr(model.embedder, "forward", noting)
    done: list[int] = []
    embed_clips(represented(model), clips, "near", batch_size=3, device=CPU, advance=done.append)
    assert sizes == done == [3, 3, 2]


def test_true_lengths_reach_the_network(
    model: TrainedEmbedder, own_clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, rate = sf.read(own_clips[0].path, dtype="float32")
    sf.write(own_clips[0].path, samples[:9_000], rate, subtype="PCM_16")
    unmasked = embed(model, own_clips)
    monkeypatch.setattr(model.embedder, "mask_padding", True)
    masked = embed(model, own_clips)
    assert (np.abs(masked - unmasked).max(axis=1) > 1e-3).all()
    near = torch.from_numpy(sf.read(own_clips[0].path, dtype="float32")[0].T[:1].copy())
    padded = torch.nn.functional.pad(near, (0, 11_000))
    with torch.no_grad():
        expected = model.embedder(padded, torch.tensor([9_000]))[0]
    np.testing.assert_allclose(masked[0], expected.numpy(), atol=1e-5, rtol=1e-4)


def test_no_clips_give_no_rows(model: TrainedEmbedder) -> None:
    assert embed(model, []).shape == (0, WIDTH)


def test_a_clip_that_is_too_long_is_an_error(model: TrainedEmbedder, clips: list[Clip]) -> None:
    short = replace(model, recipe=model.recipe.with_changes(**{"audio.clip_seconds": 0.5}))
    with pytest.raises(InputError, match=r"a clip of 1 s; expected at most the recipe's 0\.5 s"):
        embed(short, clips)


# --- the store --------------------------------------------------------------------------------------------------


def get(
    store: EmbeddingStore, model: TrainedEmbedder, clips: list[Clip], channel: View = "near", batch_size: int = 3
) -> NDArray[np.float32]:
    return store.get(represented(model), clips, channel, batch_size=batch_size, device=CPU)[:, 0]


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr("nearfar.features.cache.embed_clips", lambda *_, **__: pytest.fail("computed again"))

    return forbid


def test_what_is_stored_is_read_and_not_computed_again(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    store = EmbeddingStore(tmp_path / "not" / "there" / "yet")
    first = get(store, model, clips)
    np.testing.assert_array_equal(first, embed(model, clips))
    assert [path.suffix for path in store.folder.iterdir()] == [".safetensors"]
    forbidden()
    done: list[int] = []
    # Another store on the same folder, another size of batch: nothing that changes an embedding.
    again = EmbeddingStore(store.folder).get(
        represented(model), clips, "near", batch_size=1, device=CPU, advance=done.append
    )
    np.testing.assert_array_equal(again[:, 0], first)
    assert done == [8]


def test_the_same_recordings_elsewhere_are_known_again(
    model: TrainedEmbedder, clips: list[Clip], own_clips: list[Clip], tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    store = EmbeddingStore(tmp_path / "store")
    first = get(store, model, clips[:3])
    forbidden()
    np.testing.assert_array_equal(get(store, model, own_clips), first)


def test_whatever_changes_an_embedding_makes_another_entry(
    model: TrainedEmbedder, own_clips: list[Clip], tmp_path: Path
) -> None:
    store = EmbeddingStore(tmp_path / "store")
    longer = model.recipe.with_changes(**{"audio.clip_seconds": 1.5})
    limited = model.recipe.with_changes(**{"cancellation.gain_limit": 1.0})
    tokens = model.recipe.with_changes(**{"features.source": "tokens"})
    entries = [
        lambda: get(store, model, own_clips),
        lambda: get(store, model, own_clips, "far"),
        lambda: get(store, model, own_clips[:2]),
        lambda: get(store, model, own_clips[::-1]),
        lambda: get(store, replace(model, weights_hash="other"), own_clips),
        lambda: get(store, replace(model, recipe=longer), own_clips),
        lambda: get(store, model, own_clips, "cancelled"),
        lambda: get(store, replace(model, recipe=limited), own_clips, "cancelled"),
        lambda: get(store, replace(model, recipe=tokens), own_clips),
    ]
    for count, entry in enumerate(entries, start=1):
        entry()
        assert len(list(store.folder.iterdir())) == count
    before = get(store, model, own_clips)
    shutil.copy(own_clips[1].path, own_clips[0].path)  # the same name with another content
    after = get(store, model, own_clips)
    assert len(list(store.folder.iterdir())) == len(entries) + 1
    np.testing.assert_array_equal(after[0], after[1])
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(get(store, model, own_clips, "far")[0], embed(model, own_clips, "far")[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-7]),
        lambda file: file.write_bytes(b"\xff" * 200),
        lambda file: save_file({"other": np.zeros(3, np.float32)}, file),
    ],
    ids=["empty", "truncated", "noise", "other content"],
)
def test_a_damaged_entry_is_computed_again_and_mended(
    model: TrainedEmbedder,
    clips: list[Clip],
    tmp_path: Path,
    damage: Callable[[Path], object],
    forbidden: Callable[[], None],
) -> None:
    store = EmbeddingStore(tmp_path)
    first = get(store, model, clips)
    (file,) = tmp_path.iterdir()
    damage(file)
    np.testing.assert_array_equal(get(store, model, clips), first)
    np.testing.assert_array_equal(load_file(file)["features"][:, 0], first)
    forbidden()
    np.testing.assert_array_equal(get(store, model, clips), first)


def test_nothing_is_stored_of_what_was_not_finished(
    model: TrainedEmbedder, own_clips: list[Clip], tmp_path: Path
) -> None:
    own_clips[2].path.write_bytes(own_clips[2].path.read_bytes()[:1_000])
    store = EmbeddingStore(tmp_path / "store")
    with pytest.raises(InputError, match=own_clips[2].name):
        get(store, model, own_clips)
    assert not list(tmp_path.glob("store/*"))


def test_a_folder_that_cannot_be_written_is_an_error(
    model: TrainedEmbedder, clips: list[Clip], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NearfarError, match="cannot write the embeddings"):
        get(EmbeddingStore(tmp_path / "file"), model, clips)
