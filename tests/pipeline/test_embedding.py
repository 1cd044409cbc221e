"""Embeddings of files from a plain encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors import safe_open

from nearfar.encoders import ENCODERS, load_encoder, save_encoder
from nearfar.encoders.eat import EATConfig, build_encoder
from nearfar.errors import InputError
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.pipeline.embedding import embed_files
from nearfar.pooling import POOLINGS

CONFIG = EATConfig(embed_dim=32, depth=2, num_heads=2, max_length=16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(build_encoder(CONFIG, seed=8), folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three stereo recordings of different lengths."""
    folder = tmp_path_factory.mktemp("sounds")
    paths = []
    for number, samples in enumerate((16_000, 9_999, 24_000)):
        paths.append(folder / f"{number}.wav")
        noise = 0.1 * np.random.default_rng(number).standard_normal((samples, 2))
        sf.write(paths[-1], noise, 16_000, subtype="PCM_16")
    return paths


def expected(encoder: str, file: Path, column: int = 0, samples: int | None = None) -> torch.Tensor:
    """(1 + tokens, D) of one file, zero-padded to ``samples``."""
    waveform = torch.from_numpy(sf.read(file, dtype="float32", always_2d=True)[0][:, column].copy())
    if samples is not None:
        waveform = torch.cat([waveform, torch.zeros(samples - len(waveform))])
    with torch.no_grad():
        return load_encoder(encoder)(KaldiFbank()(waveform[None]))[0]


def embed(files: list[Path], encoder: str, out: Path, **options: Any) -> np.ndarray:
    shape = embed_files(files, encoder, out, **options)
    embeddings: np.ndarray = np.load(out)
    assert embeddings.shape == shape
    assert embeddings.dtype == np.float32
    return embeddings


@torch.no_grad()
@pytest.mark.parametrize("family", ["beats", "dasheng"])
def test_other_families_have_their_own_front_end(family: str, files: list[Path], tmp_path: Path) -> None:
    found = embed(files[:1], "random:tiny:0", tmp_path / "out.npy", family=family)
    entry = ENCODERS[family]
    waveform = torch.from_numpy(sf.read(files[0], dtype="float32", always_2d=True)[0][:, 0].copy())
    (tokens,) = entry.load("random:tiny:0", None).encode(entry.frontend(*entry.fbank)(waveform[None]))
    torch.testing.assert_close(torch.from_numpy(found[0]), tokens.patches[0].mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channel", "column"), [("near", 0), ("far", 1)])
def test_the_mean_is_over_the_patch_tokens_of_each_files_own_length(
    channel: str, column: int, files: list[Path], encoder: str, tmp_path: Path
) -> None:
    out = embed(files, encoder, tmp_path / "out.npy", channel=channel)
    for row, file in zip(out, files, strict=True):
        tokens = expected(encoder, file, column)
        np.testing.assert_allclose(row, tokens[1:].mean(dim=0).numpy(), atol=1e-5)
        assert not np.allclose(row, tokens.mean(dim=0).numpy(), atol=1e-4), "CLS is left out"


def test_cls_is_the_first_token(files: list[Path], encoder: str, tmp_path: Path) -> None:
    out = embed(files, encoder, tmp_path / "out.npy", pooling="cls")
    for row, file in zip(out, files, strict=True):
        np.testing.assert_allclose(row, expected(encoder, file)[0].numpy(), atol=1e-5)


def test_clips_are_padded_to_the_length_that_is_asked_for(files: list[Path], encoder: str, tmp_path: Path) -> None:
    out = embed(files, encoder, tmp_path / "out.npy", clip_seconds=1.75)
    for row, file in zip(out, files, strict=True):
        tokens = expected(encoder, file, samples=28_000)
        np.testing.assert_allclose(row, tokens[1:].mean(dim=0).numpy(), atol=1e-5)


def test_safetensors_hold_the_file_names_too(files: list[Path], encoder: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "out.safetensors"
    assert embed_files(files, encoder, out) == (3, 32)
    with safe_open(out, framework="numpy") as stored:
        assert list(stored.keys()) == ["embeddings"]
        assert stored.metadata() == {"files": "\n".join(map(str, files)), "pooling": "mean"}
        np.testing.assert_array_equal(stored.get_tensor("embeddings"), embed(files, encoder, tmp_path / "out.npy"))


@pytest.mark.parametrize("pooling", ["mean-std", "rdp"])
def test_other_poolings_are_those_of_their_table(
    pooling: str, files: list[Path], encoder: str, tmp_path: Path
) -> None:
    out = embed(files, encoder, tmp_path / "out.npy", pooling=pooling)
    entry = POOLINGS[pooling]
    for row, file in zip(out, files, strict=True):
        pooled = entry.pool(expected(encoder, file)[None, 1:], entry.settings())
        np.testing.assert_allclose(row, pooled[0].numpy(), atol=1e-5)


def test_other_channels_of_a_file_are_near_and_far(encoder: str, tmp_path: Path) -> None:
    file = tmp_path / "three.wav"
    sf.write(file, 0.1 * np.random.default_rng(5).standard_normal((16_000, 3)), 16_000)
    out = embed([file], encoder, tmp_path / "out.npy", channel="far", near=0, far=2)
    np.testing.assert_allclose(out[0], expected(encoder, file, 2)[1:].mean(dim=0).numpy(), atol=1e-5)


def test_a_mono_file_does_for_near_alone(encoder: str, tmp_path: Path) -> None:
    mono = tmp_path / "mono.wav"
    sf.write(mono, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    out = embed([mono], encoder, tmp_path / "out.npy")
    np.testing.assert_allclose(out[0], expected(encoder, mono)[1:].mean(dim=0).numpy(), atol=1e-5)
    with pytest.raises(InputError, match="mono"):
        embed_files([mono], encoder, tmp_path / "far.npy", channel="far")


@pytest.mark.parametrize("options", [{}, {"clip_seconds": 0.001}])
def test_a_click_shorter_than_a_frame_is_padded_to_one(
    options: dict[str, float], encoder: str, tmp_path: Path
) -> None:
    click = tmp_path / "click.wav"
    sf.write(click, np.linspace(-0.5, 0.5, 16), 16_000)
    out = embed([click], encoder, tmp_path / "out.npy", **options)
    np.testing.assert_allclose(out[0], expected(encoder, click, samples=400)[1:].mean(dim=0).numpy(), atol=1e-5)


def test_progress_is_called_file_by_file(files: list[Path], encoder: str, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    embed_files(files, encoder, tmp_path / "out.npy", progress=lambda _, done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": "left"}, "channel: found 'left'; expected 'near' or 'far'"),
        ({"pooling": "maen"}, r"pooling: found 'maen'; expected 'mean', .* or 'cls', did you mean 'mean'\?"),
        ({"pooling": "asp"}, "pooling: found 'asp'; expected 'mean', 'mean-std', 'rdp' or 'cls'"),
        ({"family": "bats"}, r"encoder family: found 'bats'; expected 'eat', .*, did you mean 'beats'\?"),
        ({"clip_seconds": 0.0}, "clip_seconds: found 0; expected more than 0"),
        ({"clip_seconds": -1.0}, "clip_seconds: found -1; expected more than 0"),
        ({"clip_seconds": 2.6}, r"clip_seconds: found 2\.6; expected more than 0 and at most 2\.575"),
        (
            {"clip_seconds": 1.2},
            r"2\.wav: found a clip of 1\.5 s; expected at most 1\.2 s\. Set a longer clip_seconds",
        ),
    ],
)
def test_options_that_cannot_be_are_errors_and_nothing_is_written(
    options: dict[str, Any], message: str, files: list[Path], encoder: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        embed_files(files, encoder, tmp_path / "out.npy", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["out.csv", "out"])
def test_another_ending_is_an_error(name: str, files: list[Path], encoder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected \.npy or \.safetensors"):
        embed_files(files, encoder, tmp_path / name)


def test_no_files_are_an_error(encoder: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^files: found none"):
        embed_files([], encoder, tmp_path / "out.npy")


def test_a_recording_beyond_the_encoders_positions_is_an_error(encoder: str, tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(41_360)
    sf.write(tmp_path / "fits.wav", noise[:41_200], 16_000)  # 256 frames, 16 columns
    sf.write(tmp_path / "long.wav", noise, 16_000)
    embed_files([tmp_path / "fits.wav"], encoder, tmp_path / "out.npy")
    with pytest.raises(InputError, match=r"long\.wav: found a clip of 2\.585 s; expected at most 2\.575 s"):
        embed_files([tmp_path / "long.wav"], encoder, tmp_path / "out.npy")
