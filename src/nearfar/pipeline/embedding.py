"""Embeddings of files by a plain encoder, without any training, written to one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from nearfar.data.audio import read_waveform, zero_pad
from nearfar.data.clips import Channel
from nearfar.encoders import ENCODERS, Encoder
from nearfar.errors import InputError, NearfarError, one_of, printable
from nearfar.executors import Executor, default_executor
from nearfar.features import EncoderParts, WindowBatch
from nearfar.features.sources import TOKENS, TokenSettings
from nearfar.files import as_text, whole_file
from nearfar.frontends.kaldi import FRAME_SAMPLES, SAMPLE_RATE_HZ
from nearfar.pipeline.extraction import default_device
from nearfar.pooling import POOLINGS
from nearfar.progress import Progress, advancing, silent
from nearfar.threads import one_thread, parallel_map


def embed_files(
    files: Sequence[Path],
    encoder: str,
    out: Path,
    *,
    family: str = "eat",
    channel: str = "near",
    pooling: str = "mean",
    clip_seconds: float | None = None,
    near: int = 0,
    far: int = 1,
    progress: Progress = silent,
    executor: Executor | None = None,
) -> tuple[int, int]:
    """Embed recordings and write the embeddings.

    Args:
        files: recordings; one channel suffices for ``near``.
        encoder: as the family's loader takes it; see :func:`nearfar.load_encoder`.
        out: ``.npy`` gets the (files, D) float32 array, ``.safetensors`` the same as ``embeddings``, with the
            file names, one per line and with control characters as ``\\x0a``, under ``files`` in its metadata.
        family: of encoders.
        channel: ``near`` or ``far``.
        pooling: a name in :data:`nearfar.pooling.POOLINGS` that needs no training, such as ``cls`` or ``mean``.
        clip_seconds: zero-pad every clip to this length; None keeps each clip's own.
        near, far: the files' channels, from 0, that are the near and the far microphone.
        progress: called during the work.
        executor: where files are embedded, each a task; by default this process, or all those of a launch.

    Returns:
        the shape (files, D).

    Raises:
        InputError: if an argument, a recording or the encoder cannot be used.
    """
    _require_choices(channel, pooling, out)
    if not files:
        raise InputError("files", found="none", expected="one recording or more", remedy="Name them")
    _loaded.cache_clear()  # the weights may have changed since
    work = _Embedding(encoder, family, channel, pooling, clip_seconds, near, far)
    longest = work.longest_seconds
    if clip_seconds is not None and not (clip_seconds > 0 and (longest is None or clip_seconds <= longest)):
        raise InputError(
            "clip_seconds",
            found=f"{clip_seconds:g}",
            expected=f"more than 0 and at most {longest:g}, where the encoder's table of positions ends",
            remedy="Choose another length, or omit it",
        )
    where = executor or default_executor()
    if where.is_local:
        advance = advancing(progress, "embedding files", len(files))
        rows = []
        for row in parallel_map(work.embed, files):
            rows.append(row)
            advance(1)
    else:
        rows = where.map(work.embed, files, task="embedding files", progress=progress)
    embeddings: NDArray[np.float32] = np.stack(rows)
    if where.is_main:
        names = "\n".join(printable(as_text(file)) for file in files)
        _write(out, embeddings, {"files": names, "pooling": pooling})
    return embeddings.shape[0], embeddings.shape[1]


@dataclass(frozen=True)
class _Embedding:
    """What is the same for all files of :func:`embed_files`."""

    encoder: str
    family: str
    channel: str
    pooling: str
    clip_seconds: float | None
    near: int
    far: int

    @property
    def longest_seconds(self) -> float | None:
        """The longest clip that the encoder takes; None without a limit."""
        samples = _loaded(self.encoder, self.family).longest_samples
        return None if samples is None else samples / SAMPLE_RATE_HZ

    def embed(self, path: Path, progress: Progress = silent) -> NDArray[np.float32]:
        """(D,) float32 of one file."""
        model, device = _loaded(self.encoder, self.family), default_device()
        family = ENCODERS[self.family]
        frontend = family.frontend(*family.fbank)
        parts = EncoderParts(frontend.to(device), model.to(device))
        read: Channel = "near" if self.channel == "near" else "far"
        waveform = read_waveform(path, (read,), near=self.near, far=self.far)[0]
        padded = torch.from_numpy(_padded(waveform, path, self.clip_seconds, self.longest_seconds))
        batch = WindowBatch(padded[None].to(device), torch.tensor([len(waveform)], device=device))
        with torch.inference_mode(), one_thread():
            (features,) = TOKENS.extract(batch, parts, [TokenSettings(pooling=self.pooling)])
        row: NDArray[np.float32] = features.flatten().cpu().numpy()
        return row


@lru_cache(maxsize=1)
def _loaded(encoder: str, family: str) -> Encoder:
    """The encoder of this process."""
    model: Encoder = ENCODERS[family].load(encoder, None).eval().requires_grad_(False)
    return model


def _padded(
    waveform: NDArray[np.float32], path: Path, clip_seconds: float | None, longest: float | None
) -> NDArray[np.float32]:
    """(samples,) padded to ``clip_seconds``, or else at least to one frame."""
    seconds = len(waveform) / SAMPLE_RATE_HZ
    limit = clip_seconds or longest
    if limit is not None and seconds > limit:
        raise InputError(
            path,
            found=f"a clip of {seconds:g} s",
            expected=f"at most {limit:g} s",
            remedy="Cut it into shorter clips"
            if clip_seconds is None
            else "Set a longer clip_seconds, or cut the clip",
        )
    return zero_pad(waveform, max(round((clip_seconds or seconds) * SAMPLE_RATE_HZ), FRAME_SAMPLES), path)


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
        raise InputError(
            "channel", found=repr(channel), expected=one_of(get_args(Channel), channel), remedy="Choose one"
        )
    untrained = [name for name, entry in POOLINGS.items() if not entry.trained]
    if pooling not in untrained:
        raise InputError("pooling", found=repr(pooling), expected=one_of(untrained, pooling), remedy="Choose one")
    if out.suffix not in {".npy", ".safetensors"}:
        raise InputError(
            out, found=f"the ending {out.suffix!r}", expected=".npy or .safetensors", remedy="Rename it"
        )
