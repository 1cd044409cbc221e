"""Features on disk, named by everything that they depend on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from nearfar.config.validation import digest
from nearfar.data.clips import Clip
from nearfar.data.fingerprint import clips_key
from nearfar.data.signals import SignalFacts, facts_from_arrays, facts_to_arrays
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

FACTS = 1
"""The same for facts of signals."""

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
        with_facts: measure the signals of recordings as well, where they are read for features.
        is_shared: whether other processes compute features as well, whose facts :meth:`read_facts` reads.

    Attributes:
        facts: of the signals of recordings whose features were asked for, by path.
    """

    def __init__(self, folder: Path | None, *, with_facts: bool = False, is_shared: bool = False) -> None:
        self.folder = folder
        self._with_facts, self._is_shared = with_facts, is_shared
        self.facts: dict[Path, SignalFacts] = {}
        self._recordings: dict[tuple[Path, ...], str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which needs no facts and stores those that it measures."""
        return self.__dict__ | {"facts": {}, "_is_shared": True}

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
            extracted = extract(extractor, recordings, with_facts=self._with_facts, advance=advance)
            if self._with_facts:
                facts = [extracted.facts[index] for index in range(len(clips))]
                self._keep_facts(clips, facts)
                if self.folder is not None and self._is_shared:
                    self._write_facts(extractor, clips, facts)
            made = {view: extracted.features[view][0] for view in views}
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
            if self._with_facts:
                self._read_facts(chunk.extractor, chunk.clips)

    def read_facts(self, extractor: Extractor, lists: Sequence[Sequence[Clip]]) -> None:
        """Read into :attr:`facts` what other processes measured, of lists of clips as :meth:`get` takes them."""
        for clips in lists:
            for chunk in self._chunks(extractor, clips) if extractor.source.cached else [clips]:
                self._read_facts(extractor, chunk)

    def _fill_chunk(self, request: Request, progress: Progress = silent) -> str:
        """Compute and store what is missing of one file per view and piece; returns the hash of the recordings."""
        extractor, chunk, views, pieces = request.extractor, request.clips, request.views, request.pieces
        keys = [(view, index) for view in views for index in range(len(pieces))]
        paths = {(view, index): self._path(extractor, chunk, view, pieces[index]) for view, index in keys}
        missing = {key for key, path in paths.items() if not _is_whole(path)}
        if missing:
            self._compute(request, paths, missing)
        if self._with_facts:
            self._read_facts(extractor, chunk)
        return self._key(chunk)

    def _compute(
        self, request: Request, paths: Mapping[tuple[str, int], Path], missing: Collection[tuple[str, int]]
    ) -> None:
        extractor, chunk, pieces = request.extractor, request.clips, request.pieces
        of_views = [view for view in request.views if any(key[0] == view for key in missing)]
        indices = sorted({index for _, index in missing})
        recordings = [Recording.of_clip(clip) for clip in chunk]
        wanted = [pieces[index] for index in indices]
        found = extract(extractor, recordings, views=of_views, wanted=wanted, with_facts=self._with_facts)
        if self._with_facts:
            self._write_facts(extractor, chunk, [found.facts[index] for index in range(len(chunk))])
        for view in of_views:
            for index, values in zip(indices, found.features[view], strict=True):
                if (view, index) in missing:
                    _write(paths[view, index], {"features": values})

    def _write_facts(self, extractor: Extractor, clips: Sequence[Clip], facts: Sequence[SignalFacts]) -> None:
        arrays = facts_to_arrays(facts)
        _write(self._facts_path(extractor, clips), {name: torch.from_numpy(each) for name, each in arrays.items()})

    def _keep_facts(self, clips: Sequence[Clip], facts: Sequence[SignalFacts]) -> None:
        self.facts |= dict(zip([clip.path for clip in clips], facts, strict=True))

    def _read_facts(self, extractor: Extractor, clips: Sequence[Clip]) -> None:
        """Facts that were stored with the features; files of earlier versions have none."""
        if all(clip.path in self.facts for clip in clips):
            return
        with suppress(OSError, SafetensorError, ValueError, KeyError):
            stored = read_tensors(self._facts_path(extractor, clips))
            self._keep_facts(clips, facts_from_arrays({name: values.numpy() for name, values in stored.items()}))

    def _facts_path(self, extractor: Extractor, clips: Sequence[Clip]) -> Path:
        assert self.folder is not None
        audio = extractor.recipe.audio
        channels = [audio.near_channel, audio.far_channel, audio.sample_rate_hz]
        tree = {"computation": FACTS, "recordings": self._key(clips), "channels": channels}
        return self.folder / f"{digest(tree)}.facts.safetensors"

    def _key(self, clips: Sequence[Clip]) -> str:
        """A hash of the content of recordings."""
        which = tuple(clip.path for clip in clips)
        if which not in self._recordings:
            self._recordings[which] = clips_key(clips)
        return self._recordings[which]

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
            "recordings": self._key(clips),
            "weights": extractor.weights_hash,
            "view": extractor.recipe.view_identity(view),
            "source": extractor.recipe.features.source,
            "features": piece.identity(),
        }
        return self.folder / f"{digest(tree)}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        write_tensors(path, tensors)
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
