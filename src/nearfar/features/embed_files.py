"""Embeddings from a plain encoder, without any training: CLS or the mean of the patch tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from nearfar.data.audio import read_waveform, zero_pad
from nearfar.data.clips import Channel
from nearfar.data.prefetch import prefetched
from nearfar.encoders import load_encoder
from nearfar.errors import InputError, NearfarError
from nearfar.files import whole_file
from nearfar.frontends.kaldi import FRAME_SAMPLES, SAMPLE_RATE_HZ, Fbank
from nearfar.models.embedder import longest_seconds

POOLINGS = ("cls", "mean")


def embed_files(
    files: Sequence[Path],
    encoder: str,
    out: Path,
    *,
    channel: str = "near",
    pooling: str = "mean",
    clip_seconds: float | None = None,
    near: int = 0,
    far: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Embed recordings and write the embeddings.

    Args:
        files: recordings; one channel suffices for ``near``.
        encoder: as :func:`nearfar.load_encoder` takes it.
        out: ``.npy`` gets the (files, D) float32 array, ``.safetensors`` the same as ``embeddings``, with the
            file names, one a line, under ``files`` in its metadata.
        channel: ``near`` or ``far``.
        pooling: ``cls``, or ``mean`` over the patch tokens.
        clip_seconds: zero-pad every clip to this length; None keeps each clip's own.
        near: the files' channel, from 0, that is the near microphone.
        far: the one that is the far microphone.
        progress: called with finished and all files.

    Returns:
        the shape (files, D).

    Raises:
        InputError: if an argument, a recording or the encoder cannot be used.
    """
    _require_choices(channel, pooling, out)
    if not files:
        raise InputError("FILES", found="none", expected="one recording or more", remedy="Name them")
    model, fbank = load_encoder(encoder).eval(), Fbank()
    longest = longest_seconds(model.config)
    _require_length(clip_seconds, longest)
    load = partial(
        _waveform,
        channel="near" if channel == "near" else "far",
        clip_seconds=clip_seconds,
        longest=longest,
        near=near,
        far=far,
    )
    rows = []
    for waveform in prefetched(load, files, threads=1, ahead=4):
        with torch.inference_mode():
            tokens = model(fbank(torch.from_numpy(waveform)[None]))[0]
        rows.append((tokens[0] if pooling == "cls" else tokens[1:].mean(dim=0)).numpy())
        if progress is not None:
            progress(len(rows), len(files))
    embeddings: NDArray[np.float32] = np.stack(rows)
    _write(out, embeddings, {"files": "\n".join(map(str, files)), "pooling": pooling})
    return embeddings.shape[0], embeddings.shape[1]


def _require_length(clip_seconds: float | None, longest: float) -> None:
    if clip_seconds is not None and not 0 < clip_seconds <= longest:
        raise InputError(
            "--seconds",
            found=f"{clip_seconds:g}",
            expected=f"more than 0 and at most {longest:g}, where the encoder's table of positions ends",
            remedy="Choose another length, or leave it out",
        )


def _write(out: Path, embeddings: NDArray[np.float32], metadata: dict[str, str]) -> None:
    try:
        with whole_file(out) as partial_file:
            if out.suffix == ".npy":
                np.save(partial_file, embeddings)
            else:
                save_file({"embeddings": embeddings}, partial_file, metadata)
    except (OSError, SafetensorError) as error:
        raise NearfarError(f"{out}: cannot write it ({error}). Free some space or choose another file.") from None


def _require_choices(channel: str, pooling: str, out: Path) -> None:
    if channel not in get_args(Channel):
        raise InputError("--channel", found=channel, expected="near or far", remedy="Choose one")
    if pooling not in POOLINGS:
        raise InputError("--pooling", found=pooling, expected="cls or mean", remedy="Choose one")
    if out.suffix not in {".npy", ".safetensors"}:
        raise InputError(
            out, found=f"the ending {out.suffix!r}", expected=".npy or .safetensors", remedy="Rename it"
        )


def _waveform(
    path: Path, *, channel: Channel, clip_seconds: float | None, longest: float, near: int, far: int
) -> NDArray[np.float32]:
    """(samples,) of one channel, padded to ``clip_seconds``, or else at least to one frame."""
    waveform = read_waveform(path, (channel,), near=near, far=far)[0]
    seconds = len(waveform) / SAMPLE_RATE_HZ
    if seconds > (limit := clip_seconds or longest):
        raise InputError(
            path,
            found=f"a clip of {seconds:g} s",
            expected=f"at most {limit:g} s",
            remedy="Cut it into shorter clips" if clip_seconds is None else "Give more --seconds, or cut the clip",
        )
    samples = max(round((clip_seconds or seconds) * SAMPLE_RATE_HZ), FRAME_SAMPLES)
    return zero_pad(waveform, samples, path)
