"""Embeddings of recordings, streamed through the network and kept on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from nearfar.config import Audio
from nearfar.data.audio import read_waveform, zero_pad
from nearfar.data.clips import Channel, Clip
from nearfar.data.fingerprint import clips_key
from nearfar.data.prefetch import prefetched
from nearfar.errors import NearfarError
from nearfar.models.network import TrainedModel

Advance = Callable[[int], None]
"""Called with the number of clips just finished."""


def embed_clips(
    model: TrainedModel,
    clips: Sequence[Clip],
    channel: Channel,
    *,
    batch_size: int,
    device: torch.device,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """Embed one channel of every clip, reading ahead in the background.

    Args:
        model: moved to ``device``.
        clips: recordings not longer than the model's clip length.
        channel: near or far.
        batch_size: clips per forward pass; memory grows with it, not with the number of clips.
        device: where the network runs.
        advance: progress.

    Returns:
        (clips, embedding_dim) float32, not normalised in length.

    Raises:
        InputError: if a recording cannot be used.
    """
    seconds = model.recipe.audio.clip_seconds
    assert not isinstance(seconds, str), "a trained model's recipe is resolved"
    padded = round(seconds * model.recipe.audio.sample_rate_hz)
    embedder = model.embedder.to(device)
    out: list[NDArray[np.float32]] = []
    load = _loader(channel, model.recipe.audio, padded)
    for waveform, samples in prefetched(load, _batched(clips, batch_size), threads=1, ahead=2):
        with torch.inference_mode():
            out.append(embedder(waveform.to(device), samples.to(device)).float().cpu().numpy())
        if advance is not None:
            advance(len(samples))
    return np.concatenate(out) if out else np.empty((0, model.recipe.head.embedding_dim), np.float32)


def _batched(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    return (clips[begin : begin + size] for begin in range(0, len(clips), size))


def _loader(channel: Channel, audio: Audio, padded: int) -> Callable[[Sequence[Clip]], tuple[Tensor, Tensor]]:
    def load(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        numbers = {"near": audio.near_channel, "far": audio.far_channel}
        waveforms = [read_waveform(clip.path, (channel,), **numbers)[0] for clip in clips]
        rows = [zero_pad(waveform, padded, clip.path) for waveform, clip in zip(waveforms, clips, strict=True)]
        return torch.from_numpy(np.stack(rows)), torch.tensor([len(waveform) for waveform in waveforms])

    return load


class EmbeddingStore:
    """A folder of embeddings, one file per clip list and channel, named by what they depend on.

    The name is a hash of the recordings' content, the model's weights, its clip length and the channel, so a
    second system on the same model and recordings reads what the first one computed, and nothing stale is ever
    read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self,
        model: TrainedModel,
        clips: Sequence[Clip],
        channel: Channel,
        *,
        batch_size: int,
        device: torch.device,
        advance: Advance | None = None,
    ) -> NDArray[np.float32]:
        """:func:`embed_clips`, from the store where it is there, else computed and stored.

        Raises:
            InputError: if a recording cannot be used.
            NearfarError: if the embeddings cannot be written.
        """
        path = self.folder / f"{self._key(model, clips, channel)}.safetensors"
        if path.is_file():
            try:
                embeddings: NDArray[np.float32] = load_file(path)["embeddings"]
            except (SafetensorError, KeyError, OSError):
                pass  # a damaged file is computed again
            else:
                if advance is not None:
                    advance(len(clips))
                return embeddings
        embeddings = embed_clips(model, clips, channel, batch_size=batch_size, device=device, advance=advance)
        self._write(path, embeddings)
        return embeddings

    @staticmethod
    def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
        partial = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"embeddings": embeddings}, partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise NearfarError(
                f"{path}: cannot write the embeddings ({error}). Free some space and run the same command again; "
                "what was written is kept."
            ) from None

    @staticmethod
    def _key(model: TrainedModel, clips: Sequence[Clip], channel: Channel) -> str:
        audio = model.recipe.audio
        number = audio.near_channel if channel == "near" else audio.far_channel
        parts = (clips_key(clips), model.weights_hash, repr(audio.clip_seconds), channel, str(number))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
