"""Pieces of features on disk, so that hundreds of recipes listen once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from nearfar.config import Features
from nearfar.data.clips import Clip, View
from nearfar.data.fingerprint import clips_key
from nearfar.features.cache import Advance, EmbeddingStore, embed_clips
from nearfar.features.extractors import EmbeddingFeatures, TokenFeatures
from nearfar.features.pieces import Statistics, assembled, piece_shape, pieces_of
from nearfar.features.representation import Representation

CLIPS = 128
"""About so many clips are listened to before what was heard of them is written: memory, and what a kill costs."""

BYTES = 4


@dataclass(frozen=True)
class Pass:
    """One view of all clips through one representation, for all pieces that are wanted of it."""

    representation: Representation
    view: View
    pieces: tuple[Features, ...]

    def clip_bytes(self) -> int:
        """What is stored of one clip."""
        token_dim, embedding_dim = _widths(self.representation.extractor)
        shapes = [piece_shape(piece, token_dim, embedding_dim) for piece in self.pieces]
        return BYTES * sum(parts * dim for parts, dim in shapes)


def depth_of(representation: Representation) -> int:
    """Blocks of the representation's encoder; 0 where it has none."""
    extractor = representation.extractor
    if isinstance(extractor, TokenFeatures):
        return extractor.encoder.depth
    return 0


def _widths(extractor: nn.Module) -> tuple[int, int]:
    """The sizes of a token and of an embedding; 0 where there is none."""
    if isinstance(extractor, TokenFeatures):
        return extractor.encoder.embed_dim, 0
    if isinstance(extractor, EmbeddingFeatures):
        return 0, extractor.embedder.projection.out_features
    return 0, 0


class StatisticsStore:
    """A folder of pieces, one file for each and about 128 clips, named by what they depend on.

    Memory is bounded by the pieces of those clips, whatever the number of clips.
    """

    def __init__(self, folder: Path, batch_size: int) -> None:
        self.folder, self._batch_size = folder, batch_size
        self._chunk = max(1, CLIPS // batch_size) * batch_size
        self._recordings: dict[tuple[Path, ...], str] = {}

    def listen(
        self, which: Pass, clips: Sequence[Clip], device: torch.device, advance: Advance | None = None
    ) -> None:
        """Compute and store what is not there yet, in one forward pass.

        Raises:
            InputError: if a recording cannot be used.
            NearfarError: if the pieces cannot be written.
        """
        for chunk in self._chunks(clips):
            paths = {piece: self._path(which.representation, piece, chunk, which.view) for piece in which.pieces}
            wanted = tuple(piece for piece, path in paths.items() if not _is_whole(path))
            if wanted:
                self._hear(which, wanted, chunk, device, paths)
            if advance is not None:
                advance(len(chunk))

    def _hear(
        self,
        which: Pass,
        wanted: tuple[Features, ...],
        chunk: Sequence[Clip],
        device: torch.device,
        paths: dict[Features, Path],
    ) -> None:
        token_dim, embedding_dim = _widths(which.representation.extractor)
        listening = replace(which.representation, extractor=Statistics(which.representation.extractor, wanted))
        heard = embed_clips(listening, chunk, which.view, batch_size=self._batch_size, device=device)[:, 0]
        begin = 0
        for piece in wanted:
            parts, dim = piece_shape(piece, token_dim, embedding_dim)
            numbers = heard[:, begin : begin + parts * dim].reshape(len(chunk), parts, dim)
            EmbeddingStore.write(paths[piece], np.ascontiguousarray(numbers))
            begin += parts * dim

    def get(self, representation: Representation, features: Features, clips: Sequence[Clip], view: View) -> Tensor:
        """Features, (clips, parts, dim) float32, of clips that were listened to."""
        depth = depth_of(representation)
        pieces: dict[Features, list[Tensor]] = {piece: [] for piece in pieces_of(features, depth)}
        for chunk in self._chunks(clips):
            for piece, rows in pieces.items():
                path = self._path(representation, piece, chunk, view)
                rows.append(load_file(path)["features"])
        return assembled(features, {piece: torch.cat(rows) for piece, rows in pieces.items()}, depth)

    def _chunks(self, clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
        return (clips[begin : begin + self._chunk] for begin in range(0, len(clips), self._chunk))

    def _path(self, representation: Representation, piece: Features, clips: Sequence[Clip], view: View) -> Path:
        recipe = representation.recipe.model_copy(update={"features": piece})
        which = tuple(clip.path for clip in clips)
        if which not in self._recordings:
            self._recordings[which] = clips_key(clips)
        key = EmbeddingStore.key(replace(representation, recipe=recipe), self._recordings[which], view)
        return self.folder / f"{key}.safetensors"


def _is_whole(path: Path) -> bool:
    """Whether a file of the store is there and not damaged, by its header and length."""
    try:
        with safe_open(path, "numpy") as file:
            return "features" in set(file.keys())
    except (OSError, SafetensorError):
        return False
