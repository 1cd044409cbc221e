"""Features of recordings, streamed through a representation and kept on disk by content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from nearfar.data.audio import zero_pad
from nearfar.data.clips import Clip, View
from nearfar.data.fingerprint import clips_key
from nearfar.data.prefetch import prefetched
from nearfar.errors import NearfarError
from nearfar.features.representation import Representation
from nearfar.files import whole_file
from nearfar.views import channels_of, read_views

COMPUTATION = 2
"""Rises when the same recordings and weights come to other features, so that old ones are not read."""

Features = NDArray[np.float32]
Advance = Callable[[int], None]
"""Called with the number of clips just finished."""


def embed_clips(
    representation: Representation,
    clips: Sequence[Clip],
    view: View,
    *,
    batch_size: int,
    device: torch.device,
    advance: Advance | None = None,
) -> Features:
    """Features of one view of every clip, reading ahead in the background.

    Args:
        representation: what makes features.
        clips: recordings not longer than the recipe's clip length.
        view: near, far or cancelled.
        batch_size: clips per forward pass; memory grows with it, not with the number of clips.
        device: where the network runs.
        advance: progress.

    Returns:
        (clips, parts, dim) float32, not normalised in length.

    Raises:
        InputError: if a recording cannot be used.
    """
    representation.extractor.to(device)
    out: list[Features] = []
    load = _loader(view, representation)
    for waveform, samples in prefetched(load, _batched(clips, batch_size), threads=1, ahead=2):
        out.append(representation(waveform.to(device), samples.to(device)).cpu().numpy())
        if advance is not None:
            advance(len(samples))
    return np.concatenate(out) if out else np.empty((0, 0, 0), np.float32)


def _batched(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    return (clips[begin : begin + size] for begin in range(0, len(clips), size))


def _loader(view: View, representation: Representation) -> Callable[[Sequence[Clip]], tuple[Tensor, Tensor]]:
    recipe = representation.recipe

    def load(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        waveforms = [read_views(clip.path, (view,), recipe.audio, recipe.cancellation)[0] for clip in clips]
        padded = representation.padded_samples
        rows = [zero_pad(waveform, padded, clip.path) for waveform, clip in zip(waveforms, clips, strict=True)]
        return torch.from_numpy(np.stack(rows)), torch.tensor([len(waveform) for waveform in waveforms])

    return load


class EmbeddingStore:
    """A folder of features, one file per clip list and view, named by what they depend on.

    The name is a hash of the recordings' content, the model's weights, its clip length, the view and how features
    are made, so a second system on the same model and recordings reads what the first one computed, and nothing
    stale is ever read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(
        self,
        representation: Representation,
        clips: Sequence[Clip],
        view: View,
        *,
        batch_size: int,
        device: torch.device,
        advance: Advance | None = None,
    ) -> Features:
        """:func:`embed_clips`, from the store where it is there, else computed and stored.

        Raises:
            InputError: if a recording cannot be used.
            NearfarError: if the features cannot be written.
        """
        path = self.folder / f"{self.key(representation, clips_key(clips), view)}.safetensors"
        if path.is_file():
            try:
                features: Features = load_file(path)["features"]
            except (SafetensorError, KeyError, OSError):
                pass  # a damaged file is computed again
            else:
                if advance is not None:
                    advance(len(clips))
                return features
        features = embed_clips(representation, clips, view, batch_size=batch_size, device=device, advance=advance)
        self.write(path, features)
        return features

    @staticmethod
    def write(path: Path, features: Features) -> None:
        """Write features as a file of the store, whole or not at all.

        Raises:
            NearfarError: if they cannot be written.
        """
        try:
            with whole_file(path) as partial:
                save_file({"features": features}, partial)
        except (OSError, SafetensorError) as error:
            raise NearfarError(
                f"{path}: cannot write the embeddings ({error}). Free some space and run the same command again; "
                "what was written is kept."
            ) from None

    @staticmethod
    def key(representation: Representation, recordings: str, view: View) -> str:
        """What the features of a view depend on, in 32 hexadecimal digits; ``recordings`` is the clips' key."""
        recipe = representation.recipe
        audio = recipe.audio
        parts = [str(COMPUTATION), recordings, representation.weights_hash, repr(audio.clip_seconds), view]
        parts += [
            str(audio.near_channel if channel == "near" else audio.far_channel) for channel in channels_of([view])
        ]
        parts.append(recipe.features.model_dump_json())
        if view == "cancelled":
            parts.append(recipe.cancellation.model_dump_json())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
