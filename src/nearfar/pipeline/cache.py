"""Features on disk, named by everything that they depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from nearfar.config.validation import digest
from nearfar.data.clips import Clip
from nearfar.data.fingerprint import clips_key
from nearfar.errors import NearfarError
from nearfar.executors import Executor
from nearfar.pipeline.extraction import Advance, extract
from nearfar.pipeline.extractor import Extractor
from nearfar.pipeline.windows import Recording
from nearfar.progress import Progress, silent
from nearfar.settings import Settings
from nearfar.tensorfiles import read_tensors, write_tensors
from nearfar.views import combined_features

COMPUTATION = 3
"""Increased when the same recordings and weights give other features, so that old ones are not read."""

CLIPS = 128
"""About so many clips are in one file: bounds memory, and the loss when the program is killed."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """Features of clips that are wanted: of these views of waveforms, and in these pieces."""

    extractor: Extractor
    clips: Sequence[Clip]
    views: Sequence[str]
    pieces: Sequence[Settings]

    @classmethod
    def of_recipe(cls, extractor: Extractor, clips: Sequence[Clip]) -> Request:
        """What the extractor's recipe scores."""
        pieces = extractor.source.pieces(extractor.settings, extractor.parts.depth)
        return cls(extractor, clips, extractor.recipe.waveform_views, pieces)


class FeatureCache:
    """A folder of features: one file per piece of features, view and about 128 clips.

    A file's name is a hash of the recordings' content, the weights, the view, the clip length and the settings of
    the features, so a second system on the same model and recordings reads what the first computed, and nothing
    stale is ever read. Features of several layers or lags are stored as the smallest pieces that they are made of.

    Args:
        folder: where the files are; None stores nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._recordings: dict[tuple[Path, ...], str] = {}

    def get(
        self, extractor: Extractor, clips: Sequence[Clip], advance: Advance | None = None
    ) -> dict[str, Tensor]:
        """Features (clips, parts, dim) float32 of every scored view, computed and stored where they are missing.

        Raises:
            InputError: if a recording cannot be used.
            NearfarError: if the features cannot be written.
        """
        recipe, source, settings = extractor.recipe, extractor.source, extractor.settings
        views = recipe.waveform_views
        if self.folder is None or not source.cached:
            recordings = [Recording.of_clip(clip) for clip in clips]
            found = extract(extractor, recordings, advance=advance).features
            made = {view: found[view][0] for view in views}
        else:
            pieces = Request.of_recipe(extractor, clips).pieces
            self.fill(extractor, clips, views, pieces, advance)
            made = {
                view: source.assemble(settings, [self._read(extractor, clips, view, piece) for piece in pieces])
                for view in views
            }
        return combined_features(made, recipe.scoring.views, recipe.view_settings())

    def fill(
        self,
        extractor: Extractor,
        clips: Sequence[Clip],
        views: Sequence[str],
        pieces: Sequence[Settings],
        advance: Advance | None = None,
    ) -> None:
        """Compute and store the pieces that are missing, reading every file once for all views and pieces."""
        for chunk in self._chunks(extractor, clips):
            self._fill_chunk(Request(extractor, chunk, views, pieces))
            if advance is not None:
                advance(len(chunk))

    def fill_all(self, requests: Sequence[Request], executor: Executor, progress: Progress = silent) -> None:
        """As :meth:`fill` for several lists of clips, in the processes of an executor.

        Clips are computed together as :meth:`get` computes them, so features do not depend on the executor.
        """
        if self.folder is None:
            return
        chunks = [
            replace(request, clips=chunk)
            for request in requests
            if request.extractor.source.cached
            for chunk in self._chunks(request.extractor, request.clips)
        ]
        keys = executor.map(
            self._fill_chunk,
            chunks,
            task="extracting features",
            progress=progress,
            sizes=[len(chunk.clips) for chunk in chunks],
            uses_all_cores=True,
        )
        for chunk, key in zip(chunks, keys, strict=True):
            self._recordings[tuple(clip.path for clip in chunk.clips)] = key

    def _fill_chunk(self, request: Request, progress: Progress = silent) -> str:
        """Compute and store what is missing of one file per view and piece; returns the hash of the recordings."""
        extractor, chunk, views, pieces = request.extractor, request.clips, request.views, request.pieces
        keys = [(view, index) for view in views for index in range(len(pieces))]
        paths = {(view, index): self._path(extractor, chunk, view, pieces[index]) for view, index in keys}
        missing = {key for key, path in paths.items() if not _is_whole(path)}
        if not missing:
            return self._recordings_key(chunk)
        of_views = [view for view in views if any(key[0] == view for key in missing)]
        indices = sorted({index for _, index in missing})
        recordings = [Recording.of_clip(clip) for clip in chunk]
        wanted = [pieces[index] for index in indices]
        found = extract(extractor, recordings, views=of_views, wanted=wanted)
        for view in of_views:
            for index, values in zip(indices, found.features[view], strict=True):
                if (view, index) in missing:
                    _write(paths[view, index], values)
        return self._recordings_key(chunk)

    def _read(self, extractor: Extractor, clips: Sequence[Clip], view: str, piece: Settings) -> Tensor:
        paths = [self._path(extractor, chunk, view, piece) for chunk in self._chunks(extractor, clips)]
        return torch.cat([read_tensors(path)["features"] for path in paths])

    def _chunks(self, extractor: Extractor, clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
        size = extractor.recipe.scoring.batch_size
        chunk = max(1, CLIPS // size) * size
        return (clips[begin : begin + chunk] for begin in range(0, len(clips), chunk))

    def _path(self, extractor: Extractor, clips: Sequence[Clip], view: str, piece: Settings) -> Path:
        assert self.folder is not None
        tree: dict[str, Any] = {
            "computation": COMPUTATION,
            "recordings": self._recordings_key(clips),
            "weights": extractor.weights_hash,
            "view": extractor.recipe.view_identity(view),
            "source": extractor.recipe.features.source,
            "features": piece.identity(),
        }
        return self.folder / f"{digest(tree)}.safetensors"

    def _recordings_key(self, clips: Sequence[Clip]) -> str:
        which = tuple(clip.path for clip in clips)
        if which not in self._recordings:
            self._recordings[which] = clips_key(clips)
        return self._recordings[which]


def _write(path: Path, features: Tensor) -> None:
    try:
        write_tensors(path, {"features": features})
    except (OSError, SafetensorError) as error:
        raise NearfarError(
            f"{path}: cannot write the features ({error}). Free some space and run the same command again; "
            "files that were written are used again."
        ) from None


def _is_whole(path: Path) -> bool:
    """Whether a file of features exists and is not damaged, by the hash of its content."""
    try:
        return "features" in read_tensors(path)
    except (OSError, SafetensorError, ValueError):
        return False
